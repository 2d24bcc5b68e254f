"""Who may import whom, read from the source: imports inside functions count too."""

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The floors, from the ground up: a package imports of this project only what stands below it, and itself. Modules that
# stand on a floor of their own are named before their package.
FLOORS = (
    ("errors", "losses", "models.xla_flags"),
    ("models.quantization",),
    ("config", "workdir", "models.layers", "models.sharding", "report"),
    ("models",),
    ("data",),
    ("guides",),
    ("checkpoints",),
    ("train",),
    ("inference",),
    ("retrieval",),
    ("analysis",),
    ("evals",),
    ("serve",),
    ("demo.world",),
    ("bench",),
    ("demo",),
    ("cli",),
)

# Module or package -> what it must not import, although that stands below it; `tensorflow_datasets` is another package
# than `tensorflow`.
MUST_NOT_IMPORT = {
    "tga_jax": ("tensorflow", "torch", "tests", "configs"),
    "tga_jax.losses": ("tga_jax",),
    "tga_jax.models": ("tga_jax.config", "tga_jax.workdir", "tga_jax.losses", "tga_jax.report"),
    # NumPy only; placing on devices is `sharding`'s.
    "tga_jax.data": ("jax", "flax", "optax", "chex", "tga_jax.models", "tga_jax.losses", "tga_jax.report"),
    "tga_jax.checkpoints": ("tga_jax.guides", "tga_jax.losses", "tga_jax.report"),
    "tga_jax.train.optim": ("tga_jax.guides", "tga_jax.data", "tga_jax.checkpoints", "tga_jax.workdir"),
    "tga_jax.train.step": ("tga_jax.checkpoints", "tga_jax.workdir", "tga_jax.config", "tga_jax.models.sharding"),
    "tga_jax.inference": ("tga_jax.train", "tga_jax.guides"),
    "tga_jax.retrieval": ("tga_jax.train", "tga_jax.guides"),
    "tga_jax.analysis": ("tga_jax.train", "tga_jax.guides"),
    "tga_jax.serve": ("tga_jax.train", "tga_jax.guides"),
}

# What only some may import -> those.
ONLY_FROM = {
    "tga_jax.train.loop": ("tga_jax.cli", "tga_jax.demo", "tga_jax.train.loop", "tga_jax.train.sweep"),
    "orbax": ("tga_jax.checkpoints.orbax_files",),
}

# What may break a rule above, and why.
EXCEPT = {
    "tga_jax.bench.peers": ("torch",),  # what is compared with it
    # How a class of one's own is named.
    "tga_jax.models.projectors": ("tga_jax.config",),
    # Of `report`, what shows how far long work is: rich alone, and no page.
    "tga_jax.checkpoints": ("tga_jax.report.progress",),
    "tga_jax.data": ("tga_jax.report.progress",),
}

CONFIGS_MAY_IMPORT = ("ml_collections", "configs", "tga_jax.guides", "dataclasses", "jax")

TOP_LEVEL = {"pyproject.toml", "README.md", "tga_jax", "configs", "launch", "tests", "third_party"}


def covers(package: str, name: str) -> bool:
    return name == package or name.startswith(package + ".")


def covered(packages: tuple[str, ...], name: str) -> bool:
    return any(covers(package, name) for package in packages)


def imports(module: str, source: str, is_package: bool = False) -> Iterator[str]:
    """Full names of what `source` imports; `from a import b` gives `a.b`, which may be a module or a name in one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(name: str) -> tuple[int, str]:
    """(the floor, the room of `FLOORS`) of a name of this project; (-1, "") of the package itself."""
    found = [
        (len(room), i, room) for i, rooms in enumerate(FLOORS) for room in rooms if covers(f"tga_jax.{room}", name)
    ]
    return max(found)[1:] if found else (-1, "")


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """The rules that `source`, as the text of `module`, breaks: `module imports name`, one each."""
    names = sorted(set(imports(module, source, is_package)) - {"tga_jax.__version__"})
    if covers("configs", module):
        return [f"{module} imports {name}" for name in names if not covered(CONFIGS_MAY_IMPORT, name)]
    broken, (own_floor, own_room) = [], room(module)
    for name in names:
        floor, its_room = room(name)
        excused = any(covers(who, module) and covered(what, name) for who, what in EXCEPT.items())
        upward = floor >= own_floor > -1 and its_room != own_room
        forbidden = any(
            covers(who, module) and covered(what, name) and not (its_room and its_room == own_room)
            for who, what in MUST_NOT_IMPORT.items()
        )
        reserved = any(covers(what, name) and not covered(who, module) for what, who in ONLY_FROM.items())
        if (upward or forbidden or reserved) and not excused:
            broken.append(f"{module} imports {name}")
    return broken


@functools.cache
def modules() -> dict[str, Path]:
    """Our modules by name. The files of configs/ are `configs.<name>`, whether or not that is a package."""
    files = [file for folder in ("tga_jax", "configs") for file in sorted((ROOT / folder).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@pytest.mark.parametrize(("module", "file"), modules().items(), ids=modules().keys())
def test_imports_only_what_it_may(module, file):
    assert violations(module, file.read_text(), file.name == "__init__.py") == []


def test_every_rule_names_a_module_that_exists():
    rooms = {f"tga_jax.{room}" for rooms in FLOORS for room in rooms}
    tables = (MUST_NOT_IMPORT, ONLY_FROM, EXCEPT)
    named = {name for rules in tables for who, what in rules.items() for name in (who, *what)}
    assert rooms | {name for name in named if covers("tga_jax", name)} <= set(modules())
    assert all(room(module)[1] for module in modules() if covers("tga_jax", module) and module != "tga_jax")


def test_no_module_imports_itself_over_others():
    graph: dict[str, set[str]] = {}
    for module, file in modules().items():
        found = imports(module, file.read_text(), file.name == "__init__.py")
        named = {name if name in modules() else name.rpartition(".")[0] for name in found}
        graph[module] = {name for name in named if name in modules() and name not in ("tga_jax", module)}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_few_names_stand_at_the_top_of_the_package():
    names = {path.stem for path in (ROOT / "tga_jax").iterdir() if not path.name.startswith(("_", "."))}
    assert len(names) <= 18, sorted(names)


def test_files_and_functions_are_short():
    for module, file in modules().items():
        text = file.read_text()
        assert len(text.splitlines()) <= 400, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 80, f"{module}.{node.name}"


@pytest.mark.parametrize(
    ("module", "source", "imported"),
    [
        ("tga_jax.errors", "import tga_jax.losses", "tga_jax.losses"),
        ("tga_jax.losses", "from tga_jax.train import optim", "tga_jax.train.optim"),
        ("tga_jax.models.layers", "from tga_jax.models import clip", "tga_jax.models.clip"),
        ("tga_jax.models.layers", "from . import clip", "tga_jax.models.clip"),
        ("tga_jax.models.clip", "from tga_jax.data.batch import Batch", "tga_jax.data.batch.Batch"),
        ("tga_jax.models.clip", "from ..data import batch", "tga_jax.data.batch"),
        ("tga_jax.models.clip", "from tga_jax import config", "tga_jax.config"),
        ("tga_jax.data.tokens", "import jax.numpy as jnp", "jax.numpy"),
        ("tga_jax.data.tokens", "from flax import struct", "flax.struct"),
        ("tga_jax.data.tokens", "def f():\n    from tga_jax.models import llama", "tga_jax.models.llama"),
        ("tga_jax.data.sources", "from tga_jax.demo.world import source", "tga_jax.demo.world.source"),
        ("tga_jax.data.sources", "import tensorflow as tf", "tensorflow"),
        ("tga_jax.guides.pooled", "from tga_jax.train import step", "tga_jax.train.step"),
        ("tga_jax.checkpoints.hub", "from tga_jax.train import setup", "tga_jax.train.setup"),
        ("tga_jax.checkpoints.hub", "import torch", "torch"),
        ("tga_jax.train.loop", "import orbax.checkpoint as ocp", "orbax.checkpoint"),
        ("tga_jax.train.loop", "from tga_jax import inference", "tga_jax.inference"),
        ("tga_jax.inference.decode", "from tga_jax.train import loop", "tga_jax.train.loop"),
        ("tga_jax.inference.model", "from tga_jax.retrieval import embedder", "tga_jax.retrieval.embedder"),
        ("tga_jax.analysis.states", "from tga_jax.train.loop import run", "tga_jax.train.loop.run"),
        ("tga_jax.evals.runner", "if True:\n    import tga_jax.train.loop", "tga_jax.train.loop"),
        ("tga_jax.serve.app", "from tga_jax.demo import config", "tga_jax.demo.config"),
        ("tga_jax.bench.train", "from tga_jax.train import loop", "tga_jax.train.loop"),
        ("tga_jax.bench.train", "import torch", "torch"),
        ("tga_jax.demo.world.source", "from tga_jax.demo import config", "tga_jax.demo.config"),
        ("tga_jax.demo", "from tga_jax import cli", "tga_jax.cli"),
        ("configs.emoji", "from tga_jax import losses", "tga_jax.losses"),
        ("configs.emoji", "import os", "os"),
    ],
)
def test_the_checker_finds_a_broken_rule(module, source, imported):
    assert violations(module, source) == [f"{module} imports {imported}"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tga_jax.losses", "import jax"),
        ("tga_jax.models.llava", "from tga_jax.models import clip, layers\nfrom tga_jax.errors import UserError"),
        ("tga_jax.data.sources", "import grain\nimport tensorflow_datasets as tfds\nfrom tga_jax.data import tokens"),
        ("tga_jax.guides.pooled", "from tga_jax.losses import cosine\nfrom tga_jax.data.batch import Batch"),
        ("tga_jax.inference.embed", "from tga_jax.models import clip"),
        ("tga_jax.checkpoints.hub", "from tga_jax.models import llama"),
        ("tga_jax.checkpoints.orbax_files", "import orbax.checkpoint as ocp"),
        ("tga_jax.bench.peers.train", "import torch"),
        ("tga_jax.demo.main", "from tga_jax.train import loop"),
        ("tga_jax.cli", "from tga_jax import demo, train\nfrom tga_jax import __version__"),
        ("configs.own_data", "from ml_collections import ConfigDict\nfrom configs import emoji"),
        ("configs.own_guide", "import dataclasses\nimport jax\nfrom tga_jax.guides import Guide"),
    ],
)
def test_the_checker_lets_pass_what_is_allowed(module, source):
    assert violations(module, source) == []


def test_importing_the_package_imports_no_other():
    """So that it is quick, and what must come before JAX can come after it."""
    code = "import sys; before = {*sys.modules}; import tga_jax; print(*{*sys.modules} - before)"
    made = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).split()
    assert {name.split(".")[0] for name in made} - sys.stdlib_module_names == {"tga_jax"}


def test_the_top_level_holds_what_it_should_and_nothing_else():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git cannot list the files: {error}")
    top = {name.split("/")[0] for name in done.stdout.split("\0") if name}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
