"""The machines that plans and compilations are for, and topologies to compile for without them.

A v5p slice is named by its TensorCores, two a chip, as Google does: v5p-128 is 64 chips, 4x4x4. v5e and v6e have one
TensorCore a chip: v5e-256 is 256 chips.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

from tga_jax.errors import UserError
from tga_jax.train.chips import CHIPS, Chip

# Chips of a slice -> its shape, where Google names one for that count.
_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
_CUBES = {
    4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8),
    512: (8, 8, 8), 1024: (8, 8, 16), 2048: (8, 16, 16), 4096: (16, 16, 16),
}  # fmt: skip
_CORES_PER_CHIP = {"v5e": 1, "v5p": 2, "v6e": 1}


@dataclasses.dataclass(frozen=True)
class Target:
    """A number of chips that a training runs on. shape: of a TPU slice; chip: None for this machine's fake devices."""

    name: str
    chip: Chip | None
    count: int
    shape: tuple[int, ...] = ()


def parse(name: str) -> Target:
    """ "8xH200" (GPUs of one machine), "v5e-256", "v5p-128", "v6e-256", or "8xcpu": fake devices, to try things out.

    Raises UserError for a chip or a slice that there is none of.
    """
    if found := re.fullmatch(r"(\d+)x(H100|H200|cpu)", name):
        count, chip = int(found[1]), CHIPS.get(found[2])
        if count < 1 or (chip is not None and count > 8):
            raise UserError(f"target: {name!r}, expected 1 to 8 GPUs")
        return Target(name, chip, count)
    if found := re.fullmatch(r"(v5e|v5p|v6e)-(\d+)", name):
        cores = int(found[2])
        shapes = _CUBES if found[1] == "v5p" else _FLAT
        each = _CORES_PER_CHIP[found[1]]
        if cores % each or cores // each not in shapes:
            sizes = ", ".join(str(n * each) for n in shapes)
            raise UserError(f"target: {name!r}, expected {found[1]}- and one of {sizes}")
        count = cores // each
        return Target(name, CHIPS[found[1]], count, shapes[count])
    raise UserError(f"target: {name!r}, expected one such as 8xH200, v5e-256 or v5p-128")


_PACKAGES = {"cuda": "jax_plugins.xla_cuda13", "tpu": "libtpu"}


def _check_installed(platform: str) -> None:
    """Raises UserError that says what to install for compiling for `platform` without its hardware."""
    try:
        found = importlib.util.find_spec(_PACKAGES[platform])
    except ModuleNotFoundError:
        found = None
    if found is not None:
        return
    version = importlib.metadata.version("jax")
    how = {
        "cuda": f"pip install --no-deps jax-cuda13-pjrt=={version} jax-cuda13-plugin=={version}",
        "tpu": f'pip install "jax[tpu]=={version}"',
    }
    raise UserError(f"compiling for {platform} needs its compiler; install it: {how[platform]}")


def prepare(target: Target, compiles: bool = True) -> None:
    """Sets the environment in which JAX runs on this machine's CPU, with as many fake devices as the target has chips,
    and, if it `compiles`, can do so for the target.

    To be called before JAX is imported. Raises UserError if the target's compiler is not installed.
    """
    flags = [os.environ.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={target.count}"]
    os.environ["JAX_PLATFORMS"] = "cpu"
    platform = target.chip.platform if target.chip and compiles else "cpu"
    if platform != "cpu":
        _check_installed(platform)
    if platform == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        # Tuning would time kernels on the GPU; Triton's products, untuned, may get tiles that they cannot have.
        flags += ["--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false"]
    if platform == "tpu":
        os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no metadata server to ask
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()


# What XLA asks of a GPU, as a text proto of its GpuTargetConfig; the H100 SXM and the H200 SXM differ in memory alone.
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {rate} l2_cache_size: {cache} clock_rate_ghz: 1.98 device_memory_size: {memory}
  shared_memory_per_block_optin: 232448 cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 15 }} runtime_version {{ major: 13 }}
device_description_str: "NVIDIA {name}"
"""


def devices(target: Target) -> Sequence[Any]:
    """The target's devices, to be compiled for but not run on; fake ones of the CPU for "8xcpu"."""
    import jax
    from jax.experimental import topologies

    if target.chip is None:
        return jax.devices("cpu")
    chip = target.chip
    if chip.platform == "cuda":
        config = _GPU.format(name=chip.name, rate=int(chip.memory_rate), memory=chip.memory, cache=60 * 2**20)
        made = topologies.get_topology_desc(
            platform="cuda", topology_name="", target_config=config, topology=f"1x1x{target.count}"
        )
        return made.devices
    # A ring where a side is whole: 16 chips of v5e and v6e, cubes of 4 of v5p. Without it FSDP's all-gathers become
    # all-reduces.
    full = 4 if chip.name == "v5p" else 16
    sides = (*target.shape, 1)[:3]
    wrap = tuple(side % full == 0 for side in sides)
    made = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{chip.name}:{'x'.join(map(str, target.shape))}",
        wrap=wrap,
        chips_per_host_bounds=(min(2, sides[0]), min(2, sides[1]), 1),
    )
    return made.devices
