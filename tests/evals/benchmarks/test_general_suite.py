"""What the general benchmarks have in common."""

import pytest
from general_support import load

from tga_jax.errors import UserError
from tga_jax.evals.benchmarks import (
    gqa,
    llava_bench,
    mm_vet,
    mmbench,
    mmbench_cn,
    mme,
    pope,
    science_qa,
    seed_bench,
    text_vqa,
    vizwiz,
    vqav2,
)

MODULES = {
    "pope": pope,
    "scienceqa": science_qa,
    "vqav2": vqav2,
    "gqa": gqa,
    "textvqa": text_vqa,
    "mmbench": mmbench,
    "mmbench-cn": mmbench_cn,
    "seed-bench": seed_bench,
    "mm-vet": mm_vet,
    "mme": mme,
    "vizwiz": vizwiz,
    "llava-bench": llava_bench,
}
EXPORTED = ("vqav2", "gqa", "mmbench", "mmbench-cn", "mm-vet", "mme", "vizwiz", "llava-bench")


@pytest.mark.parametrize(("name", "module"), MODULES.items())
def test_what_they_are(name, module, tmp_path):
    benchmark = module.BENCHMARK
    assert (benchmark.name, benchmark.suite) == (name, "general")
    assert (benchmark.score is None) == (name in ("mm-vet", "llava-bench"))
    assert (benchmark.export is not None) == (name in EXPORTED)
    with pytest.raises(UserError, match=str(tmp_path)):
        load(module, tmp_path)
