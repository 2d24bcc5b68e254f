"""A few mutations of each of `fuzz.py`'s targets of files, without atheris."""

import random
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "checkpoints")]
pytest.importorskip("gguf")

from fuzz import one  # noqa: E402
from fuzz_files import TARGETS  # noqa: E402


def _changed(data: bytes, rng: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content[: rng.randrange(len(content))] if rng.random() < 0.1 else content)


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_a_user_error_or_nothing(name, tmp_path):
    target, rng = TARGETS[name], random.Random(name)
    (place := tmp_path / "place").mkdir()
    seeds = target.seeds(tmp_path)
    for seed in seeds:
        target.read(seed, place)
    for i in range(24):
        seed = rng.choice(seeds)
        how = target.mutate if target.mutate is not None and i % 3 else _changed
        one(target, how(seed, rng), place)
