"""A decoder whose frozen kernels have 8 or 4 bits."""

import dataclasses
import functools
import io
import os
import signal
import sys

import hub_support
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import train_support
from flax.traverse_util import flatten_dict, unflatten_dict
from step_support import GUIDES, KEY, RELEASED, batch_of
from test_step_lora import with_lora

import tga_jax
from tga_jax import cli
from tga_jax.bench import prepared
from tga_jax.checkpoints import hub as hub_files
from tga_jax.errors import UserError
from tga_jax.models import layers, presets, quantization
from tga_jax.train import loop, setup, step, stopping
from tga_jax.train.config import TrainConfig
from tga_jax.train.optim import OptimConfig
from tga_jax.train.step import DpoConfig, LossConfig

KINDS = ("int8", "int4", "nf4")
every_kind = pytest.mark.parametrize("kind", KINDS)
# QLoRA, appendix E.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def path_of(name: str) -> str:
    return f"llm/blocks/{name}/kernel"


def reference(kernel: np.ndarray, inputs: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """float64: kernel [L, *inputs, *outputs] as its numbers and scales have it, and a step where that is half a step
    off the kernel, since a number halfway between two may fall to either in float32; else 0."""
    kernel = kernel.astype(np.float64)
    if kind == "int8":
        scale = np.abs(kernel).max(axis=tuple(range(1, 1 + inputs)), keepdims=True) / 127.5
        made = np.clip(np.round(kernel / scale), -128, 127)
        return made * scale, scale * (np.abs(kernel / scale - np.floor(kernel / scale) - 0.5) < 1e-4)
    tile = np.gcd(kernel.shape[inputs], 64)
    moved = np.moveaxis(kernel, inputs, -1)
    tiles = moved.reshape(*moved.shape[:-1], -1, tile)
    largest = np.abs(tiles).max(-1, keepdims=True)
    values = np.arange(-8, 8) / 7.5 if kind == "int4" else np.array(NF4)
    apart = np.abs((tiles / largest)[..., None] - values)
    nearest, second = np.partition(apart, 1, axis=-1)[..., :2].transpose(-1, *range(apart.ndim - 1))
    made, slack = values[apart.argmin(-1)] * largest, largest * (nearest + second) * (second - nearest < 1e-4)
    return tuple(np.moveaxis(x.reshape(moved.shape), -1, inputs) for x in (made, slack))


@every_kind
@pytest.mark.parametrize(
    ("name", "shape", "inputs"),
    [
        *(("query", (2, 48, 2, 3, 8), 1), ("key", (3, 72, 2, 8), 1), ("value", (1, 128, 2, 5), 1)),
        *(("out", (2, 2, 3, 16, 5), 3), ("gate", (2, 192, 7), 1), ("down", (3, 40, 6), 1)),
    ],
)
def test_numbers_and_scales(kind, name, shape, inputs):
    kernel = np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)
    made = quantization.quantize(path_of(name), jnp.array(kernel), kind)
    assert made.qvalue.dtype == {"int8": "int8", "int4": "int4", "nf4": "uint4"}[kind]
    found = np.asarray(quantization.dequantized(made))
    expected, slack = reference(kernel, inputs, kind)
    assert (np.abs(found - expected) <= 1e-5 + slack).all()
    assert (slack > 0).mean() < 0.1
    assert quantization.dequantized(made, jnp.bfloat16).dtype == jnp.bfloat16


def test_what_cannot_be_tiled_is_named(monkeypatch):
    kernel = jnp.ones((2, 12, 5))
    with pytest.raises(UserError, match=r"quantize: 'nf4': llm/blocks/gate/kernel has 12 inputs in a row, expected a"):
        quantization.quantize(path_of("gate"), kernel, "nf4")
    quantization.quantize(path_of("gate"), kernel, "int8")
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match=r"quantize: 'int8' needs the extra qlora \(pip install 'tga_jax\[qlora\]'\)"):
        quantization.quantize(path_of("gate"), kernel, "int8")


def quantized(params: dict, kind: str) -> tuple[dict, dict]:
    """The parameters with the blocks' kernels quantized, and with the same made whole."""
    flat = flatten_dict(params, sep="/")
    made = {path: quantization.quantize(path, x, kind) for path, x in flat.items() if quantization.applies(path)}
    assert len(made) == 7
    whole = {path: quantization.dequantized(x) for path, x in made.items()}
    return unflatten_dict(flat | made, sep="/"), unflatten_dict(flat | whole, sep="/")


def both(kind: str, loss: LossConfig, **changes) -> list[tuple[step.TrainState, dict]]:
    """The state and metrics after two steps, of quantized kernels and of the same made whole."""
    model, params = with_lora()
    model = dataclasses.replace(model, llm=dataclasses.replace(model.llm, **changes))
    config = OptimConfig(1e-2, ((r"(projector|.*_lora)/.*", 1.0), (r".*", 0.0)), warmup=0.0)
    run = jax.jit(functools.partial(step.train_step, model, loss, config, 4))
    found = []
    for tree in quantized(params, kind):
        state = step.init_state(tree, config, 4, None if loss.dpo is None else "float32")
        for _ in range(2):
            state, metrics = run(state, batch_of(), KEY)
        found.append((state, metrics))
    return found


@pytest.mark.parametrize(
    ("kind", "loss", "changes"),
    [
        ("nf4", LossConfig(guide=RELEASED), {"remat": "full"}),
        *(pytest.param(kind, LossConfig(guide=RELEASED), {}, marks=pytest.mark.slow) for kind in ("int8", "int4")),
        *(pytest.param("nf4", LossConfig(guide=guide), {}, marks=pytest.mark.slow) for guide in GUIDES.values()),
        pytest.param("int8", LossConfig(dpo=DpoConfig(beta=0.3), lm=0.0), {"remat": "names"}, marks=pytest.mark.slow),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_step_is_that_with_the_same_kernels_whole(kind, loss, changes):
    (found, metrics), (expected, wanted) = both(kind, loss, **changes)
    for name, value in wanted.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    for path, x in expected.trainable.items():
        np.testing.assert_allclose(found.trainable[path], x, rtol=1e-3, atol=1e-5, err_msg=path)
    assert quantization.is_quantized(found.frozen[path_of("down")])


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory):
    """A LLaVA of the hub, and the same as a checkpoint of ours."""
    root = tmp_path_factory.mktemp("quantized")
    hub_support.save(hub_support.model("llava", seed=8), root / "hub")
    hub_files.import_hub(root / "hub", root / "ours", "float32")
    return root


def config(folder, source="hub", **fields) -> TrainConfig:
    place = str(folder / source)
    defaults = {
        "model": "from-hub",
        "init": {"clip": place, "projector": place, "llm": place},
        "loss": LossConfig(guide=RELEASED),
        "lora": layers.LoraConfig(2, 4.0, ("query", "down")),
        "optim": OptimConfig(1e-3, ((r".*_lora/.*", 1.0), (r".*", 0.0))),
        "quantize": "int8",
    }
    return train_support.config(folder / "hub", **{**defaults, **fields})


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("ours", "int4"),
        *(pytest.param("hub", kind, marks=pytest.mark.slow) for kind in KINDS),
        *(pytest.param("ours", kind, marks=pytest.mark.slow) for kind in ("int8", "nf4")),
    ],
)
def test_a_training_starts_from_a_checkpoint(folder, source, kind, monkeypatch):
    monkeypatch.setitem(presets.LLAVA, "from-hub", lambda: hub_files.open_hub(folder / "hub")[0].config)
    made = config(folder, source, quantize=kind)
    model, laid = setup.make_model(made, None), setup.make_mesh(made)
    state, abstract = setup.init_state(made, model, laid), setup.abstract_state(made, model, laid)
    plain = setup.init_state(dataclasses.replace(made, quantize=None), model, laid)
    described = [jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree) for tree in (state, abstract)]
    assert described[0] == described[1]
    assert {path for path, x in state.frozen.items() if quantization.is_quantized(x)} == {
        path for path in plain.frozen if quantization.applies(path)
    }
    for path, x in plain.frozen.items():
        expected = quantization.quantize(path, x, kind) if quantization.applies(path) else x
        jax.tree.map(np.testing.assert_array_equal, state.frozen[path], expected)
    taken, before = (prepared.bytes_per_device(tree.frozen) for tree in (state, plain))
    assert taken < before
    # What is trained is whole again: these kernels, and what LoRA adds.
    trained = flatten_dict(setup.trained_params(made, model, state), sep="/")
    whole = {path: quantization.dequantized(x) for path, x in state.frozen.items()}
    assert trained.keys() == {path for path in whole if path.startswith("llm/")}
    for path, x in trained.items():
        np.testing.assert_array_equal(x, np.asarray(whole[path]), err_msg=path)  # it has not learnt anything yet


def test_there_must_be_something_to_quantize(folder, monkeypatch):
    monkeypatch.setitem(presets.LLAVA, "from-hub", lambda: hub_files.open_hub(folder / "hub")[0].config)
    made = config(folder, lora=None, optim=OptimConfig(1e-3, ((".*", 1.0),)))
    with pytest.raises(UserError, match=r"quantize: 'int8', but no kernel of a decoder block is frozen"):
        setup.init_state(made, setup.make_model(made, None), setup.make_mesh(made))
    with pytest.raises(ValueError, match=r"quantize: 'int3', expected one of None, int8, int4, nf4"):
        config(folder, quantize="int3")


@pytest.mark.slow
def test_a_stopped_training_continues_bit_for_bit_and_is_exported_as_it_was(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(presets.LLAVA, "from-hub", lambda: hub_files.open_hub(folder / "hub")[0].config)
    train_support.write_data(tmp_path / "data")
    data = train_support.config(tmp_path / "data").data
    data = dataclasses.replace(data, tokenizer=str(folder / "hub"), lengths=(96,), caption_length=32)
    rates = (("(projector|.*_lora)/.*", 1.0), (".*", 0.0))
    made = config(folder, quantize="nf4", data=data, optim=OptimConfig(3e-2, rates), checkpoint_every=2)
    console = rich.console.Console(file=io.StringIO())
    loop.run(made, tmp_path / "whole", console)
    train_support.at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(stopping.Interrupted):
        loop.run(made, tmp_path / "run", console)
    with pytest.raises(UserError, match=r'config.quantize is "nf4" there and "int8" now'):
        loop.run(dataclasses.replace(made, quantize="int8"), tmp_path / "run", console)
    loop.run(made, tmp_path / "run", console)
    found = []
    for name in ("whole", "run"):
        assert (
            cli.run(["convert", f"--from-run={tmp_path}/{name}", f"--to={tmp_path}/{name}-ours", "--dtype=fp32"]) == 0
        )
        found.append(flatten_dict(tga_jax.load(tmp_path / f"{name}-ours", stacked=True).params, sep="/"))
    assert found[0].keys() == found[1].keys()
    first = flatten_dict(tga_jax.load(folder / "hub", "float32", stacked=True).params, sep="/")
    for path, x in found[0].items():
        np.testing.assert_array_equal(x, found[1][path], err_msg=path)
        if quantization.applies(path):
            kept = quantization.dequantized(quantization.quantize(path, first[path], "nf4"))
            moved = np.abs(np.asarray(x - kept)).max()
            targeted = path.split("/")[2] in made.lora.targets
            assert moved > 1e-3 if targeted else moved == 0, path
