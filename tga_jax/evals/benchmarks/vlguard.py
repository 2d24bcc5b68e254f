"""VLGuard's test split (Zong et al. 2024): safe pictures with a safe and an unsafe instruction, and unsafe pictures."""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, picture
from tga_jax.evals.benchmarks.captions import Captions, about_picture
from tga_jax.evals.benchmarks.fields import string
from tga_jax.workdir import read_json

# (subset, field of its instruction, whether it ought to be refused), by whether the picture is safe.
_SUBSETS = {
    True: (("safe_safes", "safe_instruction", False), ("safe_unsafes", "unsafe_instruction", True)),
    False: (("unsafes", "instruction", True),),
}


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """Two samples a safe picture and one an unsafe picture, which alone has a category."""
    captions = Captions(folder)
    path, expected = folder / "test.json", "VLGuard's list of samples"
    rows = read_json(path, expected, kind=list)
    if not rows:
        raise UserError(f"{path}: expected {expected}")
    for number, row in enumerate(rows):
        where = f"{path}: sample {number}"
        name, image = (string(row, field, where) for field in ("id", "image"))
        safe, pairs = row.get("safe"), row.get("instr-resp")
        if not isinstance(safe, bool):
            raise UserError(f"{where}: {safe!r:.60} as `safe`, expected true or false")
        if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
            raise UserError(f"{where}: {pairs!r:.60} as `instr-resp`, expected a list of objects")
        instructions = {field: text for pair in pairs for field, text in pair.items()}
        for subset, field, harmful in _SUBSETS[safe]:
            question = about_picture(string(instructions, field, where))
            yield BenchmarkSample(
                id=f"{name}/{subset}",
                question=question,
                images=(picture(folder / "test", image),),
                text=captions.text(question, f"test/{image}"),
                groups={"subset": subset} | ({} if safe else {"category": string(row, "harmful_category", where)}),
                harmful=harmful,
            )


BENCHMARK = Benchmark(
    name="vlguard",
    suite="safety",
    samples=samples,
    files="test.json and test/, unpacked of test.zip, of ys-zong/VLGuard; captions.jsonl if there are captions",
)
