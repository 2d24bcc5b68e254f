"""Which pictures the demo's report shows."""

import dataclasses

import pytest

from tga_jax.demo import figures, measure, rates


@pytest.mark.parametrize("most", [2, 0])
def test_examples_are_of_the_pictures_that_were_asked_about(world, most):
    items = measure.items(world, "test", most=most)
    speech, question = world.language, world.language.describe[0]
    said = [rates.judged(speech, item, question, "a cat on a red background") for item in items]
    text = rates.ask_text(speech, lambda records: [speech.refusals[0]] * len(records), items)
    measured = {"tga": measure.Measured([], {"test": said})}
    found = figures._examples(world, {"tga": "TGA"}, measured, text)
    asked = {speech.caption(item.scene) for item in items}
    assert {example.caption for example in found} <= asked
    scenes = {item.kind for item in items}
    assert len(found) == len(scenes - {""}) + 3
    assert found[0].answers.keys() == {"TGA", figures.TEXT_LABEL}
    assert dataclasses.asdict(found[0])["verdicts"][figures.TEXT_LABEL] == "refusal"
