"""`validate-data --config` says what the training does: of every sample, and for every reason that a training has."""

import dataclasses
import io
import json
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import rich.console
import train_support
from PIL import Image

from tga_jax.data import pipeline, sources, validate
from tga_jax.data.llava_source import LlavaSource
from tga_jax.data.pipeline import Policy
from tga_jax.data.templates import TEMPLATES
from tga_jax.data.tokens import tokenize
from tga_jax.errors import UserError
from tga_jax.guides import Paper, Released, Tiled
from tga_jax.models import presets
from tga_jax.train import loop, rehearse, setup
from tga_jax.train.config import TrainConfig
from tga_jax.train.step import DpoConfig, LossConfig


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(presets.LLAVA, "tiny", train_support.model)


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "samples"
    train_support.write_data(folder)
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(noise, "png")
    (folder / "images" / "cut.png").write_bytes(noise.getvalue()[:90])
    return folder


def sample(name: str = "s", question: str = "<image>\ndescribe this", answer: str = "a cat", **fields) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": "0.png", "conversations": turns, "image_caption": "a dog", **fields}


TEXT = {"question": "a gun", "image": None}
LONG = "a cat on a red background " * 8

DPO = LossConfig(lm=0.0, dpo=DpoConfig())
# name -> (sample, how the source and the data differ from the defaults, problem, part of what is said, of the training)
REASONS = {
    "good": (sample(), {}, None, ""),
    "json": ('{"id": "cut', {}, "json", "not JSON"),
    "type": (sample(image=3), {}, "fields", "has a number as `image`"),
    "roles": ({**sample(), "conversations": [{"from": "system", "value": "x"}]}, {}, "roles", "has 'system'"),
    "silent": (sample(answer=" "), {}, "targets", "has an empty `conversations[1].value`"),
    "no target": (sample(answer="\u200b", **TEXT), {"template": "plain"}, None, ""),
    "count": (sample(question="describe this"), {}, "placeholders", "has 0 <image> and 1 images"),
    "in R": (sample(retrieved_caption="<image> a"), {}, "placeholders", "has <image> in `retrieved_caption`"),
    "in C": (sample(image_caption="<image> a"), {}, "placeholders", "has <image> in `image_caption`"),
    "in answer": (sample(answer="<image>"), {}, "placeholders", "has <image> in `conversations[1].value`"),
    "outside": (sample(image="../0.png"), {}, "image_names", "'../0.png' is no name inside it"),
    "gone": (sample(image="gone.png"), {}, "missing_images", "has no file 'gone.png'"),
    "no store": (sample(), {"images": ""}, "missing_images", "expected data.source.images with its folder"),
    "damaged": (sample(image="cut.png"), {}, "corrupt_images", "cut.png: cannot be read as an image"),
    "skipped": (sample(image="cut.png"), {"policy": Policy(missing="skip")}, "corrupt_images", None),
    "gone, skipped": (sample(image="gone.png"), {"policy": Policy(missing="skip")}, "missing_images", None),
    "toxic": (sample("tox1"), {}, "toxic_ids", "expected data.source.toxic"),
    "toxic text": (sample("tox1", image="gone.png"), {"toxic": "text"}, None, ""),
    "toxic picture": (sample("tox1", image="gone.png"), {"toxic": "picture"}, "missing_images", "has no file"),
    "broken up": (
        sample("tox1", question="<im<image>age> <image>", image=["0.png", "1.png"]),
        {"toxic": "text"},
        "template",
        "1 <image> and 0 images",
    ),
    "no markers": (sample(), {"template": "chatml"}, "template", "the tokenizer lacks <|im_start|>"),
    "long C": (sample(image_caption=LONG), {}, "long_captions", "caption of 48 tokens, expected under 12"),
    "long": (sample(answer=LONG), {}, "too_long", "tokens, expected at most 40"),
    "long by its template": (sample(answer="a " * 30), {}, "too_long", "41 tokens, expected at most 40"),
    "long by R": (sample(retrieved_caption=LONG), {}, "too_long", "tokens, expected at most 40"),
    "R not in the prompt": (sample(retrieved_caption=LONG), {"retrieved_in_prompt": False}, None, ""),
    "cut": (sample(answer=LONG), {"policy": Policy(too_long="cut")}, "cut", None),
    "cut before the answer": (
        sample(question="<image>\n" + LONG),
        {"policy": Policy(too_long="cut")},
        "too_long",
        "cut to 40 tokens it has no target left",
    ),
    "cut image": (
        sample(question=LONG + "<image> <image>", image=["0.png", "1.png"]),
        {"policy": Policy(too_long="cut")},
        "too_long",
        "it loses a part of an image",
    ),
    "rejected": (sample(), {"loss": DPO}, "rejected", "no `rejected` answer, expected one beside the chosen one"),
    "rejected, too long": ({**sample(), "rejected": LONG}, {"loss": DPO}, "too_long", "tokens, expected at most 40"),
    "rejected, unasked": ({**sample(), "rejected": LONG}, {}, None, None),
    "labels": (sample(answer="a cat on a red background"), {"labels": (3,)}, "labels", "7 targets, expected at most 3"),
    "labels, cut": (sample(answer=LONG), {"labels": (40,), "policy": Policy(too_long="cut")}, "cut", None),
}


def config(folder: Path, samples: list, place: Path, **fields) -> TrainConfig:
    """fields: of the source, of the data, or of the training."""
    place.write_text("".join((s if isinstance(s, str) else json.dumps(s)) + "\n" for s in samples))
    made = train_support.config(folder, batch_size=1, loss=LossConfig())
    own = {f.name for f in dataclasses.fields(LlavaSource)}
    mine = {"path": str(place), "images": str(folder / "images"), **{k: v for k, v in fields.items() if k in own}}
    known = {f.name for f in dataclasses.fields(sources.DataConfig)}
    data = dataclasses.replace(
        made.data, source={"own": LlavaSource(**mine)}, **{k: v for k, v in fields.items() if k in known}
    )
    rest = {k: v for k, v in fields.items() if k not in own | known}
    return dataclasses.replace(made, data=data, **rest)


def trains(made: TrainConfig, count: int = 1) -> str:
    """What the training's pipeline stops with, "" if it yields so many batches."""
    vocabulary = sources.vocabulary(made.data)
    model = setup.make_model(made, vocabulary.size)
    try:
        records = sources.records(made.data, sources.Pictures(model.clip.vision.image_size), made.seed)
        batches = iter(pipeline.iterate(setup.make_batches(made, vocabulary, model, records)))
        for _ in range(count):
            next(batches)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", REASONS)
def test_every_reason_of_a_training(folder, tmp_path, name):
    given, fields, problem, said = REASONS[name]
    made = config(folder, [given], tmp_path / "one.jsonl", **fields)
    report = rehearse.reports(made, decode=True)["own"]
    found = {name: p["places"] for name, p in report["problems"].items() if p["count"]}
    assert list(found) == ([problem] if problem else [])
    stopped = trains(made)
    assert report["fit_for_training"] == (not stopped)
    assert bool(stopped) == bool(said)
    if said:
        assert said in stopped
        assert said in found[problem][0]
        assert found[problem][0].startswith(f"{tmp_path / 'one.jsonl'}: line 1")
        assert "\n" not in found[problem][0]


def test_all_reasons_of_a_file_are_counted_at_once(folder, tmp_path):
    shared = [given for given, fields, _, _ in REASONS.values() if not fields]
    report = rehearse.reports(config(folder, shared, tmp_path / "all.jsonl"), decode=True)["own"]
    expected = [problem for _, fields, problem, _ in REASONS.values() if not fields and problem]
    counted = {name: p["count"] for name, p in report["problems"].items() if p["count"] and name != "duplicate_ids"}
    assert counted == {name: expected.count(name) for name in counted}
    assert sum(counted.values()) == len(expected)
    assert {*validate.PROBLEMS} == {
        *(problem for _, _, problem, _ in REASONS.values() if problem), "guide", "duplicate_ids", "same_captions",
        "special_tokens", "several_images",  # in test_tiles_training.py
    }  # fmt: skip


WORDS = st.lists(
    st.sampled_from(["<image>", "<image>\n", "a", "cat", " ", "\n", "<im", "age>", "</s>", "\u200b", "é", "[INST]"]),
    max_size=9,
).map(" ".join)
JOINED = WORDS.map(lambda text: text.replace(" ", ""))
MOSTLY = st.sampled_from(["a cat", "a dog on a blue background", "é"])
QUESTIONS = st.one_of(WORDS, JOINED)
TEXTS = st.sampled_from([MOSTLY] * 14 + [WORDS, JOINED]).flatmap(lambda texts: texts)
NAMES = st.sampled_from(["0.png", "1.png", "./2.png", "cut.png", "gone.png", "../0.png", ""])
ROLES = st.sampled_from([("human", "gpt")] * 20 + [("gpt", "human"), ("human", "human"), ("system", "gpt")])


@st.composite
def rows(draw) -> dict:
    turns = []
    for human, gpt in draw(st.lists(ROLES, min_size=1, max_size=2)):
        turns += [{"from": human, "value": draw(QUESTIONS)}, {"from": gpt, "value": draw(TEXTS)}]
    count = sum(turn["value"].count("<image>") for turn in turns[::2])
    row = {"id": draw(st.sampled_from(["a", "tox", 7, ""])), "conversations": turns}
    fitting = st.just(["0.png"] * count)
    if images := draw(st.one_of(fitting, fitting, fitting, st.lists(NAMES, min_size=count, max_size=count + 1))):
        row["image"] = images if len(images) > 1 or draw(st.booleans()) else images[0]
    for field in ("image_caption", "retrieved_caption"):
        if draw(st.booleans()):
            draw(st.sampled_from([row, *turns]))[field] = draw(TEXTS)
    return row


FIELDS = st.fixed_dictionaries({
    "template": st.sampled_from(sorted(TEMPLATES)),
    "retrieved_in_prompt": st.booleans(),
    "toxic": st.sampled_from(["", "text", "picture"]),
    "lengths": st.sampled_from([(12,), (40,), (120,), (12, 120)]),
    "caption_length": st.sampled_from([3, 12, 20, 20]),
    "image_mode": st.sampled_from(["pad", "crop"]),
    "fast_images": st.booleans(),
    "policy": st.builds(Policy, st.sampled_from(["fail", "cut"]), st.sampled_from(["fail", "skip"])),
    "labels": st.sampled_from([0, 0, 4, 20]),
})  # fmt: skip


@hypothesis.settings(max_examples=150, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(rows(), FIELDS)
def test_fit_means_that_the_pipeline_yields_it(folder, tmp_path, row, fields):
    least = fields["labels"]
    fields["labels"] = (least, least + 1)[: len(fields["lengths"])] if least else ()
    made = config(folder, [row], tmp_path / "one.jsonl", **fields)
    hypothesis.event("stops" if (stopped := trains(made, 16)) else "yields")
    assert rehearse.reports(made, decode=True)["own"]["fit_for_training"] == (not stopped), stopped


@pytest.mark.parametrize("guide", [Released(layers=(1, 2)), Paper(), Tiled()])
def test_a_guide_with_nothing_to_act_on(folder, tmp_path, guide):
    bare = [{k: v for k, v in sample(str(i)).items() if k != "image_caption"} for i in range(3)]
    made = config(folder, bare, tmp_path / "bare.jsonl", loss=LossConfig(guide=guide), steps=3)
    report = rehearse.reports(made, decode=True)["own"]
    assert [name for name, p in report["problems"].items() if p["count"]] == ["guide"]
    assert not report["fit_for_training"]
    with pytest.raises(UserError, match=r"loss.guide: acts on none of the 3 samples"):
        loop.run(made, tmp_path / "run", rich.console.Console(quiet=True))
    guided = config(folder, [*bare, sample("c", retrieved_caption="a gun")], tmp_path / "c.jsonl", loss=made.loss)
    assert rehearse.reports(guided, decode=True)["own"]["fit_for_training"]
    # In two sources one may have nothing for the guide.
    both = dataclasses.replace(made.data, source={"a": made.data.source["own"], "b": guided.data.source["own"]})
    found = rehearse.reports(dataclasses.replace(made, data=both), decode=True)
    assert {name: one["fit_for_training"] for name, one in found.items()} == {"a": True, "b": True}


def test_lengths_are_those_of_the_trainings_rows(folder, tmp_path):
    made = config(folder, [sample(), sample("t", **TEXT), sample(answer=LONG)], tmp_path / "some.jsonl")
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, policy=Policy("cut")))
    records = sources.records(made.data, sources.Pictures(8), made.seed)
    vocabulary = sources.vocabulary(made.data)
    lengths = {len(tokenize(records[i], vocabulary, 4).tokens) for i in range(9)}
    report = rehearse.reports(made, decode=False)["own"]
    assert (report["lengths"]["least"], report["lengths"]["greatest"]) == (min(lengths), max(lengths))
    assert report["lengths"]["unit"] == "tokens"
    assert report["problems"]["corrupt_images"]["count"] is None


def test_a_source_of_another_kind_is_named(folder, tmp_path):
    made = config(folder, [sample()], tmp_path / "one.jsonl")

    @dataclasses.dataclass(frozen=True)
    class Mine(sources.Source):
        kind: str = "mine:Mine"

        def dataset(self, pictures, seed):
            raise AssertionError("refused before it is read")

    other = dataclasses.replace(made.data, source={"mine": Mine()})
    with pytest.raises(UserError, match=r"data.source.mine: is of kind 'mine:Mine', expected llava"):
        rehearse.reports(dataclasses.replace(made, data=other), decode=False)
