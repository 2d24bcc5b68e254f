"""A tiny LLaVA on disk, samples of every kind, and a run of the analysis over them."""

import io
import json
from pathlib import Path
from typing import Any

import hub_support
import numpy as np
import parity_support
import rich.console
import transformers
from PIL import Image

from tga_jax.analysis import run

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %} w5 {{ m['content'] }} w6{% else %}"
    " {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
PHRASES = ("w20 w21", "w30", "w31", "w40", "w41")


def save_llava(folder: Path) -> Path:
    config = hub_support.llava_config("default", llm=hub_support.CONFIGS["llama"]())
    made = parity_support.randomize(transformers.LlavaForConditionalGeneration(config), seed=8)
    return with_template(hub_support.save(made, folder))


def with_template(folder: Path) -> Path:
    tokenizer = hub_support.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def sample(number: int, **fields: Any) -> dict[str, Any]:
    """Its question is of `number` words."""
    question = " ".join(f"w{7 + i}" for i in range(1 + number))
    if "image" in fields:
        question = f"<image>\n{question}"
    return {"id": f"s{number}", "conversations": [{"from": "human", "value": question}], **fields}


def rows() -> list[dict[str, Any]]:
    """Pictures with and without captions, text alone; harmful, benign and neither."""
    found = []
    for i in range(11):
        fields: dict[str, Any] = {} if i in (2, 8) else {"image": f"{i}.png"}
        if i not in (2, 4, 8):
            fields["image_caption"] = " ".join(f"w{40 + (i + j) % 9}" for j in range(2 + i % 4))
        if i != 6:
            fields["harmful"] = i % 2 == 0
        found.append(sample(i, **fields))
    found[3]["conversations"] += [{"from": "gpt", "value": "w9"}, {"from": "human", "value": "w9"}]
    return found


def write(folder: Path, samples: list[dict[str, Any]]) -> Path:
    rng = np.random.default_rng(0)
    for row in samples:
        pixels = rng.integers(0, 256, (9, 30, 3), dtype=np.uint8)
        if "image" in row:
            Image.fromarray(pixels).save(folder / row["image"])
    (folder / "rows.json").write_text(json.dumps(samples))
    return folder


def analyze(checkpoint: Path, folder: Path, target: Path, **fields: Any) -> dict[str, Any]:
    """What analysis.json then holds."""
    how = {"dtype": "float32", "batch": 3, "phrases": PHRASES, "window": 2, "image_tokens": True, **fields}
    data, images = how.pop("data", folder / "rows.json"), how.pop("images", folder)
    run.run(checkpoint, data, images, target, rich.console.Console(file=io.StringIO()), **how)
    return json.loads((target / "analysis.json").read_text())


def lines(target: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (target / "samples.jsonl").read_text().splitlines()]
