"""What the general benchmarks have in common."""

import pytest
from general_support import load

from tga_jax.errors import UserError
from tga_jax.evals.benchmarks import (
    gqa,
    mm_vet,
    mmbench,
    pope,
    science_qa,
    seed_bench,
    text_vqa,
    vqav2,
)

MODULES = {
    "pope": pope,
    "scienceqa": science_qa,
    "vqav2": vqav2,
    "gqa": gqa,
    "textvqa": text_vqa,
    "mmbench": mmbench,
    "seed-bench": seed_bench,
    "mm-vet": mm_vet,
}


@pytest.mark.parametrize(("name", "module"), MODULES.items())
def test_what_they_are(name, module, tmp_path):
    benchmark = module.BENCHMARK
    assert (benchmark.name, benchmark.suite) == (name, "general")
    assert (benchmark.score is None) == (name == "mm-vet")
    assert (benchmark.export is not None) == (name in ("vqav2", "gqa", "mmbench", "mm-vet"))
    with pytest.raises(UserError, match=str(tmp_path)):
        load(module, tmp_path)
