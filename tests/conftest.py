"""Shared by the tests: the import of `*_support.py` from other folders, compiled programs."""

# ruff: noqa: E402 (JAX reads the environment where it is imported)

import ctypes
import gc
import os
import re
import resource
import shutil
import sys
import tempfile
from pathlib import Path

sys.path[:0] = sorted({str(path.parent) for path in Path(__file__).parent.rglob("*_support.py")})
import quick_support

# Many tests compile the same programs, in several processes: kept for the run, they are compiled once. Before JAX reads
# its environment; pytest-xdist's workers and the commands that tests start inherit it.
if _OWNED := "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="tga-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

# Compiling is most of what the tests do. For programs as users have them:
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS=--xla_cpu_use_fusion_emitters=true pytest, with jaxlib 0.10.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", quick_support.ENVIRONMENT["JAX_DISABLE_MOST_OPTIMIZATIONS"])
if "xla_cpu_use_fusion_emitters" not in (_FLAGS := os.environ.get("XLA_FLAGS", "")):
    os.environ["XLA_FLAGS"] = f"{_FLAGS} {quick_support.ENVIRONMENT['XLA_FLAGS']}".strip()
# To compile a program in parts, one for each core, costs more than a worker that has one core gains.
if "xla_cpu_parallel_codegen_split_count" not in (_FLAGS := os.environ["XLA_FLAGS"]):
    os.environ["XLA_FLAGS"] = f"{_FLAGS} --xla_cpu_parallel_codegen_split_count=1".lstrip()

# torch's threads wait for each other without sleeping, which takes a seventh of the time of models as small as these.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jax
import pytest

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")


_PROCESSES = str(Path(__file__).parent / "processes")
sys.path.insert(0, _PROCESSES)
import no_network


def pytest_configure(config):
    """There is no network, and what tests start has no torch either. Not in the process that starts pytest-xdist's
    workers, which need it."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        places = [_PROCESSES, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(places))
        handle, notes = tempfile.mkstemp(prefix="tga-network-")
        os.close(handle)
        no_network.install(notes)


def _asked_for(allowed: str = "") -> str:
    """The other machines but `allowed` that this process, or one that it started, has asked for since the last call."""
    notes = Path(os.environ[no_network.NOTES])
    if not notes.stat().st_size:
        return ""
    found = dict.fromkeys(notes.read_text().splitlines())
    notes.write_text("")
    return ", ".join(line for line in found if line.partition(" ")[0] != allowed)


@pytest.fixture(autouse=True)
def no_other_machine_is_asked_for(request):
    yield
    if found := _asked_for("huggingface.co" if request.node.get_closest_marker("asks_the_hub") else ""):
        pytest.fail(f"asked for {found}")


@pytest.hookimpl(tryfirst=True)  # before the tests are chosen by their marks
def pytest_collection_modifyitems(config, items):
    """Marks what slow.txt names. Raises UsageError for a line that names nothing, where all tests are collected."""
    lines = (Path(__file__).parent / "slow.txt").read_text().splitlines()
    unused = {line for line in lines if line and not line.startswith("#")}
    patterns = {line: re.compile(f"tests/{re.escape(line)}(\\[.*)?".replace(r"\*", ".*")) for line in unused}
    by_file: dict[str, list[str]] = {}
    for line in patterns:
        by_file.setdefault(f"tests/{line.partition('::')[0]}", []).append(line)
    for item in items:
        for line in by_file.get(item.nodeid.partition("::")[0], ()):
            if patterns[line].fullmatch(item.nodeid):
                item.add_marker(pytest.mark.slow)
                unused.discard(line)
    if unused and config.args == config.getini("testpaths"):
        raise pytest.UsageError(f"tests/slow.txt: no test {sorted(unused)[0]}")


def pytest_collection_finish():
    """What the modules hold stays to the end: looked through at every collection, it took a twelfth of all time."""
    gc.collect()
    gc.freeze()
    if found := _asked_for():
        raise pytest.UsageError(f"a module that is imported asks for {found}")


@pytest.fixture
def processes_have_torch(monkeypatch):
    places = os.environ["PYTHONPATH"].split(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(place for place in places if place != _PROCESSES))


def pytest_unconfigure():
    if notes := os.environ.pop(no_network.NOTES, ""):
        Path(notes).unlink(missing_ok=True)
    if _OWNED:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


_STATM = Path("/proc/self/statm")  # Linux: the process's memory in pages, the resident part second
_MUCH = 2.5 * 2**30  # bytes


def _release_compiled_programs() -> None:
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # glibc keeps what was freed, in an arena for each of the compiler's threads


@pytest.fixture(autouse=True)
def compiled_programs_end_where_they_are_large():
    """Or a process would come to hold many gigabytes of them."""
    yield
    if _STATM.exists() and int(_STATM.read_text().split()[1]) * resource.getpagesize() > _MUCH:
        _release_compiled_programs()
