"""The machines that plans and compilations are for, and topologies to compile for without them.

v5p and v7x slices are named by their TensorCores, two a chip, as Google does: v5p-128 is 64 chips, 4x4x4, and so is
v7x-128, Google's tpu7x-128, whose TensorCores are devices of JAX each. v5e and v6e have one TensorCore a chip: v5e-256
is 256 chips. 2xv5e-256 is two slices, and 16xH200 two machines of 8 GPUs, which the data centre's network joins.
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
_CORES_PER_CHIP = {"v5e": 1, "v5p": 2, "v6e": 1, "v7x": 2}
_DEVICES_PER_CHIP = {"v5e": 1, "v5p": 1, "v6e": 1, "v7x": 2}
_MACHINE = 8  # GPUs


@dataclasses.dataclass(frozen=True)
class Target:
    """What a training runs on. count: of JAX's devices, in all slices or machines; shape: of one TPU slice, in chips;
    chip: None for this machine's fake devices; slices: of a TPU, or machines with GPUs."""

    name: str
    chip: Chip | None
    count: int
    shape: tuple[int, ...] = ()
    slices: int = 1


def parse(name: str) -> Target:
    """ "8xH200", "16xB200" (GPUs, 8 a machine), "v5e-256", "2xv5p-128", or "8xcpu": fake devices, to try things out.

    Raises UserError for a chip or a slice that there is none of.
    """
    gpus = "|".join(chip.name for chip in CHIPS.values() if chip.platform == "cuda")
    if found := re.fullmatch(rf"(\d+)x({gpus}|cpu)", name):
        count, chip = int(found[1]), CHIPS.get(found[2])
        if count < 1 or (chip is not None and count > _MACHINE and count % _MACHINE):
            raise UserError(f"target: {name!r}, expected 1 to {_MACHINE} GPUs, or machines of {_MACHINE}")
        return Target(name, chip, count, slices=1 if chip is None else -(-count // _MACHINE))
    if found := re.fullmatch(r"(?:(\d+)x)?(v5e|v5p|v6e|v7x)-(\d+)", name):
        slices, chip, cores = int(found[1] or 1), CHIPS[found[2]], int(found[3])
        shapes = _FLAT if chip.name in ("v5e", "v6e") else _CUBES
        each = _CORES_PER_CHIP[chip.name]
        if slices < 1 or cores % each or cores // each not in shapes:
            sizes = ", ".join(str(n * each) for n in shapes)
            raise UserError(f"target: {name!r}, expected {chip.name}- and one of {sizes}")
        chips = cores // each
        return Target(name, chip, slices * chips * _DEVICES_PER_CHIP[chip.name], shapes[chips], slices)
    raise UserError(f"target: {name!r}, expected one such as 8xH200, v5e-256 or 2xv5p-128")


def check(target: Target, num_slices: int) -> None:
    """Raises UserError for a training's `mesh.num_slices` that a TPU of this many slices does not run."""
    if target.chip is not None and target.chip.platform == "tpu" and num_slices != target.slices:
        raise UserError(f"mesh.num_slices: {num_slices}, expected {target.slices} on {target.name}")


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


# What XLA asks of a GPU, as a text proto of its GpuTargetConfig; and where the kinds differ beside their memory.
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared} shared_memory_per_block_optin: {block}
  threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {rate} l2_cache_size: {cache} clock_rate_ghz: {clock} device_memory_size: {memory}
  cuda_compute_capability {{ major: {capability} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 15 }} runtime_version {{ major: 13 }}
device_description_str: "NVIDIA {name}"
"""
_AMPERE = {
    "capability": 8,
    "cores": 108,
    "fpus": 64,
    "shared": 167936,
    "block": 166912,
    "clock": 1.41,
    "cache": 40 << 20,
}
_HOPPER = {"capability": 9, "cores": 132, "fpus": 128, "shared": 233472, "block": 232448, "clock": 1.98}
_GPUS = {
    "A100": _AMPERE,
    "A100-40GB": _AMPERE,
    "H100": _HOPPER | {"cache": 50 << 20},
    "H200": _HOPPER | {"cache": 60 << 20},
    "B200": _HOPPER | {"capability": 10, "cores": 148, "clock": 1.965, "cache": 126 << 20},
}


def devices(target: Target) -> Sequence[Any]:
    """The target's devices, to be compiled for but not run on; fake ones of the CPU for "8xcpu"."""
    import jax
    from jax.experimental import topologies

    if target.chip is None:
        return jax.devices("cpu")
    chip = target.chip
    if chip.platform == "cuda":
        rate = int(chip.memory_rate)
        config = _GPU.format(name=chip.name, rate=rate, memory=chip.memory, **_GPUS[chip.name])
        topology = f"{target.slices}x1x{target.count // target.slices}"
        made = topologies.get_topology_desc(platform="cuda", topology_name="", target_config=config, topology=topology)
        return made.devices
    # A ring where a side is whole: 16 chips of v5e and v6e, cubes of 4 of v5p and v7x. Without it FSDP's all-gathers
    # become all-reduces.
    full = 16 if chip.name in ("v5e", "v6e") else 4
    sides = (*target.shape, 1)[:3]
    wrap = tuple(side % full == 0 for side in sides)
    made = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{'tpu7x' if chip.name == 'v7x' else chip.name}:{'x'.join(map(str, target.shape))}",
        wrap=wrap,
        num_slices=target.slices,
        chips_per_host_bounds=(min(2, sides[0]), min(2, sides[1]), 1),
    )
    return made.devices
