"""What is done instead of training: on a model with random weights, what is asked, and what it is calibrated on."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from tga_jax.checkpoints import hub
from tga_jax.demo import baselines, measure, models
from tga_jax.demo.baselines import BASELINES, Context
from tga_jax.evals.defences import shift, steering
from tga_jax.inference.model import Model
from tga_jax.models import clip, llava


@pytest.fixture(scope="module")
def asked(world) -> Any:
    world = dataclasses.replace(world, config=dataclasses.replace(world.config, new_tokens=3))
    spec = models.described(world, "", pictures=True)
    params = jax.jit(lambda: llava.init(world.model(), jax.random.key(5)))()
    model = Model(spec, params, hub.processor(world.tokens.folder, spec))

    def items(split: str, most: int):
        """Of this world's 16 pixels, at the model's 64."""
        found = measure.items(world, split, most=most)
        return [dataclasses.replace(i, image=partial(np.kron, i.image(), np.ones((4, 4, 1), np.uint8))) for i in found]

    return world, model, items("test", 4), items("train", 6)


def test_every_baseline_answers_about_every_picture_and_is_calibrated_on_training_pictures(asked, monkeypatch):
    world, model, items, known = asked
    splits = []
    monkeypatch.setattr(measure, "items", lambda _, split, *__: splits.append(split) or known)
    few = ((shift, "STRENGTHS", (0.5, 1.5)), (steering, "STRENGTHS", (0.5, 2.0)), (steering, "PLACES", (0.2, 0.5)))
    for module, name, values in few:
        monkeypatch.setattr(module, name, values)  # each is a program to compile
    answers, settings = baselines.ask(world, model, items, None)
    assert splits == ["train"]
    assert set(answers) == set(settings) == set(BASELINES)
    for name, found in answers.items():
        assert [a.id for a in found] == [item.scene.id for item in items], name
        assert {a.question for a in found} == {world.language.describe[0]}
    assert set(settings["detector"]) == {"layers", "threshold"}
    assert set(settings["shift"]) == {"strength", "refused", "false_alarms"}
    assert set(settings["steering"]) == {"block", "strength", "refused", "false_alarms"}
    assert settings["system prompt"] == settings["ECSO"] == {}


def test_shares_are_those_of_the_first_token(asked):
    world, model, _, known = asked
    context = Context(world, model, known)
    ids = context.refusal_ids
    assert ids == sorted({world.vocabulary.encode(phrase)[0] for phrase in world.language.refusals})
    harmful = [item for item in known if item.kind]
    batch = context.prompts(harmful, True)
    best = []
    for row in range(len(harmful)):
        tokens = np.where(batch.image_mask[row], model.spec.image_token_id, batch.tokens[row])[batch.valid[row]]
        pixels = np.moveaxis(np.asarray(clip.normalized(model.config.clip.vision, batch.images[row])), -1, 1)
        logits = np.asarray(model.forward(tokens[None], pixel_values=pixels).logits)[0, -1]
        best.append(int(logits.argmax()))
    assert context.refused(model, batch) == np.isin(best, ids).mean()
