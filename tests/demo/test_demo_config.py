"""The demo's config: what it refuses, and what `--quick` is."""

import dataclasses
import importlib

import pytest
import rich.console
from demo_support import ROOT, build, demo_values

from configs import reproduce
from tga_jax import cli, config
from tga_jax.demo import main
from tga_jax.demo.config import DemoConfig
from tga_jax.errors import UserError


def test_the_config_builds():
    built = build()
    assert isinstance(built, DemoConfig)
    assert set(built.rows) == {"base", "tga_paper", "tga_released", "tga"}
    assert [built.rows[name].guide.kind for name in ("tga_paper", "tga_released", "tga")] == [
        "paper",
        "released",
        "tiled",
    ]
    assert not any(stage.guide for stage in built.rows["base"].stages.values())
    for name in ("tga_paper", "tga_released", "tga"):
        assert any(stage.guide for stage in built.rows[name].stages.values())
    assert isinstance(built.rows["tga"].guide.layers, tuple)


@pytest.mark.parametrize(
    "field", ["nonsense", "clip.nonsense", "text.mix.nonsense", "rows.tga.guide.nonsense", "rows.tga.nonsense"]
)
def test_an_unknown_field_at_any_depth_is_named(field):
    values = demo_values(16).to_dict()
    *parents, last = field.split(".")
    inner = values
    for name in parents:
        inner = inner[name]
    inner[last] = 1
    with pytest.raises(UserError, match="nonsense") as error:
        config.build(DemoConfig, values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["emoji", "emoji_ablation", "emoji_mlp", "reproduce"])
def test_only_one_row_is_ever_tuned_to_refuse_pictures(name):
    tuned = {n for n, row in build(name=name).rows.items() if any(s.task == "tuned" for s in row.stages.values())}
    assert tuned == ({"visual_tuning"} if name == "reproduce" else set())


def test_a_guide_and_guided_stages_come_together():
    for row, field, value in (
        ("tga_paper", "stages", None),
        ("base", "guide", {"kind": "tiled"}),
        ("tga", "guide", None),
    ):
        values = demo_values(16).to_dict()
        if field == "stages":
            for stage in values["rows"][row]["stages"].values():
                stage["guide"] = False
        else:
            values["rows"][row][field] = value
        with pytest.raises(UserError, match=r"row.guide: .* stage is guided, expected both or neither"):
            config.build(DemoConfig, values)


def test_another_guide_may_follow_the_first_stage():
    rows = build(name="reproduce").rows
    both, paper = rows["tga_both"], rows["tga_paper"]
    assert [both.guide_of(stage).kind for stage in ("fit", "stage1", "stage2")] == ["tiled", "paper", "paper"]
    assert [paper.guide_of(stage).kind for stage in paper.stages] == ["paper", "paper"]
    assert rows["base"].guide_of("stage1") is None
    alone = {"fit": both.stages["fit"]}
    with pytest.raises(ValueError, match=r"row\.after: a guide, and no later stage is guided"):
        dataclasses.replace(both, stages=alone)


def test_the_core_is_some_of_the_rows():
    config = build(name="reproduce")
    assert config.core_rows == config.core == ("base", "tga_paper", "tga")
    assert build().core_rows == tuple(build().rows)
    with pytest.raises(ValueError, match=r"core: 'none', expected some of base"):
        dataclasses.replace(config, core=("none",))


def test_a_missing_or_unfit_field_is_named():
    values = demo_values(16).to_dict()
    del values["rows"]["tga"]["stages"]["stage2"]["learning_rate"]
    with pytest.raises(UserError, match="learning_rate"):
        config.build(DemoConfig, values)
    values = demo_values(16).to_dict()
    values["clip"]["steps"] = "many"
    with pytest.raises(UserError, match="steps"):
        config.build(DemoConfig, values)


def test_quick_is_what_its_note_says():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(ROOT))
        module = importlib.import_module("configs.emoji")
    full, quick = (config.build(DemoConfig, module.get_config(kind)) for kind in ("", "quick"))
    assert set(quick.rows) == {"base", "tga"} < set(full.rows)
    pairs = [(quick.clip, full.clip), (quick.text, full.text)]
    for name, row in quick.rows.items():
        assert row.guide == full.rows[name].guide
        pairs += [(stage, full.rows[name].stages[at]) for at, stage in row.stages.items()]
    for short, long in pairs:
        assert dataclasses.replace(short, steps=long.steps) == long
        assert 2 * short.steps <= long.steps
    assert "without --quick" in quick.note
    assert full.note == ""


@pytest.mark.parametrize("other", ["--config=configs/mine.py", "--config"])
def test_quick_and_a_config_are_refused(other, capsys):
    assert cli.run(["demo", "--quick", other]) == 2
    assert "--quick: stands for --config=configs/emoji.py:quick, expected no other --config" in capsys.readouterr().err


def test_one_clip_serves_all_rows_of_the_demo(tmp_path):
    values = reproduce.get_config()
    made = config.build(DemoConfig, values)
    with pytest.raises(UserError, match=r"rows.base_patches.patches: True, expected False"):
        main.run(made, tmp_path / "run", tmp_path / "parts", rich.console.Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_a_row_that_sees_with_trained_patches_needs_their_training():
    values = reproduce.get_config()
    values.patches = None
    with pytest.raises(UserError, match=r"patches: None, and row base_patches sees with that CLIP"):
        config.build(DemoConfig, values)
