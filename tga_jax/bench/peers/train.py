"""The peer of `tga bench train`: the same step in transformers and torch, three ways.

strong: as fast as torch does it: PyTorch's scaled dot-product attention, fused AdamW, the tower cut above the layer
that is read, the caption's pass cut above the last guide layer and without graph, masked means from hooks, logits at
the labels alone, and on a GPU torch.compile.
default: as transformers does it: gradient checkpointing, all hidden states, whole caption pass, all logits.
faithful: as the released TGA code does it: beside that eager attention, and attention weights asked for.

Parameters and AdamW's moments are float32; "bfloat16" is autocast. Prints "ready" and the loss of the third step, then
the seconds of one step for each line on its input."""

import argparse
import contextlib
import json
import sys
import time

import torch
import torch.nn.functional as F
import transformers

parser = argparse.ArgumentParser()
parser.add_argument("--mode", choices=("strong", "default", "faithful"), required=True)
parser.add_argument("--shape", required=True, help="JSON, from tga_jax.bench.train.shape")
flags = parser.parse_args()
shape, mode = json.loads(flags.shape), flags.mode
llm, vision, strong = shape["llm"], shape["vision"], flags.mode == "strong"
cuda = torch.cuda.is_available()
device = "cuda" if cuda else "cpu"
torch.manual_seed(0)

attention = "eager" if mode == "faithful" else "sdpa"
config = transformers.LlavaConfig(
    vision_config=transformers.CLIPVisionConfig(
        hidden_size=vision["hidden_size"],
        intermediate_size=vision["mlp_size"],
        num_hidden_layers=vision["num_layers"],
        num_attention_heads=vision["num_heads"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
    ),
    text_config=transformers.LlamaConfig(
        vocab_size=llm["vocab_size"],
        hidden_size=llm["hidden_size"],
        intermediate_size=llm["mlp_size"],
        num_hidden_layers=llm["num_layers"],
        num_attention_heads=llm["num_heads"],
        num_key_value_heads=llm["num_kv_heads"],
        head_dim=llm["head_dim"],
        rms_norm_eps=llm["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": llm["rope_theta"]},
        tie_word_embeddings=llm["tie_embeddings"],
        use_cache=False,
    ),
    image_token_index=llm["vocab_size"] - 1,
)
with torch.device(device):
    model = transformers.LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
tower, projector, text = (
    getattr(model.model, name) for name in ("vision_tower", "multi_modal_projector", "language_model")
)
model.train()
tower.requires_grad_(False)
text.requires_grad_(shape["trains_llm"])
model.lm_head.requires_grad_(shape["trains_llm"])
if shape["dtype"] == "bfloat16":  # what is frozen needs no float32
    tower.bfloat16()
    if not shape["trains_llm"]:
        text.bfloat16()
        model.lm_head.bfloat16()
blocks, guide = llm["num_layers"], shape["guide_layers"]

captioned = text
if strong:
    keep = shape["feature_layer"] + vision["num_layers"] + 1 if shape["feature_layer"] < 0 else shape["feature_layer"]
    encoder = getattr(tower, "vision_model", tower).encoder
    encoder.layers = encoder.layers[:keep]
    cut = transformers.LlamaConfig(**{**text.config.to_dict(), "num_hidden_layers": max(guide)})
    with torch.device("meta"):
        captioned = transformers.LlamaModel._from_config(cut, attn_implementation=attention)
    captioned.embed_tokens, captioned.norm, captioned.rotary_emb = text.embed_tokens, text.norm, text.rotary_emb
    captioned.layers = text.layers[: max(guide)]
if mode != "strong" or shape["remat"]:
    text.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

b, t, c = shape["batch"], shape["length"], shape["caption"]
q = (vision["image_size"] // vision["patch_size"]) ** 2
part = (t - q) // 4
answer = min(part, shape["labels"] or part)
tokens = torch.randint(3, llm["vocab_size"] - 1, (b, t), device=device)
caption = torch.randint(3, llm["vocab_size"] - 1, (b, c), device=device)
pixels = torch.randn(b, 3, vision["image_size"], vision["image_size"], device=device)
image = torch.zeros(b, t, dtype=torch.bool, device=device)
image[:, 1 + part : 1 + part + q] = True
retrieved = torch.zeros_like(image)
retrieved[:, 1 : 1 + part] = True
words = torch.ones(b, c, dtype=torch.bool, device=device)
words[:, 0] = False


def means(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, T, D], bool [B, T] -> float32 [B, D]."""
    weights = mask.float() / mask.sum(1, keepdim=True)
    return torch.einsum("bt,btd->bd", weights, states.float())


@contextlib.contextmanager
def pooled(decoder, *masks):
    """Masked means of the guide layers as they pass, block by block: a list of [B, D], as many as masks a layer."""
    found = []
    hooks = [
        decoder.layers[j - 1].register_forward_hook(
            lambda _, __, out: found.append([means(out[0] if isinstance(out, tuple) else out, m) for m in masks])
        )
        for j in guide
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def decode(decoder, embeds: torch.Tensor, *masks):
    """(states after the final norm, masked means of the guide layers)."""
    if strong:
        with pooled(decoder, *masks) as found:
            out = decoder(inputs_embeds=embeds)
        return out.last_hidden_state, found
    asked = {"output_hidden_states": True, "output_attentions": mode == "faithful"}
    out = decoder(inputs_embeds=embeds, **asked)
    return out.last_hidden_state, [[means(out.hidden_states[j], m) for m in masks] for j in guide]


def loss_of() -> torch.Tensor:
    with torch.no_grad():
        seen = tower(pixels.to(next(tower.parameters()).dtype), output_hidden_states=not strong)
        features = seen.last_hidden_state if strong else seen.hidden_states[shape["feature_layer"]]
        captions = decode(captioned, text.embed_tokens(caption), words)[1]
    embeds = text.embed_tokens(tokens)
    placed = projector(features[:, 1:])
    embeds = embeds.masked_scatter(image[..., None], placed.to(embeds.dtype))
    states, here = decode(text, embeds, image, retrieved)
    if strong:
        states = states[:, t - answer - 1 : t - 1]
    logits = model.lm_head(states).float()
    logits = logits if strong else logits[:, t - answer - 1 : t - 1]
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, t - answer :].flatten())
    for (mine, other), (wanted,) in zip(here, captions, strict=True):
        near, far = F.cosine_similarity(mine, wanted), F.cosine_similarity(other, wanted)
        loss = loss + (0.25 * torch.exp(-near).mean() + 0.1 * torch.exp(far - near).mean()) / len(guide)
    return loss


trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
compute = torch.compile(loss_of) if strong and cuda else loss_of


def run() -> tuple[float, float]:
    """(seconds, loss) of one more step."""
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16, enabled=shape["dtype"] == "bfloat16"):
        loss = compute()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, loss.item()


for _ in range(3):
    loss = run()[1]
print("ready, loss", loss, flush=True)
for _ in sys.stdin:
    print(run()[0], flush=True)
