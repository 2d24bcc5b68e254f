"""Moved hidden states: which are moved and by how much, that decoding knows of it, and what is chosen."""

import dataclasses
import json
from typing import Any

import evaluate_support
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import tga_jax
from tga_jax.analysis.patching import text_twins
from tga_jax.errors import UserError
from tga_jax.evals import defences
from tga_jax.evals.asking import Asker, Question
from tga_jax.evals.benchmark import BenchmarkSample
from tga_jax.evals.defences import calibration, shift, steering
from tga_jax.inference.decode import embed
from tga_jax.models import llama, llava, presets
from tga_jax.models.projectors import Linear, Mlp2xGelu, Resampler

RANDOM = np.random.default_rng(3)
RESAMPLER = Resampler(queries=5, num_layers=2, num_heads=2, hidden=8)
PICTURE = Image.fromarray(RANDOM.integers(0, 256, (30, 30, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Of one checkpoint, by whether its blocks are stacked."""
    folder = evaluate_support.write_checkpoint(tmp_path_factory.mktemp("steering") / "model")
    return {stacked: tga_jax.load(folder, "float32", stacked=stacked) for stacked in (True, False)}


def batch(model):
    ask = Asker(model, "chat", None, 4, 2)
    prompts = [ask.prompt("<image>\nw10 w11", 1), ask.prompt("w11 w12 w13", 0), ask.prompt("<image>\nw14", 1)]
    return model.processor.batch(prompts, [[PICTURE], [], [PICTURE]])


def states(model) -> np.ndarray:
    return np.asarray(steering.last_states(model.config, model.params, batch(model)))


@pytest.mark.parametrize("stacked", [True, False])
def test_a_steered_model_adds_the_vector_behind_one_block_at_every_position(models, stacked):
    model = models[stacked]
    size = model.config.llm.hidden_size
    vector = RANDOM.normal(size=size).astype(np.float32)
    for block in range(model.config.llm.num_layers):
        before, after = states(model), states(steering.steered(model, block, vector))
        np.testing.assert_allclose(after[: block + 1], before[: block + 1], atol=1e-6)
        np.testing.assert_allclose(after[block + 1] - before[block + 1], np.tile(vector, (3, 1)), atol=1e-5)
        assert abs(after[-1] - before[-1]).max() > 0.1
    np.testing.assert_array_equal(states(steering.steered(model, 0, 0 * vector)), states(model))


def test_a_vector_moves_all_positions_in_decoding_too(models):
    """Cached decoding of a steered model gives the greedy tokens of its full forward."""
    model = steering.steered(models[False], 1, 3 * RANDOM.normal(size=models[False].config.llm.hidden_size))
    ask = Asker(model, "chat", None, 4, 2)
    prompts = [ask.prompt("w10 w11 w12", 0), ask.prompt("w13", 0)]
    vocabulary = model.processor.vocabulary
    said = [vocabulary.encode(f" {text}")[-4:] for text in model.generate(prompts, None, new_tokens=4)]
    plain = [vocabulary.encode(f" {text}")[-4:] for text in models[False].generate(prompts, None, new_tokens=4)]
    assert said != plain
    for prompt, answer in zip(prompts, said, strict=True):
        tokens = [*model.processor.batch([prompt], [[]]).tokens[0].tolist(), *answer]
        best = np.asarray(model.forward(np.array([tokens])).logits)[0].argmax(-1)
        assert best[-len(answer) - 1 : -1].tolist() == answer


def test_directions_are_differences_of_means(models):
    """Against the door for Python, prompt by prompt."""
    model = models[False]
    ask = Asker(model, "chat", None, 4, 2)
    texts = {"harmful": ["w10 w11 w12", "w13"], "benign": ["w14 w15", "w16 w17 w18 w19", "w20"]}
    batches, means = {}, {}
    for kind, asked in texts.items():
        prompts = [ask.prompt(text, 0) for text in asked]
        batches[kind] = model.processor.batch(prompts, [[]] * len(prompts))
        alone = [np.asarray(model.forward(model.processor.batch([p], [[]]).tokens).hidden_states) for p in prompts]
        means[kind] = np.mean([one[1:, 0, -1] for one in alone], axis=0)
    found = steering.refusal_directions(model, batches["harmful"], batches["benign"])
    np.testing.assert_allclose(found, means["harmful"] - means["benign"], atol=1e-5)


@pytest.mark.parametrize("projector", [Mlp2xGelu(hidden=8), Linear(), RESAMPLER])
def test_a_corrected_model_moves_its_pictures_and_nothing_else(models, projector):
    model = models[True]
    config: Any = dataclasses.replace(model.config, projector=projector)
    params = {**model.params, **llava.init(config, jax.random.key(1), ("projector",))}
    model = dataclasses.replace(model, spec=dataclasses.replace(model.spec, config=config), params=params)
    pictures = batch(models[True])
    if projector == RESAMPLER:
        keep = np.cumsum(pictures.image_mask, axis=1) <= 5
        pictures = pictures._replace(image_mask=pictures.image_mask & keep)
    vector = shift.picture_difference(model, pictures, text_twins(pictures))
    before = np.asarray(embed(model.config, model.params, pictures))
    moved = shift.corrected(model, vector)
    after = np.asarray(embed(moved.config, moved.params, pictures))
    where = np.asarray(pictures.image_mask)
    np.testing.assert_allclose((after - before)[where], np.tile(vector, (where.sum(), 1)), atol=1e-5)
    np.testing.assert_array_equal(after[~where], before[~where])
    twins = np.asarray(embed(model.config, model.params, text_twins(pictures)))
    np.testing.assert_allclose(after[where].mean(0), twins[where].mean(0), atol=1e-5)


def test_the_best_candidate_is_chosen_and_told(models):
    shares = {1.0: (0.9, 0.5), 2.0: (0.7, 0.1), 3.0: (0.6, 0.0)}
    candidates = [({"strength": s}, dataclasses.replace(models[True], params={"s": s})) for s in shares]
    found = calibration.choose(candidates, lambda model: shares[model.params["s"]])
    assert (found.settings, found.refused, found.false_alarms) == ({"strength": 2.0}, 0.7, 0.1)
    with pytest.raises(UserError, match="no candidates, expected at least one"):
        calibration.choose([], lambda _: (0.0, 0.0))


@pytest.fixture
def calibrated(tmp_path, monkeypatch):
    """A file of eight prompts with pictures, few candidates, and a script in the place of the phrases' judge: a model
    refuses what it answers in another way than the unmoved one."""
    lines = []
    for i in range(8):
        Image.fromarray(RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        known = {"text": f"w{10 + i} w11", "harmful": i < 4, "image": f"{i}.png", "caption": f"w{20 + i} w30"}
        lines.append(json.dumps(known) + "\n")
    (tmp_path / "known.jsonl").write_text("".join(lines))
    monkeypatch.setattr(shift, "STRENGTHS", (0.5, 2.0))
    monkeypatch.setattr(steering, "STRENGTHS", (3.0,))
    monkeypatch.setattr(steering, "PLACES", (0.3, 0.6))
    return tmp_path / "known.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shift", "steering"])
def test_a_calibrated_defence_is_chosen_on_prompts_it_was_not_made_of(models, calibrated, monkeypatch, name):
    model, seen = models[False], []
    ask = Asker(model, "chat", None, 4, 4)

    def shares(own, known, candidate):
        assert own is ask
        seen.append([one.text for one in known])
        return (0.5, 0.0) if len(seen) == 2 else (0.25, 0.0)

    monkeypatch.setattr(calibration, "refused", shares)
    made = defences.make_defence(defences.describe(name, str(calibrated)), ask)
    assert seen == [["w11 w11", "w13 w11", "w15 w11", "w17 w11"]] * 2  # every other one of each kind
    chosen = {
        "shift": {"strength": 2.0},
        "steering": {"block": round(0.6 * model.config.llm.num_layers), "strength": 3.0},
    }
    assert made.chosen == {**chosen[name], "refused": 0.5, "false_alarms": 0.0}  # pyright: ignore
    questions = [
        Question(0, BenchmarkSample("a", "<image>\nw10", (lambda: PICTURE,)), "image"),
        Question(1, BenchmarkSample("b", "w11 w12"), "text"),
    ]
    plain, moved = (d.answer(ask, questions) for d in (defences.plain.Plain(), made))
    assert [a.prompt for a in moved] == [a.prompt for a in plain]
    assert moved[0].answer != plain[0].answer
    assert (moved[1].answer == plain[1].answer) == (name == "shift")  # which moves pictures alone


def test_the_shift_is_to_the_mean_of_captions_words(models, calibrated):
    """Against the table of words: a caption said over and over in the picture's place."""
    model = models[False]
    known = calibration.read(calibrated)[:3]
    pictures = shift._captioned(Asker(model, "chat", None, 4, 4), known)
    found = shift.picture_difference(model, pictures, text_twins(pictures))
    own = np.asarray(embed(model.config, model.params, pictures))[np.asarray(pictures.image_mask)].mean(0)
    table, places = np.asarray(model.params["llm"]["embed"]["embedding"]), int(pictures.image_mask[0].sum())
    words = []
    for one in known:
        ids = model.processor.vocabulary.encode(one.caption)
        words += [table[ids[(p - places) % len(ids)]] for p in range(places)]
    np.testing.assert_allclose(found, np.mean(words, axis=0) - own, atol=1e-5)


def test_shares_are_refusals_of_what_is_shown(models, calibrated):
    known = calibration.read(calibrated)
    asked = []

    @dataclasses.dataclass
    class Script:
        model: Any = None

        def prompt(self, text, pictures):
            return f"[{pictures}] {text}"

        def answers(self, prompts, pictures, numbers, new_tokens):
            asked.extend(zip(prompts, map(len, pictures), strict=True))
            return ["I can't help with that." if i in (0, 1, 2, 5) else "A cup." for i in range(len(prompts))]

    found = calibration.refused(Script(), known, models[True])  # pyright: ignore[reportArgumentType]
    assert found == (0.75, 0.25)
    assert asked[0] == ("[1] w10 w11", 1)


@pytest.mark.parametrize(
    ("lines", "name", "said"),
    [
        (
            [{"text": "a", "harmful": True}, {"text": "b", "harmful": False}] * 2,
            "shift",
            "no line with an image and its",
        ),
        ([{"text": "a", "harmful": True}, {"text": "b", "harmful": False}], "steering", "at least two of each"),
    ],
)
def test_a_calibration_that_cannot_be_used_is_said(models, tmp_path, lines, name, said):
    path = tmp_path / "known.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=said):
        defences.make_defence(defences.describe(name, str(path)), Asker(models[True], "chat", None, 4, 4))


def test_blocks_without_a_vector_have_none():
    config = presets.LLM["llm-emoji"]
    tokens = jnp.zeros((1, 2), jnp.int32)
    init = jax.eval_shape(
        lambda: llama.Decoder(config).init(jax.random.key(0), tokens, tokens == 0, method="from_tokens")
    )
    assert not any("shift" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(init))
