"""The configs of public models, by shapes alone: every field is known, and what trains is what should."""

import math
from pathlib import Path

import jax
import pytest

from configs import reproduce
from tga_jax import cli, config
from tga_jax.cli.flags import parse_with_config
from tga_jax.demo.config import LORA, DemoConfig
from tga_jax.models import presets
from tga_jax.train import setup
from tga_jax.train.config import TrainConfig
from tga_jax.train.step import LossConfig

ROOT = Path(__file__).resolve().parents[2]
SIZES = {  # in millions: the parameters of the decoder, and of a LoRA of rank 16 of all its kernels
    "mistral_7b": (7241.7, 32 * 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)) / 1e6),
    "vicuna_7b": (6738.4, 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) / 1e6),
    "llama2_7b": (6738.4, 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) / 1e6),
}
CLIP_L, MLP = 303.5, 20.98  # its vision tower's first 23 blocks; LLaVA's projector
# One that reads 1,024 numbers of a patch at a width of 1,024, by 64 queries and two blocks: two norms and 4,096 numbers
# out, keys and values; the queries; of a block two norms, four kernels of which two are twice as wide.
_D = 1024
RESAMPLER = (
    2 * 2 * _D + (_D + 1) * 4096 + 2 * (_D + 1) * _D + 64 * _D
    + 2 * (2 * 2 * _D + 2 * (_D + 1) * _D + (_D + 1) * 2 * _D + (2 * _D + 1) * _D)
) / 1e6  # fmt: skip


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
    llm, lora = SIZES[name]
    ours, first = variant in ("fit", "tiled"), variant in FIRST
    projector = RESAMPLER if ours else MLP
    mesh = setup.make_mesh(made)
    model = setup.make_model(made, 32000)
    state = setup.abstract_state(made, model, mesh)
    whole = 0 if first or ours else llm  # whether the decoder trains, and not a LoRA of it
    assert millions(state.trainable) == pytest.approx(projector + whole + (lora if variant == "tiled" else 0), rel=1e-3)
    assert millions(state.frozen) == pytest.approx(CLIP_L + llm - whole, rel=1e-3)
    assert {x.dtype.name for x in jax.tree.leaves(state.frozen)} == {"bfloat16"}
    assert {x.dtype.name for x in jax.tree.leaves(state.trainable)} == {"float32"}
    if made.optim.kind == "adam":
        assert millions(state.opt_state) == pytest.approx(2 * millions(state.trainable), rel=1e-3)
    batch = setup.abstract_batch(made, model, mesh)
    assert batch.tokens.shape == (made.batch_size, made.data.lengths[-1])
    assert getattr(made.loss.guide, "kind", None) == KINDS.get(variant, "released")
    assert made.loss.lm == (variant != "fit")
    assert made.init["projector"] == ("" if first else "runs/fit" if ours else "runs/stage1")
    assert (made.batch_size, made.steps) == ((256, 2181) if first else (128, 5198))


def test_the_small_one_is_the_recipe_of_the_real_language_model():
    """Of configs/reproduce.py's row `tga`: guide, optimiser, LoRA, and a projector of the same kind."""
    row = config.build(DemoConfig, reproduce.get_config()).rows["tga"]
    for variant, stage in (("", row.stages["fit"]), ("tiled", row.stages["stage2"])):
        made = built("smollm2", variant, "--config.mesh.fsdp=1")
        assert made.loss == LossConfig(lm=stage.lm, guide=row.guide)
        found = made.optim.kind, made.optim.learning_rate, made.optim.weight_decay
        assert found == (stage.optimizer, stage.learning_rate, stage.weight_decay)
        assert (made.optim.newton_schulz, made.optim.preconditioning) == (stage.newton_schulz, stage.preconditioning)
        assert made.lora == (LORA if variant else None)
        assert made.projector_length == ("free" if variant else "words")
        state = setup.abstract_state(made, setup.make_model(made, 49152), setup.make_mesh(made))
        lora = {path for path in state.trainable if "_lora/" in path}
        assert bool(lora) == bool(variant)
        assert all(path.startswith("projector/") for path in state.trainable.keys() - lora)
        assert presets.get(made.model).image_tokens == 32


def test_lora_and_the_small_one():
    made = built("fork_me", "", "--config.mesh.fsdp=1")
    assert made.init == {"clip": made.model.vision, "projector": "runs/stage1", "llm": made.model.llm}  # pyright: ignore
    model = setup.make_model(made, presets.get("tga-mistral-7b"))  # its checkpoints are not here
    state = setup.abstract_state(made, model, setup.make_mesh(made))
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
