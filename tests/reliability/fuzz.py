"""Coverage-guided fuzzing (atheris) of all that reads from outside: nothing but UserError, of one line; no hang above
ten seconds; never a gigabyte above the start.

    pip install atheris
    python tests/reliability/fuzz.py                        the targets
    python tests/reliability/fuzz.py NAME... --runs=50000   these, or `all`, each in a process of its own, and a table

What fails lies in runs/fuzz/NAME-*; `--input=FILE` runs a target on it again. Found cases become tests.
"""

import argparse
import copy
import dataclasses
import importlib
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("fuzz_files", "fuzz_texts")  # beside this file, each with TARGETS
_SECONDS, _MEGABYTES, _LONGEST = 10, 1024, 1 << 16
_GONE = object()
HOSTILE = [
    _GONE, None, True, False, -1, 0, 1, 2.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**40, 2**64, -(2**63), "",
    "x", "\ud800", "\0", "../x", "/etc/passwd", "a" * 5000, "<script>", [], {}, [None], [[]], ["x"], {"x": 1},
    [1] * 2000,
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Target:
    """read: takes bytes and a folder to write them to; raises UserError for what is wrong. seeds: valid inputs, made in
    a folder. mutate: as `mutated_json`, or None for bytes alone."""

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], Any]
    mutate: Callable[[bytes, random.Random], bytes] | None = None


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    entries = value.items() if isinstance(value, dict) else enumerate(value[:8]) if isinstance(value, list) else ()
    return [found for key, entry in entries for found in ((*path, key), *_places(entry, (*path, key)))]


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """One or two fields gone, of another type, or out of all ranges; what is no JSON stays as it is."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(rng.choice((1, 1, 1, 2))):
        if not (places := _places(value)):
            return json.dumps(rng.choice(HOSTILE[1:])).encode()
        *parents, last = rng.choice(places)
        at = value
        for key in parents:
            at = at[key]
        if (new := rng.choice(HOSTILE)) is _GONE:
            del at[last]
        else:
            at[last] = copy.deepcopy(new)  # or a list could come to stand within itself
    return json.dumps(value).encode()


def one(target: Target, data: bytes, folder: Path) -> None:
    """Raises what is a fault."""
    from tga_jax.errors import UserError

    try:
        target.read(data, folder)
    except UserError as error:
        text = str(error)
        assert text, "an empty message"
        assert "\n" not in text, f"a message of several lines: {text[:300]!r}"
        assert len(text) < 5000, f"a message of {len(text)} characters"
        text.encode()


def targets() -> dict[str, Target]:
    places = (Path(__file__).parent, ROOT, ROOT / "tests" / "checkpoints", ROOT / "tests" / "data")
    sys.path[:0] = [str(place) for place in places]
    return {name: target for module in MODULES for name, target in importlib.import_module(module).TARGETS.items()}


def _fuzz(name: str, runs: int, seed: int, given: str | None) -> None:
    """In this process, which libFuzzer ends."""
    import atheris

    # Instrumented comparisons of arrays leak them.
    with atheris.instrument_imports(include=["tga_jax"], exclude=["tga_jax.data.resize"]):
        target = targets()[name]
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    (corpus := folder / "corpus").mkdir()
    (place := folder / "place").mkdir()
    for i, data in enumerate(target.seeds(folder)):
        (corpus / str(i)).write_bytes(data)
        one(target, data, place)
    if given is not None:
        one(target, Path(given).read_bytes(), place)
        return

    def mutate(data: bytes, size: int, number: int) -> bytes:
        rng = random.Random(number)
        if target.mutate is not None and rng.random() < 0.7:
            return target.mutate(data, rng)[:size]
        return atheris.Mutate(data, size)

    kept = ROOT / "runs" / "fuzz"
    kept.mkdir(parents=True, exist_ok=True)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    flags = [f"-runs={runs}", f"-seed={seed}", f"-timeout={_SECONDS}", f"-rss_limit_mb={used + _MEGABYTES}"]
    flags += [f"-artifact_prefix={kept}/{name}-", f"-max_len={_LONGEST}", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *flags], lambda data: one(target, data, place), custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--input")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here or given.input:
        _fuzz(given.names[0], given.runs, given.seed, given.input)
        return 0
    known = list(targets())
    names = known if given.names == ["all"] else given.names
    if not names or (wrong := [name for name in names if name not in known]):
        print(f"targets: {', '.join(known)}" if not names else f"unknown {wrong[0]}, expected some of {known}")
        return 0 if not names else 2
    total = failed = 0
    for name in names:
        start = time.monotonic()
        command = [sys.executable, __file__, name, "--here", f"--runs={given.runs}", f"--seed={given.seed}"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        found = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
        count = int(found[1]) if found else 0
        total, failed = total + count, failed + (done.returncode != 0)
        said = "" if done.returncode == 0 else f"  FAILED: {_reason(done.stderr + done.stdout)}"
        print(f"{name:24} {count:>10,} executions {time.monotonic() - start:7.0f} s{said}", flush=True)
    print(f"{'all':24} {total:>10,} executions, {failed} target(s) failed")
    return 1 if failed else 0


def _reason(text: str) -> str:
    kind = re.compile(r"\s*(=== Uncaught Python exception: ===|[\w.]*(Error|Exception)\b.*|.*ERROR: libFuzzer.*)")
    lines = [line.strip() for line in text.splitlines() if kind.match(line)]
    return " ".join(lines[-3:])[:300] if lines else text.strip()[-300:]


if __name__ == "__main__":
    sys.exit(main())
