"""The benchmarks, one file each: a function that yields samples, and one that scores an answer."""

from tga_jax.evals.benchmark import Benchmark
from tga_jax.evals.benchmarks import (
    advbench,
    figstep,
    gqa,
    harmbench,
    hod,
    holisafe,
    jailbreakbench,
    jailbreakv,
    llava_bench,
    mm_safetybench,
    mm_vet,
    mmbench,
    mmbench_cn,
    mme,
    mossbench,
    mssbench,
    msts,
    pope,
    scenes,
    science_qa,
    seed_bench,
    siuo,
    spa_vl,
    strongreject,
    text_prompts,
    text_vqa,
    vizwiz,
    vlguard,
    vlsbench,
    vqav2,
    xstest,
)

_MODULES = (
    scenes, hod, mm_safetybench, figstep, vlguard, msts, siuo, vlsbench, holisafe, jailbreakv, mssbench, spa_vl,
    text_prompts, advbench, harmbench, strongreject, jailbreakbench, mossbench, xstest,
    pope, science_qa, vqav2, gqa, text_vqa, mmbench, mmbench_cn, seed_bench, mm_vet, mme, vizwiz, llava_bench,
)  # fmt: skip
BENCHMARKS: dict[str, Benchmark] = {module.BENCHMARK.name: module.BENCHMARK for module in _MODULES}
