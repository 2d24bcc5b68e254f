"""What the safety benchmarks have in common."""

import pytest
from safety_support import fails

from tga_jax.evals.benchmarks import (
    figstep,
    hod,
    mm_safetybench,
    mossbench,
    scenes,
    text_prompts,
    vlguard,
)

ALL = [m.BENCHMARK for m in (figstep, hod, mm_safetybench, mossbench, scenes, text_prompts, vlguard)]


def test_names_and_suites():
    names = {b.name: b.suite for b in ALL}
    assert names.pop("mossbench") == "over-refusal"
    assert names == dict.fromkeys(["figstep", "hod", "mm-safetybench", "scenes", "text-prompts", "vlguard"], "safety")
    assert all(b.score is None and b.export is None for b in ALL)


@pytest.mark.parametrize("benchmark", ALL, ids=lambda b: b.name)
def test_an_empty_folder_is_an_error_that_names_what_is_missing(benchmark, tmp_path):
    fails(benchmark, tmp_path, "expected")
    fails(benchmark, tmp_path / "none", "expected")
