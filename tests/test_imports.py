"""Who may import whom, read from the source: imports inside functions count too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Module or package -> all it may import of this project. The longest name that covers a module decides.
MAY_IMPORT = {
    "tga_jax": ("tga_jax",),  # no list of its own; MUST_NOT_IMPORT and ONLY_FROM hold for it as for all
    "tga_jax.errors": (),
    "tga_jax.losses": ("tga_jax.errors",),
    "tga_jax.models.layers": ("tga_jax.errors",),
    "tga_jax.models": ("tga_jax.models", "tga_jax.errors"),
    "tga_jax.data": ("tga_jax.data", "tga_jax.config", "tga_jax.errors", "tga_jax.workdir"),
    "tga_jax.guides": ("tga_jax.guides", "tga_jax.config", "tga_jax.losses", "tga_jax.models", "tga_jax.data.batch"),
    "tga_jax.flops": ("tga_jax.models", "tga_jax.errors"),
    "tga_jax.config": ("tga_jax.errors",),
    "tga_jax.distributed": ("tga_jax.errors",),
    "tga_jax.optim": ("tga_jax.errors",),
    "tga_jax.sharding": ("tga_jax.errors",),
    "tga_jax.workdir": ("tga_jax.errors",),
    "tga_jax.metrics": ("tga_jax.errors", "tga_jax.workdir"),
    "tga_jax.checkpoints": ("tga_jax.errors", "tga_jax.workdir"),
    "tga_jax.step": (
        *("tga_jax.guides", "tga_jax.losses", "tga_jax.optim", "tga_jax.data.batch", "tga_jax.models"),
        "tga_jax.errors",
    ),
}

# Module or package -> what of others' it must not import. `tensorflow_datasets` is not `tensorflow`.
MUST_NOT_IMPORT = {
    "tga_jax": ("tensorflow", "torch", "tests", "configs"),
    "tga_jax.data": ("jax", "flax", "optax", "chex"),  # NumPy only; placing on devices is `sharding`'s
}

# What only some may import -> those.
ONLY_FROM = {
    "tga_jax.cli": ("tga_jax.cli",),
    "tga_jax.demo": ("tga_jax.cli", "tga_jax.demo"),
    "tga_jax.train": ("tga_jax.cli", "tga_jax.demo"),
    "orbax": ("tga_jax.checkpoints",),
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


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """The rules that `source`, as the text of `module`, breaks: `module imports name`, one each."""
    names = sorted(set(imports(module, source, is_package)) - {"tga_jax.__version__"})
    if covers("configs", module):
        return [f"{module} imports {name}" for name in names if not covered(CONFIGS_MAY_IMPORT, name)]
    allowed = MAY_IMPORT[max((p for p in MAY_IMPORT if covers(p, module)), key=len)]
    broken = []
    for name in names:
        foreign = covers("tga_jax", name) and not covered(allowed, name)
        forbidden = any(covers(p, module) and covered(what, name) for p, what in MUST_NOT_IMPORT.items())
        reserved = any(covers(what, name) and not covered(who, module) for what, who in ONLY_FROM.items())
        if foreign or forbidden or reserved:
            broken.append(f"{module} imports {name}")
    return broken


def modules() -> dict[str, Path]:
    """Our modules by name. The files of configs/ are `configs.<name>`, whether or not that is a package."""
    files = [file for folder in ("tga_jax", "configs") for file in sorted((ROOT / folder).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@pytest.mark.parametrize(("module", "file"), modules().items(), ids=modules().keys())
def test_imports_only_what_it_may(module, file):
    assert violations(module, file.read_text(), file.name == "__init__.py") == []


def test_every_rule_names_a_module_that_exists():
    assert set(MAY_IMPORT) | set(MUST_NOT_IMPORT) <= set(modules())


@pytest.mark.parametrize(
    ("module", "source", "imported"),
    [
        ("tga_jax.errors", "import tga_jax.losses", "tga_jax.losses"),
        ("tga_jax.losses", "from tga_jax import optim", "tga_jax.optim"),
        ("tga_jax.models.layers", "from tga_jax.models import clip", "tga_jax.models.clip"),
        ("tga_jax.models.layers", "from . import clip", "tga_jax.models.clip"),
        ("tga_jax.models.clip", "from tga_jax.data.batch import Batch", "tga_jax.data.batch.Batch"),
        ("tga_jax.models.clip", "from ..data import batch", "tga_jax.data.batch"),
        ("tga_jax.data.tokens", "import jax.numpy as jnp", "jax.numpy"),
        ("tga_jax.data.tokens", "from flax import struct", "flax.struct"),
        ("tga_jax.data.tokens", "def f():\n    from tga_jax.models import llama", "tga_jax.models.llama"),
        ("tga_jax.generate", "from tga_jax import train", "tga_jax.train"),
        ("tga_jax.analysis.states", "from tga_jax.train import run", "tga_jax.train.run"),
        ("tga_jax.evals.runner", "if True:\n    import tga_jax.train", "tga_jax.train"),
        ("tga_jax.serve.app", "from tga_jax.demo import build", "tga_jax.demo.build"),
        ("tga_jax.demo", "from tga_jax import cli", "tga_jax.cli"),
        ("tga_jax.train", "import orbax.checkpoint as ocp", "orbax.checkpoint"),
        ("tga_jax.data.sources", "import tensorflow as tf", "tensorflow"),
        ("tga_jax.weights.hub", "import torch", "torch"),
        ("configs.demo", "from tga_jax import losses", "tga_jax.losses"),
        ("configs.demo", "import os", "os"),
    ],
)
def test_the_checker_finds_a_broken_rule(module, source, imported):
    assert violations(module, source) == [f"{module} imports {imported}"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tga_jax.losses", "import jax\nfrom tga_jax.errors import UserError"),
        ("tga_jax.models.llava", "from tga_jax.models import clip, layers\nfrom tga_jax.errors import UserError"),
        ("tga_jax.data.sources", "import grain\nimport tensorflow_datasets as tfds\nfrom tga_jax.data import tokens"),
        ("tga_jax.retrieval.embed", "from tga_jax.models import clip"),
        ("tga_jax.weights.hub", "from tga_jax.models import llama"),
        ("tga_jax.checkpoints", "import orbax.checkpoint as ocp"),
        ("tga_jax.demo", "from tga_jax import train"),
        ("tga_jax.cli", "from tga_jax import demo, train\nfrom tga_jax import __version__"),
        ("configs.own_data", "from ml_collections import ConfigDict\nfrom configs import demo"),
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
