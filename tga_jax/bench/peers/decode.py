"""The peer of `tga bench decode`: transformers and torch, greedy, on the same hub folder.

Prints "ready", then tokens a second for each line on its input."""

import argparse
import sys
import time

import torch
import transformers

parser = argparse.ArgumentParser()
parser.add_argument("--checkpoint", required=True)
parser.add_argument("--dtype", default="float32")
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--prompt", type=int, default=32)
parser.add_argument("--new-tokens", type=int, default=128)
flags = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
model = transformers.AutoModelForCausalLM.from_pretrained(
    flags.checkpoint, dtype=getattr(torch, flags.dtype), trust_remote_code=False
)
model = model.to(device).eval()
ids = torch.randint(3, model.config.vocab_size, (flags.batch, flags.prompt), device=device)
how = {
    "do_sample": False,
    "num_beams": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    "attention_mask": torch.ones_like(ids),
}


def seconds(count: int) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(ids, min_new_tokens=count, max_new_tokens=count, **how)
    if device == "cuda":
        torch.cuda.synchronize()
    assert out.shape[1] == flags.prompt + count
    return time.perf_counter() - start


seconds(8)
print("ready", flush=True)
for _ in sys.stdin:
    prefill = seconds(1)  # taken off: the figure is of decoding alone, as ours is
    print(flags.batch * (flags.new_tokens - 1) / (seconds(flags.new_tokens) - prefill), flush=True)
