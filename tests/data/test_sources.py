"""Files in LLaVA's JSON as records: templates, stores, mixing, and the names of what is wrong."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image

from tga_jax import config
from tga_jax.data import images, llava_tfds, sources
from tga_jax.data.llava_source import LlavaRecords, LlavaSource
from tga_jax.data.pipeline import Batches
from tga_jax.data.sources import DataConfig, Pictures
from tga_jax.data.templates import IMAGE
from tga_jax.demo.world import tasks
from tga_jax.errors import UserError

TURNS = [
    {"from": "human", "value": f"What is it?\n{IMAGE}"},
    {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "Sure?"},
    {"from": "gpt", "value": "Yes."},
]
SAMPLES = [
    {"id": "one", "image": "a/1.png", "conversations": TURNS, "image_caption": "a cat", "retrieved_caption": "a dog"},
    {"id": "two", "image": ["a/1.png", "2.jpg"], "conversations": [
        {"from": "human", "value": f"Is {IMAGE} like {IMAGE} ?"}, {"from": "gpt", "value": "No."}]},
    {"id": "text", "conversations": TURNS[2:]},
]  # fmt: skip


@pytest.fixture(name="folder")
def fixture_folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    for name in ("a/1.png", "2.jpg"):
        picture = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        picture.save(tmp_path / "pictures" / name)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for name in ("a/1.png", "2.jpg"):
            archive.write(tmp_path / "pictures" / name, name)
    (tmp_path / "samples.json").write_text(json.dumps(SAMPLES))
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, SAMPLES)))
    return tmp_path


def records(folder: Path, path: str = "samples.json", store: str = "pictures", size: int = 12, **fields):
    made = LlavaRecords(LlavaSource(str(folder / path), str(folder / store), **fields), Pictures(size))
    return [made[i] for i in range(len(made))]


def test_what_becomes_of_samples(folder):
    one, two, text = records(folder, template="vicuna_v1")
    assert one.turns == ((f"{IMAGE}\nWhat is it?", "A cat."), ("Sure?", "Yes."))
    assert (one.caption, one.retrieved, one.retrieved_in_prompt, one.template) == ("a cat", "a dog", True, "vicuna_v1")
    assert two.turns == ((f"Is {IMAGE} like {IMAGE} ?", "No."),)
    assert (two.retrieved_in_prompt, len(two.images)) == (False, 2)
    assert text.turns == (("Sure?", "Yes."),)
    assert not text.images
    assert not records(folder, retrieved_in_prompt=False)[0].retrieved_in_prompt


def test_plain_reads_the_first_answer_alone(folder):
    one, two, text = records(folder, template="plain")
    assert one.turns == ((IMAGE, "A cat."),)
    assert two.turns == ((IMAGE * 2, "No."),)
    assert text.turns == (("Sure?", "Yes."),)


@pytest.mark.parametrize("path", ["samples.json", "samples.jsonl"])
@pytest.mark.parametrize("store", ["pictures", "pictures.zip"])
def test_pictures_are_read_when_they_are_asked_for(folder, path, store):
    two = records(folder, path, store)[1]
    for image, name in zip(two.images, ("a/1.png", "2.jpg"), strict=True):
        np.testing.assert_array_equal(image(), images.load(folder / "pictures" / name, 12))


def test_a_sample_without_id_is_called_by_its_line(folder):
    (folder / "none.jsonl").write_text(json.dumps({"conversations": TURNS[2:]}))
    assert records(folder, "none.jsonl")[0].id == f"{folder / 'none.jsonl'}: line 1"


def test_a_built_folder_gives_the_same(folder):
    llava_tfds.build(folder / "samples.json", folder / "pictures", folder / "built", shards=2)
    made = LlavaRecords(LlavaSource(str(folder / "built")), Pictures(12))
    assert len(made) == len(SAMPLES)
    for i, record in enumerate(records(folder)):
        assert dataclasses.replace(made[i], images=()) == dataclasses.replace(record, images=())
        for one, two in zip(made[i].images, record.images, strict=True):
            np.testing.assert_array_equal(one(), two())


def test_modes_are_those_of_the_config(folder):
    source = LlavaSource(str(folder / "samples.json"), str(folder / "pictures"))
    crop = LlavaRecords(source, Pictures(12, "crop"))[0].images[0]()
    np.testing.assert_array_equal(crop, images.load(folder / "pictures" / "a/1.png", 12, "crop"))
    assert not np.array_equal(crop, records(folder)[0].images[0]())


def test_a_bad_sample_and_a_missing_picture_are_named(folder):
    path = folder / "bad.jsonl"
    bad = {**SAMPLES[0], "conversations": TURNS[:3]}
    path.write_text(f"{json.dumps(SAMPLES[0])}\n{json.dumps(bad)}\n")
    source = LlavaRecords(LlavaSource(str(path), str(folder)), Pictures(12))
    with pytest.raises(UserError, match=r"bad\.jsonl: line 2: sample 'one' has a last question without an answer"):
        source[1]
    with pytest.raises(UserError, match=r"^.*bad\.jsonl: line 1: .*: has no file 'a/1\.png'$"):
        source[0].images[0]()
    bare = LlavaRecords(LlavaSource(str(path)), Pictures(12))
    with pytest.raises(UserError, match=r"line 1: sample 'one' has an image, expected data\.source\.images"):
        bare[0]


def released(sample: dict, number: int) -> dict:
    """The same sample with its texts in turns: of their own, or beside other fields."""
    turns = [dict(turn) for turn in sample["conversations"]]
    texts = {name: sample[name] for name in ("image_caption", "retrieved_caption") if name in sample}
    if number % 2:
        turns[0] |= texts
    else:
        turns += [{name: text} for name, text in texts.items()]
    return {**{name: value for name, value in sample.items() if name not in texts}, "conversations": turns}


def test_a_file_in_the_released_layout_gives_the_same_batches(folder):
    """Rows with two texts, with one, with two pictures, without a picture, with a first turn of the model, toxic."""
    one = {**SAMPLES[0]}
    rows = [
        one,
        {**one, "id": "no R"},
        SAMPLES[1],
        SAMPLES[2],
        {**one, "id": "first", "conversations": [TURNS[3], *TURNS]},
    ]
    del rows[1]["retrieved_caption"]
    toxic = {**one, "id": "tox-1", "conversations": [
        {"from": "human", "value": f"{IMAGE}\na dog ?"}, {"from": "gpt", "value": "No."}]}  # fmt: skip
    theirs = [released(row, i) for i, row in enumerate([*rows, toxic] * 2)]
    text = {name: value for name, value in toxic.items() if name != "image"}
    text["conversations"] = [{"from": "human", "value": "a dog ?"}, toxic["conversations"][1]]
    (folder / "ours.json").write_text(json.dumps([*rows, text] * 2))
    (folder / "theirs.json").write_text(json.dumps(theirs))
    tasks.build_tokenizer(["a cat dog What is it Sure Yes No like"]).save_pretrained(folder / "tokenizer")
    vocabulary = sources.vocabulary(data(folder, tokenizer=str(folder / "tokenizer")))
    for template in ("plain", "mistral_instruct", "vicuna_v1"):
        both = []
        for name in ("ours", "theirs"):
            source = LlavaSource(str(folder / f"{name}.json"), str(folder / "pictures"), template, toxic="text")
            made = data(folder, source={"own": source})
            both.append(Batches(sources.records(made, sources.Pictures(12), 0), vocabulary, made.shape(4), 6, 0))
        for number in range(4):
            ours, theirs = (batches[number] for batches in both)
            for name, array in ours._asdict().items():
                np.testing.assert_array_equal(array, getattr(theirs, name), err_msg=name)
            assert ours.caption_mask.any(1).sum() >= 2


def test_a_picture_whose_id_tells_toxic_text_is_asked_about(folder):
    (folder / "toxic.json").write_text(json.dumps([{**SAMPLES[0], "id": "harm_tox_7"}, {**SAMPLES[2], "id": "tox"}]))
    with pytest.raises(
        UserError, match=r"sample 'harm_tox_7' has a picture and \"tox\" in its id, .* data.source.toxic"
    ):
        records(folder, "toxic.json")
    kept, text = records(folder, "toxic.json", toxic="picture")
    assert (len(kept.images), len(text.images)) == (1, 0)
    left, _ = records(folder, "toxic.json", toxic="text", template="plain")
    assert left.images == ()
    assert left.turns == (("What is it?", "A cat."),)


def data(folder: Path, **fields) -> DataConfig:
    source = LlavaSource(str(folder / "samples.json"), str(folder / "pictures"))
    return DataConfig(**{"tokenizer": "", "lengths": (64,), "caption_length": 8, "source": {"own": source}, **fields})


def test_files_are_mixed_by_weight(folder):
    one = data(folder).source["own"]
    mixed = data(folder, source={"a": one, "b": dataclasses.replace(one, template="plain", weight=3.0)})
    found = sources.records(mixed, sources.Pictures(12), seed=0)
    share = np.mean([found[i].template == "plain" for i in range(400)])
    assert share == pytest.approx(0.75, abs=0.01)
    alone = sources.records(data(folder), sources.Pictures(12), seed=0)
    assert sorted(alone[i].id for i in range(3)) == ["one", "text", "two"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"source": {"own": {"path": "x"}}}, "config.source.own: kind: None, expected llava, module:Class or"),
        (
            {"source": {"own": {"kind": "x:Y"}}},
            "config.source.own: kind: 'x:Y' cannot be imported (ModuleNotFoundError",
        ),
        ({"source": {"own": {"kind": "llava", "path": "x", "weigth": 2}}}, "config.source.own: unknown field weigth"),
        ({"image_mode": "squeeze"}, "data.image_mode: 'squeeze', expected one of pad, crop"),
        ({"threads": 0}, "data.threads: 0, expected at least 1"),
        (
            {"source": {"own": {"kind": "llava", "path": "x", "template": "poem"}}},
            "data.source.template: 'poem', expected one of clip",
        ),
        (
            {"source": {"own": {"kind": "llava", "path": "x", "weight": 0}}},
            "data.source.weight: 0.0, expected more than 0",
        ),
        (
            {"source": {"own": {"kind": "llava", "path": "x", "toxic": "no"}}},
            "data.source.toxic: 'no', expected text, picture",
        ),
        ({"policy": {"missing": "ignore"}}, "data.policy.missing: 'ignore', expected fail or skip"),
    ],
)
def test_a_bad_config_is_named(values, named):
    values = {
        "tokenizer": "",
        "lengths": (9,),
        "caption_length": 4,
        "source": {"own": {"kind": "llava", "path": "x"}},
        **values,
    }
    with pytest.raises(UserError) as error:
        config.build(DataConfig, values)
    assert named in str(error.value)


def test_the_tokenizer_is_that_of_a_folder(tmp_path):
    tasks.build_tokenizer(["a cat"]).save_pretrained(tmp_path / "tokenizer")
    found = sources.vocabulary(dataclasses.replace(data(tmp_path), tokenizer=str(tmp_path / "tokenizer")))
    made = tasks.build_tokenizer(["a cat"])
    assert found.encode("[INST] a cat") == made("[INST] a cat", add_special_tokens=False)["input_ids"]
    assert found.begin == (made.bos_token_id,)
    assert found.tokenizer.chat_template == made.chat_template
    with pytest.raises(UserError, match="none: no tokenizer that transformers can read"):
        sources.vocabulary(dataclasses.replace(data(tmp_path), tokenizer=str(tmp_path / "none")))


class Panic(BaseException):
    """What tokenizers, written in Rust, raises where it panics: pyo3's PanicException is no Exception."""


def test_a_panic_of_the_tokenizer_is_one_line(tmp_path, monkeypatch):
    def panic(*_, **__):
        raise Panic("range end index 11 out of range for slice of length 9")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", panic)
    with pytest.raises(UserError, match=r"no tokenizer that transformers can read \(range end index 11 out of range"):
        sources.vocabulary(dataclasses.replace(data(tmp_path), tokenizer=str(tmp_path)))
