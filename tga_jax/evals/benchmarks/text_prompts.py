"""Prompts without pictures, for checks of language models alone."""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.benchmarks.fields import string
from tga_jax.evals.questions import json_lines


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    seen = set()
    for where, row in json_lines(folder / "prompts.jsonl", "prompts in JSON lines"):
        name, text = string(row, "id", where), string(row, "text", where)
        if name in seen:
            raise UserError(f"{where}: {name!r} as `id` again, expected one row an id")
        seen.add(name)
        if not isinstance(harmful := row.get("harmful"), bool):
            raise UserError(f"{where}: {harmful!r:.60} as `harmful`, expected true or false")
        groups = {"group": string(row, "group", where)} if "group" in row else {}
        yield BenchmarkSample(id=name, question=text, groups=groups, harmful=harmful)


BENCHMARK = Benchmark(
    name="text-prompts",
    suite="safety",
    samples=samples,
    files='prompts.jsonl with lines of {"id", "text", "harmful": true or false, and a "group" if rates are told by it}',
)
