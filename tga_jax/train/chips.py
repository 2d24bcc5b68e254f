"""What chips can do by their data sheets.

Sources: NVIDIA's data sheets of the A100, H100 and H200 (SXM, dense bf16) and of the HGX B200, an eighth of it; the
network adapters of their DGX systems, one a GPU; Google's pages "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x (Ironwood)".
"""

import dataclasses
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Chip:
    name: str
    platform: str  # as JAX names it
    kind: str  # and its `device_kind`, or the end of it
    flops: float  # a second, dense bf16
    memory: int  # bytes; of GPUs as the driver tells them, else the sheet's GB are GiB
    memory_rate: float  # bytes a second
    interconnect: float  # bytes a second into a chip over all its links, one way: half of what the sheets call both
    network: float  # bytes a second of its share of the adapters to other machines or slices, one way


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("A100", "cuda", "A100-SXM4-80GB", 312e12, 81920 * 2**20, 2.039e12, 300e9, 25e9),
        Chip("A100-40GB", "cuda", "A100-SXM4-40GB", 312e12, 40960 * 2**20, 1.555e12, 300e9, 25e9),
        Chip("H100", "cuda", "H100 80GB HBM3", 989e12, 81559 * 2**20, 3.35e12, 450e9, 50e9),
        Chip("H200", "cuda", "H200", 989e12, 143771 * 2**20, 4.8e12, 450e9, 50e9),
        Chip("B200", "cuda", "B200", 2250e12, 183359 * 2**20, 7.7e12, 900e9, 50e9),
        Chip("v5e", "tpu", "TPU v5 lite", 197e12, 16 * 2**30, 819e9, 200e9, 3.125e9),
        Chip("v5p", "tpu", "TPU v5", 459e12, 95 * 2**30, 2765e9, 600e9, 6.25e9),
        Chip("v6e", "tpu", "TPU v6 lite", 918e12, 32 * 2**30, 1638e9, 400e9, 12.5e9),
        # JAX has two devices for each of these chips, and this is one: 2307 TFLOP/s, 192 GiB and so on by halves.
        Chip("v7x", "tpu", "TPU7x", 1153.5e12, 96 * 2**30, 3690e9, 300e9, 6.25e9),
    )
}


def of_kind(kind: str) -> Chip | None:
    """The chip that JAX tells as `kind`, if its data sheet is known."""
    return next((chip for chip in CHIPS.values() if kind.endswith(chip.kind)), None)


def peak(devices: Iterable[Any]) -> float | None:
    """FLOPs a second of JAX's devices together, None if the data sheet of one is not known."""
    found = [of_kind(device.device_kind) for device in devices]
    return None if None in found else sum(chip.flops for chip in found if chip)
