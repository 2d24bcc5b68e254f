"""`tga bench data`: pictures a second of one core, and the memory of a long file."""

import dataclasses
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
from PIL import Image

from tga_jax.bench import figures
from tga_jax.data import images
from tga_jax.data.llava_source import LlavaRecords, LlavaSource
from tga_jax.data.pipeline import Batches, endless
from tga_jax.data.sources import DataConfig, Pictures
from tga_jax.data.tokens import Vocabulary
from tga_jax.demo.world import tasks
from tga_jax.report.progress import Progress
from tga_jax.workdir import write_json

_BATCH = 64
_PIXELS = 4  # side of the pictures of the long file, whose decoding is not what is measured there


@dataclasses.dataclass(frozen=True)
class DataFigures:
    pictures: str
    exact_per_second: float  # of one core's time, median of the repeats
    fast_per_second: float
    rows: int
    rows_per_second: float  # of the long file, tokenised and put in batches
    # Resident bytes: after a tenth of the rows, and the most from there to the last row.
    bytes_early: int
    bytes_most: int


def jpeg(width: int, height: int, seed: int) -> bytes:
    """A picture with coarse and fine structure, about as large as a photograph's file."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height), 3)
    noise = rng.normal(0, 8, (height, width, 1))
    out = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def pictures_per_second(files: list[bytes], size: int, fast: bool) -> float:
    """Of this process's CPU time: what other programs take of the machine does not count."""
    start = time.process_time()
    for i, data in enumerate(files):
        images.read(data, str(i), size, "pad", fast)
    return len(files) / (time.process_time() - start)


def write_rows(folder: Path, count: int) -> None:
    """rows.jsonl with `count` samples of unequal length, three in four with one of a few small pictures."""
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (_PIXELS, _PIXELS, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    with (folder / "rows.jsonl").open("w") as file:
        for i in range(count):
            text = " ".join(["describe", "this"] * int(rng.integers(2, 20)))
            row: dict[str, Any] = {"id": i, "image_caption": "a cat", "retrieved_caption": "a dog"}
            if i % 4:
                row["image"], text = f"{i % 8}.png", f"<image>\n{text}"
            turns = [{"from": "human", "value": text}, {"from": "gpt", "value": f"a cat of {i}"}]
            file.write(json.dumps({**row, "conversations": turns}) + "\n")


def long_file(folder: Path, count: int, console: rich.console.Console) -> tuple[float, int, int]:
    """(rows a second, resident bytes early, and at most) of `count` rows through the training's own pipeline."""
    tasks.build_tokenizer(["a cat of"]).save_pretrained(folder / "tokenizer")
    source = LlavaSource(str(folder / "rows.jsonl"), str(folder))
    config = DataConfig(str(folder / "tokenizer"), (32, 48, 64), 8, {"rows": source})
    vocabulary = Vocabulary(tasks.build_tokenizer(["a cat of"]))
    records = endless(LlavaRecords(source, Pictures(_PIXELS)), 0)
    batches = Batches(records, vocabulary, config.shape(image_tokens=4), _BATCH, 0)
    steps = count // _BATCH
    sizes = []
    start = time.perf_counter()
    with Progress(console, transient=True) as bar:
        for i in bar.track(range(steps), description="rows"):
            batches[i]
            if i >= steps // 10:
                sizes.append(figures.resident_bytes())
    return steps * _BATCH / (time.perf_counter() - start), sizes[0], max(sizes)


def report(console: rich.console.Console, target: Path | None, *, rows: int, repeats: int) -> None:
    """Prints the figures, exact and fast in turns."""
    files = [jpeg(640, 480, seed) for seed in range(32)]
    rates = [[pictures_per_second(files, 336, fast) for fast in (False, True)] for _ in range(repeats)]
    exact, fast = np.median(rates, axis=0)
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), rows)
        per_second, early, most = long_file(Path(folder), rows, console)
    pictures = f"JPEG of 640x480, {np.mean([len(f) for f in files]) / 1024:.0f} KiB, padded, to 336x336"
    found = DataFigures(pictures, float(exact), float(fast), rows, per_second, early, most)
    console.print(f"{pictures}: {exact:.0f} pictures a second and core bit-exact, {fast:.0f} by the fast path")
    console.print(
        f"{rows} rows: {per_second:.0f} a second; resident memory {early / 2**20:.0f} MiB after a tenth of them, at "
        f"most {most / 2**20:.0f} MiB from there on"
    )
    if target is not None:
        write_json(target, dataclasses.asdict(found))
