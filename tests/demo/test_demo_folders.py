"""The folders of the demo's trainings: one changed line repeats only what depends on it."""

import dataclasses
from pathlib import Path

import pytest
from demo_support import build, recorded

from tga_jax.demo import trainings
from tga_jax.demo.world import source
from tga_jax.models import presets
from tga_jax.models.projectors import Mlp2xGelu


@pytest.fixture
def folders_of(world, monkeypatch):
    """A function: changes of the config -> the folders of all trainings."""
    # Other seeds' scenes need not be drawn for it, nor are the lengths of batches what is looked at.
    split = world.split("train")
    monkeypatch.setattr(source, "emoji_split", lambda *_: split)
    monkeypatch.setattr(trainings, "_LOOKED_AT", {"": 8})

    def folders(changes: dict | None = None, name: str = "emoji") -> dict[str, Path]:
        return recorded(dataclasses.replace(world, config=build(changes, name)), monkeypatch)[1]

    return folders


def changed(before: dict[str, Path], after: dict[str, Path]) -> set[str]:
    assert set(before) == set(after)
    return {name for name in before if before[name] != after[name]}


def test_every_training_has_a_folder_of_its_own_and_keeps_it(folders_of):
    before = folders_of()
    assert len(set(before.values())) == len(before)
    assert folders_of() == before


def test_rows_share_the_stages_that_they_have_in_common(folders_of):
    found = folders_of(name="emoji_ablation")
    assert found["tga-fit"] == found["tga_harsh_stage2-fit"] != found["tga_benign-fit"]
    assert (
        found["tga-fit"] == found["tga_stage1-fit"] == found["tga_unguided_stage2-fit"] != found["tga_read_layers-fit"]
    )
    assert found["base-stage1"] == found["base_gentle-stage1"] == found["tga_distill-stage1"]
    last = [f"{name}-{max(row.stages)}" for name, row in build(name="emoji_ablation").rows.items()]
    assert len({found[name] for name in last}) == len(last)


def test_one_changed_line_repeats_only_what_depends_on_it(folders_of):
    before = folders_of()
    names = set(before)
    of_row = {row: {n for n in names if n.startswith(f"{row}-")} for row in build().rows}
    assert changed(before, folders_of({"rows.tga.guide.weight": 0.123})) == of_row["tga"]
    assert changed(before, folders_of({"rows.tga_paper.guide.pair_weight": 0.123})) == of_row["tga_paper"]
    assert changed(before, folders_of({"rows.base.stages.stage1.steps": 123})) == of_row["base"]
    assert changed(before, folders_of({"rows.base.stages.stage2.steps": 123})) == {"base-stage2"}
    assert changed(before, folders_of({"rows.tga.stages.stage2.learning_rate": 0.123})) == {"tga-stage2"}
    assert changed(before, folders_of({"clip.steps": 123})) == names - {"text"}
    assert changed(before, folders_of({"text.steps": 123})) == names - {"clip"}
    assert changed(before, folders_of({"new_tokens": 3, "name": "other"})) == set()


def test_another_projector_repeats_neither_clip_nor_the_text_model(folders_of, monkeypatch):
    before = folders_of()
    plain = presets.LLAVA["emoji"]
    monkeypatch.setitem(presets.LLAVA, "emoji", lambda: dataclasses.replace(plain(), projector=Mlp2xGelu(hidden=96)))
    assert changed(before, folders_of()) == set(before) - {"clip", "text"}


def test_another_seed_repeats_everything(folders_of):
    before = folders_of()
    assert changed(before, folders_of({"seed": 1})) == set(before)


def test_folder_names_do_not_depend_on_where_the_parts_lie(world, tmp_path):
    def name(parts: Path, seed: int) -> str:
        return dataclasses.replace(world, parts=parts).folder("x", [seed, str(parts / "scenes")]).name

    first = name(tmp_path / "here", 1)
    assert first.startswith("x-")
    # A folder called like a number of the config must not swallow that number.
    assert name(Path("1"), 1) == name(Path("runs/parts"), 1) == first
    assert len({name(Path("1"), seed) for seed in (0, 1, 11, 111)}) == 4
