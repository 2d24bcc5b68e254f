"""MMBench-CN (Liu et al., 2023): MMBench's questions in Chinese, in files of the same form; see `mmbench`."""

import dataclasses
from functools import partial

from tga_jax.evals.benchmarks import mmbench

BENCHMARK = dataclasses.replace(
    mmbench.BENCHMARK,
    name="mmbench-cn",
    samples=partial(mmbench.samples, chinese=True),
    version=1,
    files="one mmbench_*_cn_*.tsv or MMBench_*_CN*.tsv, such as mmbench_dev_cn_20231003.tsv",
)
