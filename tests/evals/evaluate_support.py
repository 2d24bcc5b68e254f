"""A tiny LLaVA on disk, and two benchmarks for it."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import hub_support
import numpy as np
from PIL import Image

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}w9 {{ m['content'] }} w9"
    "{% else %} w5 {{ m['content'] }} w6{% endif %}{% endfor %}"
)


def write_checkpoint(folder: Path, name: str = "llava") -> Path:
    hub_support.save(hub_support.model(name, seed=8), folder)
    tokenizer = hub_support.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def write_data(data: Path) -> None:
    rng = np.random.default_rng(0)
    (data / "toys").mkdir(parents=True)
    (data / "words").mkdir()
    for i in range(11):
        pixels = rng.integers(0, 256, (20 + i, 31, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / "toys" / f"{i}.png")


def _toys(folder: Path) -> Iterator[BenchmarkSample]:
    for i in range(11):
        yield BenchmarkSample(
            id=f"t{i}",
            question=f"<image>\nw{10 + i} " + "w11 " * (7 * i),
            images=(partial(Image.open, folder / f"{i}.png"),),
            text=f"w{10 + i} w{20 + i}" if i % 3 else None,
            groups={"kind": "even" if i % 2 == 0 else "odd"},
            harmful=i < 6,
        )


def _words(folder: Path) -> Iterator[BenchmarkSample]:
    for i in range(5):
        yield BenchmarkSample(f"w{i}", f"w{30 + i} w31", target=f"w{20 + i}", groups={"half": str(i // 3)})


TOYS = Benchmark("toys", "safety", _toys, "pictures", new_tokens=6)
WORDS = Benchmark(
    "words",
    "general",
    _words,
    "nothing",
    lambda sample, answer: {"words": min(1.0, len(set(answer.split())) / 5), "right": float(sample.target in answer)},
    new_tokens=7,
    summarize=lambda pairs: {"longest": max(len(answer.split()) for _, answer in pairs) / 7},
    export=lambda pairs, folder, _: (folder / "out.txt").write_text("\n".join(s.id + a for s, a in pairs)) and None,
)
BENCHMARKS = {"toys": TOYS, "words": WORDS}
