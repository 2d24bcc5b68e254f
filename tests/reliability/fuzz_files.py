"""Targets of `fuzz.py`: weights, their folders, and pictures."""

from pathlib import Path

from fuzz import Target

from tga_jax.checkpoints.torch_file import TorchFile


def _torch_seeds(folder: Path) -> list[bytes]:
    import numpy as np

    from tga_jax.checkpoints import torch_file

    torch_file.write(folder / "seed.bin", {"a": np.arange(6.0).reshape(2, 3), "b.weight": np.ones(4, np.float16)})
    return [(folder / "seed.bin").read_bytes()]


def _torch(data: bytes, folder: Path) -> None:
    (folder / "x.bin").write_bytes(data)
    file = TorchFile(folder / "x.bin")
    for name in file.tensors:
        file.read(name)


TARGETS = {"torch": Target(_torch_seeds, _torch)}
