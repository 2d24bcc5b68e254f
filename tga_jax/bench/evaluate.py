"""`tga bench evaluate`: answers a second of `tga evaluate`, and its memory, with made-up weights and pictures."""

import dataclasses
import io
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
import rich.console
from PIL import Image

from tga_jax.bench import figures
from tga_jax.checkpoints import hub
from tga_jax.checkpoints.spec import Spec
from tga_jax.demo.world import tasks
from tga_jax.errors import UserError
from tga_jax.evals import evaluate
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.judges.phrases import REFUSALS
from tga_jax.models import llava, presets
from tga_jax.workdir import write_json


@dataclasses.dataclass(frozen=True)
class EvaluateFigures:
    """seconds: of all, from loading the checkpoint to the report."""

    model: str
    samples: int
    batch: int
    new_tokens: int
    seconds: float
    answers_per_second: float
    # Resident bytes: after a tenth of the samples, and the most from there to the last one.
    bytes_early: int
    bytes_most: int


def write_checkpoint(name: str, folder: Path) -> None:
    """A LLaVA of random weights in the demo's words. Raises UserError for an unknown preset."""
    tokenizer = tasks.build_tokenizer(["a cat on a red background"])
    config = presets.get(name, len(tokenizer))
    params = jax.jit(lambda: llava.init(config, jax.random.key(0)))()
    fields = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = Spec(
        kind="llava",
        config=config,
        family="llama",
        image_token_id=config.llm.vocab_size,
        hub_fields=fields,
        image_mode="pad",
    )
    with tempfile.TemporaryDirectory() as companions:
        tokenizer.save_pretrained(companions)
        hub.save(folder, model, params, Path(companions))


def _picture(size: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def measure(name: str, samples: int, batch: int, new_tokens: int) -> EvaluateFigures:
    sizes: list[int] = []
    model = presets.get(name)

    def picture(seed: int) -> Image.Image:
        if seed >= samples // 10 and seed % batch == 0:
            sizes.append(figures.resident_bytes())
        return _picture(model.clip.vision.image_size, seed)

    def made(_: Path) -> Iterator[BenchmarkSample]:
        for i in range(samples):
            words = " ".join(["describe", "this"] * (1 + i % 4))
            yield BenchmarkSample(
                str(i), words, (partial(picture, i),), groups={"part": str(i % 3)}, harmful=i % 2 == 0
            )

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_checkpoint(name, folder / "model")
        (folder / "made-up").mkdir()
        benchmark = Benchmark("made-up", "safety", made, "nothing")
        settings = evaluate.Settings(str(folder / "model"), new_tokens=new_tokens)
        console = rich.console.Console(file=io.StringIO())
        start = time.perf_counter()
        evaluate.run(settings, [benchmark], folder, folder / "out", [REFUSALS], batch, console)
        seconds = time.perf_counter() - start
    return EvaluateFigures(name, samples, batch, new_tokens, seconds, samples / seconds, sizes[0], max(sizes))


def report(
    console: rich.console.Console, target: Path | None, *, model: str, samples: int, batch: int, new_tokens: int
) -> None:
    """Prints the figures. target: they go there as JSON. Raises UserError for fewer samples than two batches."""
    if samples < 2 * batch:
        raise UserError(f"--samples: {samples}, expected at least two batches, {2 * batch}")
    found = measure(model, samples, batch, new_tokens)
    console.print(
        f"{model}, {samples} pictures, batch {batch}, {new_tokens} new tokens: {found.answers_per_second:.1f} answers "
        f"a second; resident memory {found.bytes_early / 2**20:.0f} MiB after a tenth of them, at most "
        f"{found.bytes_most / 2**20:.0f} MiB from there on"
    )
    if target is not None:
        write_json(target, {"bench": "evaluate", **figures.circumstances(), **dataclasses.asdict(found)})
