"""A training from its config: where its parameters come from, and which attention its devices get."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hub_support
import jax
import numpy as np
import pytest
import train_support
from flax.traverse_util import flatten_dict

import tga_jax
from tga_jax.checkpoints.hub import open_hub
from tga_jax.errors import UserError
from tga_jax.guides import Released
from tga_jax.models import attention, layers, presets
from tga_jax.train import origin, setup
from tga_jax.train.config import TrainConfig
from tga_jax.train.optim import OptimConfig
from tga_jax.train.step import LossConfig


@pytest.fixture(scope="module", name="hub")
def fixture_hub(tmp_path_factory) -> Path:
    return hub_support.save(hub_support.model("llava", seed=8), tmp_path_factory.mktemp("hub"))


def config(hub: Path, **fields) -> TrainConfig:
    defaults = {
        "model": "from-hub",
        "init": {"clip": str(hub), "projector": "", "llm": str(hub)},
        "loss": LossConfig(guide=Released(layers=(1,))),
        "dtype": "bfloat16",
        "lora": layers.LoraConfig(2, 4.0, ("query", "down")),
        "optim": OptimConfig(1e-3, (("projector/.*|.*_lora/.*", 1.0), (".*", 0.0))),
    }
    return train_support.config(hub, **{**defaults, **fields})


def test_parts_come_from_a_hub_folder_and_the_rest_is_random(hub, monkeypatch):
    monkeypatch.setitem(presets.LLAVA, "from-hub", lambda: open_hub(hub)[0].config)
    made = config(hub)
    mesh = setup.make_mesh(made)
    model = setup.make_model(made, None)
    state = setup.init_state(made, model, mesh)
    expected = flatten_dict(tga_jax.load(hub, "bfloat16", stacked=True).params, sep="/")
    assert state.frozen.keys() == {path for path in expected if not path.startswith("projector/")}
    for path, x in state.frozen.items():
        assert x.dtype == "bfloat16"
        np.testing.assert_array_equal(np.asarray(x, np.float32), np.asarray(expected[path], np.float32), err_msg=path)
    assert {path.split("/")[2] for path in state.trainable if "llm/" in path} == {"query_lora", "down_lora"}
    assert any(np.any(x != expected[path]) for path, x in state.trainable.items() if path in expected)
    abstract = setup.abstract_state(made, model, mesh)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), abstract)
    # What is trained is whole again, without LoRA, which has not learnt anything yet.
    trained = flatten_dict(setup.trained_params(made, model, state), sep="/")
    assert trained.keys() == {path for path in expected if not path.startswith("clip/")}
    for path, x in trained.items():
        if path.startswith("llm/"):
            np.testing.assert_array_equal(np.asarray(x, np.float32), np.asarray(expected[path], np.float32))


def test_a_projector_may_start_with_outputs_as_long_as_words(hub, monkeypatch):
    real = open_hub(hub)[0].config
    monkeypatch.setitem(presets.LLAVA, "from-hub", lambda: real)
    words = np.asarray(tga_jax.load(hub, "float32", stacked=True).params["llm"]["embed"]["embedding"])
    out, found = real.projector.last, {}
    for length in ("free", "words"):
        made = config(hub, projector_length=length, dtype="float32", lora=None, optim=OptimConfig(1e-3, ((".*", 1.0),)))
        params = setup.init_params(made, setup.make_model(made, None), setup.make_mesh(made))
        found[length] = flatten_dict(params["projector"], sep="/")
    for path, x in found["free"].items():
        factor = np.sqrt(np.mean(words.astype(np.float64) ** 2)) if path == f"{out}/kernel" else 1.0
        np.testing.assert_allclose(found["words"][path], factor * np.asarray(x), rtol=1e-5, err_msg=path)
    for init in ({"projector": str(hub), "llm": str(hub)}, {"projector": "", "llm": ""}, {"llm": str(hub)}):
        with pytest.raises(ValueError, match=r"projector_length: 'words', expected a random projector and a decoder"):
            config(hub, projector_length="words", init=init)


def test_a_hub_folder_of_another_shape_is_named(hub, monkeypatch):
    real = open_hub(hub)[0].config
    other = dataclasses.replace(real, llm=dataclasses.replace(real.llm, num_layers=real.llm.num_layers - 1))
    monkeypatch.setitem(presets.LLAVA, "from-hub", lambda: other)
    made = config(hub)
    with pytest.raises(
        UserError, match=rf"{hub}: does not fit the configured model: llm/blocks/.* is \[3, .*expected \[2,"
    ):
        setup.init_state(made, setup.make_model(made, None), setup.make_mesh(made))


@pytest.mark.parametrize(
    ("place", "change", "said"),
    [
        ("llm", {"rope_theta": 5e5}, "llm.rope_theta is {} there and 500000.0 in the preset"),
        ("llm", {"sliding_window": 7}, "llm.sliding_window is 3 there and 7 in the preset"),
        (
            "llm",
            {"rms_norm_eps": 1e-3, "num_layers": 9},
            "llm.num_layers is 3 there and 9 in the preset, llm.rms_norm_eps",
        ),
        ("vision", {"activation": "gelu"}, "vision.activation is quick_gelu there and gelu in the preset"),
        ("projector", {"feature_layer": -1}, "feature_layer is -2 there and -1 in the preset"),
        ("projector", {"feature_select": "full"}, "feature_select is patch there and full in the preset"),
    ],
)
def test_weights_of_another_architecture_are_named_though_their_shapes_fit(hub, place, change, said):
    real: Any = open_hub(hub)[0].config
    init = {"clip": str(hub), "projector": str(hub), "llm": str(hub)}
    origin.check(init, dataclasses.replace(real, llm=dataclasses.replace(real.llm, dtype="bfloat16")), "mine")
    if place == "vision":
        clip = dataclasses.replace(real.clip, vision=dataclasses.replace(real.clip.vision, **change))
        other = dataclasses.replace(real, clip=clip)
    else:
        llm = dataclasses.replace(real.llm, **change) if place == "llm" else real.llm
        other = dataclasses.replace(real, llm=llm, **(change if place == "projector" else {}))
    with pytest.raises(UserError) as raised:
        origin.check(init, other, "mine")
    part = {"vision": "clip"}.get(place, place)
    assert str(raised.value).startswith(
        f"init.{part}: {hub} does not fit model 'mine': {said.format(real.llm.rope_theta)}"
    )
    assert "\n" not in str(raised.value)


def test_a_folder_without_the_part_is_named(hub, tmp_path):
    mistral = hub_support.save(hub_support.model("mistral"), tmp_path / "mistral")
    real: Any = open_hub(hub)[0].config
    for part in ("clip", "projector"):
        with pytest.raises(
            UserError, match=rf"init.{part}: .*mistral holds no {part}, expected one as in model 'mine'"
        ):
            origin.check({part: str(mistral)}, real, "mine")


@pytest.mark.parametrize(
    ("platform", "fields", "chosen", "said"),
    [
        ("cpu", {}, "blocks", None),
        ("tpu", {"lengths": (128, 384)}, "splash", None),
        ("tpu", {"lengths": (128, 200)}, "blocks", "splash: data.lengths: samples of 200, expected multiples of 128"),
        ("gpu", {}, "cudnn", None),
        ("gpu", {"dtype": "float32"}, "blocks", "cudnn: dtype is float32, expected bfloat16"),
        (
            "gpu",
            {"attention_cap": 30.0},
            "blocks",
            "cudnn: the decoder caps its scores softly at 30.0, which it does not",
        ),
        ("tpu", {"attention": "xla"}, "xla", None),
    ],
)
def test_the_devices_choose_the_attention(hub, platform, fields, chosen, said):
    llm = dataclasses.replace(open_hub(hub)[0].llm, attention_cap=fields.get("attention_cap"))
    made = config(hub, **{name: fields[name] for name in fields.keys() & {"dtype", "attention"}})
    if "lengths" in fields:
        made = dataclasses.replace(made, data=dataclasses.replace(made.data, lengths=fields["lengths"]))
    elsewhere = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
    found, reason = setup.choose_attention(made, llm, elsewhere)
    assert found == chosen
    assert (reason or "").startswith(said or "")
    assert (reason is None) == (said is None)


def test_what_does_not_work_here_is_not_chosen(hub, monkeypatch):
    device = SimpleNamespace(platform="gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(attention, "works", lambda name, head_dim: f"no {name} for heads of {head_dim} here")
    here = SimpleNamespace(devices=np.array([device]))
    llm = open_hub(hub)[0].llm
    assert setup.choose_attention(config(hub), llm, here) == ("blocks", "cudnn: no cudnn for heads of 8 here")
