"""Targets by name, and that JAX compiles for them without their hardware."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tga_jax.bench import targets
from tga_jax.errors import UserError
from tga_jax.train.chips import CHIPS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "chip", "count", "shape", "slices"),
    [
        ("1xH200", "H200", 1, (), 1),
        ("8xH100", "H100", 8, (), 1),
        ("4xA100-40GB", "A100-40GB", 4, (), 1),
        ("24xB200", "B200", 24, (), 3),  # machines
        ("v5e-256", "v5e", 256, (16, 16), 1),
        ("2xv5e-256", "v5e", 512, (16, 16), 2),
        ("v5p-128", "v5p", 64, (4, 4, 4), 1),  # named by TensorCores
        ("3xv7x-128", "v7x", 384, (4, 4, 4), 3),  # which are JAX's devices there
        ("v6e-8", "v6e", 8, (2, 4), 1),
    ],
)
def test_a_name_says_chip_and_count(name, chip, count, shape, slices):
    target = targets.parse(name)
    assert target.chip is CHIPS[chip]
    assert (target.count, target.shape, target.slices) == (count, shape, slices)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("12xH200", "1 to 8 GPUs, or machines of 8"),
        ("0xH200", "1 to 8 GPUs"),
        ("8xV100", "such as 8xH200"),
        ("0xv5e-8", "v5e- and one of 1, 4, 8, 16"),
        ("v5e-24", "v5e- and one of 1, 4, 8, 16"),
        ("v5p-7", "v5p- and one of 8, 16, 32"),
        ("v5p-4", "v5p- and one of 8, 16, 32"),
        ("256", "such as 8xH200"),
    ],
)
def test_what_there_is_none_of_is_said(name, expected):
    with pytest.raises(UserError, match=f"target: '{name}'.*{expected}"):
        targets.parse(name)


def test_shapes_have_as_many_chips_as_their_names_say():
    for shapes in (targets._FLAT, targets._CUBES):
        for count, shape in shapes.items():
            product = 1
            for side in shape:
                product *= side
            assert product == count


def test_a_missing_compiler_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for name, package in (
        ("8xH200", r"--no-deps jax-cuda13-pjrt==\S+ jax-cuda13-plugin=="),
        ("v5e-8", r"jax\[tpu\]=="),
    ):
        with pytest.raises(UserError, match=package):
            targets.prepare(targets.parse(name))


PROGRAM = """
import json, sys
from tga_jax.bench import hlo, targets
from tga_jax.models import sharding
target = targets.parse(sys.argv[1])
targets.prepare(target)
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
devices = targets.devices(target)
mesh = sharding.make_mesh(target.slices, -1, 1, target.slices, devices)

def shape(sizes, spec):
    return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=NamedSharding(mesh, spec))

def loss(weights, x):  # seven layers of 512 x 256 and back, sharded as FSDP does
    def layer(x, w):
        whole = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, P()))
        return jnp.tanh(x @ whole) @ whole.T, None
    return jnp.sum(jax.lax.scan(layer, x, weights)[0])

weights, x = shape((7, 512, 256), P(None, "fsdp")), shape((16 * len(devices), 512), P(("data", "fsdp")))
made = jax.jit(jax.grad(loss), out_shardings=weights.sharding).lower(weights, x).compile()
found = hlo.collectives(made.as_text())
between = hlo.between_slices(found, target.count, target.slices)
sums = hlo.totals(found, {512 * 256})
print(json.dumps({"devices": len(devices), "kind": devices[0].device_kind, "between": between, **sums}))
"""


def compiled(name: str) -> dict:
    made = subprocess.run([sys.executable, "-c", PROGRAM, name], cwd=ROOT, capture_output=True, text=True)
    if "install it" in made.stderr:
        pytest.skip(made.stderr.splitlines()[-1])
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout.splitlines()[-1])


LAYER = 4 * 512 * 256


def test_collectives_of_a_loop_on_fake_devices():
    found = compiled("8xcpu")
    assert found["devices"] == 8
    # Each of seven layers is gathered once and kept for the backward pass; the gradients of its two uses are summed
    # over the devices one by one, where a GPU's compiler adds them before.
    assert found["all-gather"]["parameters"] == 7 * LAYER
    assert found["all-reduce"]["parameters"] == 2 * 7 * LAYER
    assert found["all-gather"]["activations"] == 0


@pytest.mark.parametrize(("name", "kind"), [("1xH200", "H200"), ("8xH200", "H200"), ("2xH100", "H100")])
def test_gpus(name, kind):
    found = compiled(name)
    assert found["devices"] == int(name[0])
    assert kind in found["kind"]
    if name == "8xH200":
        assert found["all-gather"]["parameters"] == 7 * LAYER
        assert found["reduce-scatter"]["parameters"] + found["all-reduce"]["parameters"] == 7 * LAYER


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("v5e-8", "v5 lite", 8),
        ("v5e-256", "v5 lite", 256),
        ("v5p-128", "v5", 64),
        ("v6e-16", "v6 lite", 16),
        ("v7x-16", "TPU7x", 16),
    ],
)
def test_tpu_slices(name, kind, count):
    found = compiled(name)
    assert found["devices"] == count
    assert kind in found["kind"]
    moved = sum(found[k]["parameters"] for k in ("all-gather", "reduce-scatter", "all-reduce"))
    assert moved == 7 * (LAYER + LAYER // 2)  # gathered as bfloat16, in which a TPU multiplies
    assert found["between"] == 0


@pytest.mark.slow
def test_between_two_slices_go_gradients_alone():
    """Each device's part of the gradients of a layer's two uses."""
    found = compiled("2xv5e-16")
    assert found["devices"] == 32
    assert found["between"] == 7 * 2 * LAYER // 16
