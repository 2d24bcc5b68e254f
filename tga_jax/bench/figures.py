"""What every measurement is told with: where and of what it was taken."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "jax-cuda13-plugin", "libtpu")


def _commit() -> str | None:
    """The commit of this source, with "-dirty" if it was changed since; None where it is no git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def circumstances() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "commit": _commit(),
        "versions": _versions(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "flags": os.environ.get("XLA_FLAGS", ""),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile."""
    low, median, high = np.percentile(values, [10, 50, 90])
    return {"median": float(median), "p10": float(low), "p90": float(high)}


def rows(batch_size: int, count: int, length: int) -> str:
    """A batch's, for people: "8 rows of 1280"."""
    return f"{'' if count == batch_size else f'a batch of {batch_size} in '}{count} rows of {length}"


def resident_bytes() -> int:
    """Memory of this process, as the kernel says it. Raises OSError where there is no /proc."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
