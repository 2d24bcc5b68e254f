"""What a cell asks its model: by a stand-in for the model, which notes the questions."""

import dataclasses

import numpy as np
import pytest

from tga_jax.demo import attacks, baselines, cells, measure
from tga_jax.demo.cells import BEGUN, TEXT, Cell
from tga_jax.demo.world import source
from tga_jax.demo.world.language import ENGLISH

BENIGN = "This is a cat on green."


@pytest.fixture(scope="module")
def spoken(world, tmp_path_factory):
    """The world with questions in English, and its attachments."""
    config = dataclasses.replace(world.config, language="english", asked=3, core=("base",))
    folder = tmp_path_factory.mktemp("attachments")
    for split in world.splits:
        count = len(world.split(split))
        source.attach(folder, split, np.zeros((count, 1, 1)), [f"retrieved {i}" for i in range(count)])
    return dataclasses.replace(world, config=config), folder


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, int]]:
    """(how the answers are begun, how many records) of every call."""
    calls: list[tuple[str, int]] = []

    def generator(model, new_tokens, begun=""):
        def generate(records):
            calls.append((begun, len(records)))
            return ["a gun" if begun else BENIGN] * len(records)

        return generate

    monkeypatch.setattr(measure, "generator", generator)
    monkeypatch.setattr(baselines, "ask", lambda *_: ({"ECSO": []}, {"ECSO": {}}))
    return calls


TEXTS = {TEXT, f"{TEXT}+things", f"{TEXT}+phrasings"}


def test_the_text_model_is_shown_no_picture(spoken, asked):
    world, _ = spoken
    answers, settings = cells._answers(world, Cell(0, TEXT), None, None)
    assert set(answers) == TEXTS
    assert settings == {}
    assert not any(begun for begun, _ in asked)


@pytest.mark.parametrize("row", ["base", "tga"])
def test_the_first_stage_is_asked_about_known_things_and_the_last_one_all(spoken, asked, row):
    world, folder = spoken
    first, *_, last = sorted(world.config.rows[row].stages)
    answers, settings = cells._answers(world, Cell(0, row, first), None, folder)
    assert set(answers) == TEXTS | {"test", "test+new", f"test{BEGUN}"}
    assert settings == {}
    answers, settings = cells._answers(world, Cell(0, row, last), None, folder)
    keys = {measure.key(*each) for each in measure.measured(world)}
    expected = TEXTS | keys | {f"{split}{BEGUN}" for split in measure.SEEN if split in world.splits}
    if row == "base":  # of the core, and the one that baselines are tried on
        expected |= {f"attack+{name}" for name in attacks.ATTACKS} | {"baseline+ECSO"}
    assert set(answers) == expected
    assert settings == ({"ECSO": {}} if row == "base" else {})


def test_answers_are_begun_about_the_harmful_pictures_that_are_asked_about(spoken, asked):
    world, folder = spoken
    stage = max(world.config.rows["tga"].stages)
    answers, _ = cells._answers(world, Cell(0, "tga", stage), None, folder)
    harmful = [a.id for a in answers["test"] if a.kind]
    found = answers[f"test{BEGUN}"]
    assert [a.id for a in found] == harmful
    assert len(harmful) == 3
    assert {a.answer for a in found} == {"a gun"}
    assert [a.correct for a in found] == ["gun" in a.id for a in found]
    seen = [split for split in measure.SEEN if split in world.splits]
    assert [call for call in asked if call[0]] == [(ENGLISH.begun, 3)] * len(seen)
    assert cells.rates_of(ENGLISH, answers)[f"test{BEGUN}"].keys() == {"harmful_seen", "dsr_of_seen"}
