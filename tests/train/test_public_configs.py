"""The configs of public models, by shapes alone: every field is known, and what trains is what should."""

import math
from pathlib import Path

import jax
import pytest

from tga_jax import cli, config
from tga_jax.cli.flags import parse_with_config
from tga_jax.train import setup
from tga_jax.train.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
SIZES = {  # trainable and frozen parameters, in millions: CLIP-L's first 303.5, the projector's 21, the decoder's
    "mistral_7b": (7241.7, 20.98),
    "vicuna_7b": (6738.4, 20.98),
    "llama2_7b": (6738.4, 20.98),
}


def built(name: str, variant: str = "", *flags: str) -> TrainConfig:
    path = f"--config={ROOT / 'configs' / name}.py" + (f":{variant}" if variant else "")
    found, _ = parse_with_config([path, "--workdir=w", *flags], {"workdir": ""}, None)
    return config.build(TrainConfig, found)


def millions(tree) -> float:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree)) / 1e6


FIRST, SECOND = ("stage1", "released_stage1", "fit"), ("stage2", "released_stage2", "tiled", "baseline")
KINDS = {"stage1": "paper", "stage2": "paper", "fit": "tiled", "tiled": "tiled", "baseline": None}


@pytest.mark.parametrize("variant", FIRST + SECOND)
@pytest.mark.parametrize("name", SIZES)
def test_the_7b_configs(name, variant):
    made = built(name, variant, "--config.mesh.fsdp=1")
    llm, projector = SIZES[name]
    mesh = setup.make_mesh(made)
    model = setup.make_model(made, 32000)
    state = setup.abstract_state(made, model, mesh)
    assert millions(state.trainable) == pytest.approx(projector + (0 if variant in FIRST else llm), rel=1e-3)
    assert millions(state.frozen) == pytest.approx(303.5 + (llm if variant in FIRST else 0), rel=1e-3)
    assert {x.dtype.name for x in jax.tree.leaves(state.frozen)} == {"bfloat16"}
    assert {x.dtype.name for x in jax.tree.leaves(state.trainable)} == {"float32"}
    assert millions(state.opt_state) == pytest.approx(2 * millions(state.trainable), rel=1e-3)
    batch = setup.abstract_batch(made, model, mesh)
    assert batch.tokens.shape == (made.batch_size, made.data.lengths[-1])
    assert getattr(made.loss.guide, "kind", None) == KINDS.get(variant, "released")
    assert made.loss.lm == (variant != "fit")
    assert (made.batch_size, made.steps) == ((256, 2181) if variant in FIRST else (128, 5198))


def test_lora_and_the_small_one():
    made = built("fork_me", "", "--config.mesh.fsdp=1")
    state = setup.abstract_state(made, setup.make_model(made, 32000), setup.make_mesh(made))
    lora = {path for path in state.trainable if "_lora/" in path}
    assert len(lora) == 14
    assert all(path.startswith("projector/") for path in state.trainable.keys() - lora)
    small = built("smollm2", "stage2", "--config.mesh.fsdp=1")
    state = setup.abstract_state(small, setup.make_model(small, 49152), setup.make_mesh(small))
    assert millions(state.trainable) == pytest.approx(134.5 + 0.776, rel=2e-3)


@pytest.mark.parametrize("guide", ["llava.released()", "llava.tiled()", "None"])
def test_in_a_fork_another_guide_is_one_changed_line(tmp_path, guide):
    source = (ROOT / "configs" / "fork_me.py").read_text()
    (tmp_path / "fork.py").write_text(source.replace("llava.paper(hinge_weight=0.5)", guide))
    found, _ = parse_with_config([f"--config={tmp_path}/fork.py", "--workdir=w"], {"workdir": ""}, None)
    kind = getattr(config.build(TrainConfig, found).loss.guide, "kind", None)
    assert kind == {"llava.released()": "released", "llava.tiled()": "tiled", "None": None}[guide]


def test_an_unknown_variant_is_named(capsys):
    assert cli.run(["train", f"--config={ROOT / 'configs' / 'mistral_7b.py'}:stage3", "--workdir=w"]) == 2
    assert (
        "'stage3', expected one of stage1, released_stage1, fit, stage2, released_stage2, tiled, baseline"
        in capsys.readouterr().err
    )
