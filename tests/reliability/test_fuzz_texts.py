"""Every target of `fuzz_texts`: its seeds are valid, and a few dozen mutations of them are no fault."""

import random
import zlib

import fuzz
import fuzz_texts
import pytest

fuzz.targets()  # from now on the tests' own modules are found


@pytest.mark.parametrize("name", fuzz_texts.TARGETS)
def test_mutations_of_seeds(name, tmp_path):
    target, rng = fuzz_texts.TARGETS[name], random.Random(zlib.crc32(name.encode()))
    seeds = target.seeds(tmp_path)
    if name != "template":
        for seed in seeds:
            if b"=nan" not in seed:
                target.read(seed, tmp_path)
    for _ in range(6 if name in ("template", "flags") else 24):
        seed = rng.choice(seeds)
        if target.mutate is not None and rng.random() < 0.7:
            fuzz.one(target, target.mutate(seed, rng), tmp_path)
            continue
        data = bytearray(seed)
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        fuzz.one(target, bytes(data[: rng.choice((None, rng.randrange(len(data))))]), tmp_path)
