"""What the safety benchmarks have in common."""

import pytest
from safety_support import fails

from tga_jax.evals.benchmarks import BENCHMARKS

ALL = [benchmark for benchmark in BENCHMARKS.values() if benchmark.suite != "general"]


def test_names_and_suites():
    names = {b.name: b.suite for b in ALL}
    assert {name for name, suite in names.items() if suite == "over-refusal"} == {"mossbench", "xstest"}
    assert {name for name, suite in names.items() if suite == "safety"} == {
        "advbench", "figstep", "harmbench", "hod", "holisafe", "jailbreakbench", "jailbreakv-28k", "mm-safetybench",
        "mssbench", "msts", "scenes", "siuo", "spa-vl", "strongreject", "text-prompts", "vlguard", "vlsbench",
    }  # fmt: skip
    assert all(b.score is None and b.export is None for b in ALL)


@pytest.mark.parametrize("benchmark", ALL, ids=lambda b: b.name)
def test_an_empty_folder_is_an_error_that_names_what_is_missing(benchmark, tmp_path):
    fails(benchmark, tmp_path, "expected")
    fails(benchmark, tmp_path / "none", "expected")
