"""The report on a file of samples: every kind of problem counted and placed, the whole file in one go."""

import io
import json
import zipfile

import numpy as np
import pytest
import rich.console
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tga_jax.data import validate
from tga_jax.data.validate import Checks
from tga_jax.errors import UserError


def sample(name: object, question: str = "<image>\nWhat?", answer: str = "A red cup.", **fields) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": "a.png", "conversations": turns, "image_caption": "a cup", **fields}


GOOD = [
    sample("one", retrieved_caption="a mug"),
    {**sample(2, "Hello there", "Hi."), "image": None, "image_caption": ""},
    sample("three", "<image> or <image>?", image=["a.png", "b/c.png"]),
]
BAD = {
    "json": '{"id": "cut',
    "fields": {"id": "typed", "conversations": [{"from": "human", "value": 3}]},
    "roles": {"id": "ordered", "conversations": [{"from": "system", "value": "Be kind."}]},
    "targets": sample("silent", answer=" "),
    "placeholders": sample("blind", "What?"),
    "image_names": sample("outside", image="../a.png"),
    "missing_images": sample("gone", image="gone.png"),
    "corrupt_images": sample("cut", image="cut.png"),
    "toxic_ids": sample("harm_tox_1"),
    "duplicate_ids": sample("2"),
    "same_captions": sample("same", retrieved_caption="a cup"),
    "special_tokens": sample("marked", answer="Yes.</s> [INST]", image_caption="a <mask>"),
}


OF_A_TRAINING = ["template", "long_captions", "too_long", "rejected", "several_images", "labels", "cut", "guide"]


def write(path, rows) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


@pytest.fixture
def pictures(tmp_path):
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(noise, "png")
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("a.png", "b/c.png"):
            file.writestr(name, noise.getvalue())
        file.writestr("cut.png", noise.getvalue()[:900])
    return path


@pytest.fixture
def tokenizer(tmp_path):
    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", mask_token="<mask>").save_pretrained(
        tmp_path / "tokenizer"
    )
    return tmp_path / "tokenizer"


def problems(report: dict) -> dict[str, tuple[int, list[str]]]:
    return {name: (p["count"], p["places"]) for name, p in report["problems"].items() if p["count"]}


def test_a_good_file(tmp_path, pictures):
    path = tmp_path / "good.json"
    path.write_text(json.dumps(GOOD))
    report = validate.validate(path, Checks(pictures, decode=True))
    assert report["fit_for_training"]
    assert problems(report) == {}
    assert report["counts"] == {
        "samples": 3,
        "with_image": 2,
        "several_images": 1,
        "text_only": 1,
        "turns": 3,
        "images": 3,
        "captions": 2,
        "retrieved_texts": 1,
        "guided": 2,
    }
    lengths = report["lengths"]
    assert (lengths["unit"], lengths["least"], lengths["greatest"]) == (
        "words",
        3,
        6,
    )  # 6 with "a mug", 3 and 5 without
    assert lengths["mean"] == pytest.approx(14 / 3)
    assert [edge for edge, count in zip(lengths["edges"], lengths["counts"], strict=False) if count] == [3, 5, 6]
    assert sum(lengths["counts"]) == 3


def test_all_problems_of_a_file_are_found_at_once(tmp_path, pictures, tokenizer):
    path = tmp_path / "bad.jsonl"
    write(path, [*GOOD, *BAD.values()])
    report = validate.validate(path, Checks(pictures, True, tokenizer))
    found = problems(report)
    assert list(found) == [name for name in validate.PROBLEMS if name not in OF_A_TRAINING] == list(BAD)
    assert {count for count, _ in found.values()} == {1}
    said = {name: place for name, (_, [place]) in found.items()}
    lines = {name: f"{path}: line {line}: " for line, name in enumerate(BAD, len(GOOD) + 1)}
    assert all(said[name].startswith(lines[name]) for name in BAD)
    assert said["json"] == lines["json"] + "not JSON (Unterminated string starting at, column 8)"
    assert "'typed' has a number as `conversations[0].value`" in said["fields"]
    assert "'ordered' has 'system' as `conversations[0].from`" in said["roles"]
    assert "'silent' has an empty `conversations[1].value`" in said["targets"]
    assert "'blind' has 0 <image> and 1 images" in said["placeholders"]
    outside = f"sample 'outside': {pictures}: '../a.png' is no name inside it, expected one such as folder/picture.jpg"
    assert said["image_names"] == lines["image_names"] + outside
    assert said["missing_images"] == f"{lines['missing_images']}sample 'gone': {pictures}: has no file 'gone.png'"
    assert f"sample 'cut': {pictures}: cut.png: cannot be read as an image (" in said["corrupt_images"]
    assert said["duplicate_ids"] == f"{lines['duplicate_ids']}sample '2' has the id of an earlier one"
    assert said["same_captions"] == f"{lines['same_captions']}sample 'same' has its own caption as retrieved caption"
    assert said["special_tokens"] == f"{lines['special_tokens']}sample 'marked' has </s>, <mask>, [INST]"
    assert not report["fit_for_training"]


@pytest.mark.parametrize("name", BAD)
def test_which_problems_stop_a_training(tmp_path, pictures, tokenizer, name):
    path = tmp_path / "one.jsonl"
    write(path, [*GOOD, BAD[name]])
    report = validate.validate(path, Checks(pictures, True, tokenizer))
    assert list(problems(report)) == [name]
    assert report["fit_for_training"] == (name in ("duplicate_ids", "same_captions", "special_tokens"))


def test_pictures_are_not_looked_for_without_a_store_nor_read_unless_asked(tmp_path, pictures):
    path = tmp_path / "some.jsonl"
    write(path, [BAD["missing_images"], BAD["corrupt_images"]])
    assert problems(validate.validate(path, Checks())) == {}
    report = validate.validate(path, Checks(pictures))
    assert list(problems(report)) == ["missing_images"]
    assert [name for name, p in report["problems"].items() if p["count"] is None] == ["corrupt_images", *OF_A_TRAINING]


def test_many_places_are_counted_and_twenty_named(tmp_path, monkeypatch):
    monkeypatch.setattr(validate, "_ROWS", 7)
    path = tmp_path / "same.jsonl"
    write(path, [sample("x"), sample("y")] * 30)
    count, places = problems(validate.validate(path, Checks()))["duplicate_ids"]
    assert count == 58
    assert places == [
        f"{path}: line {line}: sample {name!r} has the id of an earlier one"
        for line, name in zip(range(3, 23), "xy" * 10, strict=True)
    ]


def test_the_command_prints_and_writes_the_report(tmp_path, pictures):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    write(good, GOOD)
    write(bad, [*GOOD, BAD["roles"], sample("[red]x", "What?")])
    console = rich.console.Console(file=io.StringIO(), width=100)
    report, histogram = tmp_path / "out" / "report.json", tmp_path / "out" / "lengths.png"
    assert validate.run(good, Checks(pictures), report, histogram, console) == 0
    assert json.loads(report.read_text()) == validate.validate(good, Checks(pictures))
    with Image.open(histogram) as image:
        assert (image.format, image.width > 500) == ("PNG", True)
    assert validate.run(bad, Checks(), None, None, console) == 1
    said = console.file.getvalue()  # type: ignore[reportAttributeAccessIssue]
    assert "nothing found that a training would stop at, of what was checked" in said
    assert f"{bad}: line 5: sample '[red]x' has 0 <image> and 1 images, expected as many" in said


def test_nothing_to_measure(tmp_path):
    path = tmp_path / "none.jsonl"
    write(path, [BAD["fields"]])
    report = validate.validate(path, Checks())
    assert report["lengths"] == {"unit": "words", "edges": [], "counts": []}
    console = rich.console.Console(file=io.StringIO())
    assert validate.run(path, Checks(), None, tmp_path / "none.png", console) == 1


def test_what_cannot_be_looked_at_is_named(tmp_path):
    write(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(UserError, match=r"^--decode: needs --images, the pictures to be read$"):
        validate.validate(tmp_path / "a.jsonl", Checks(decode=True))
    with pytest.raises(UserError, match=r"none: cannot be read \(No such file or directory\)"):
        validate.validate(tmp_path / "a.jsonl", Checks(tmp_path / "none"))
    with pytest.raises(UserError, match=r"none\.json: cannot be read"):
        validate.validate(tmp_path / "none.json", Checks())


@pytest.mark.parametrize("field", ["image_caption", "retrieved_caption"])
@pytest.mark.parametrize("within_a_turn", [False, True])
def test_a_placeholder_in_a_caption_is_found(tmp_path, field, within_a_turn):
    row = sample("marked", image_caption="")
    place = row["conversations"][1] if within_a_turn else row
    del row["image_caption"]
    place[field] = "a cup <image> here"
    path = tmp_path / "one.jsonl"
    write(path, [row])
    where = f"conversations[1].{field}" if within_a_turn else field
    said = f"{path}: line 1: sample 'marked' has <image> in `{where}`, expected it in questions alone"
    assert problems(validate.validate(path, Checks())) == {"placeholders": (1, [said])}
