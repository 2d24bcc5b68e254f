"""TextVQA against files of its form."""

import json

import pytest
from general_support import SHORT, edit, error, lines, load, png, question, write

from tga_jax.evals.benchmarks import (
    text_vqa,
)


@pytest.fixture
def text_folder(tmp_path):
    def text(words, tokens):
        return f"{words}\nReference OCR token: {tokens}\n{SHORT}"

    rows = [
        question("i1", "i1.png", text("What Brand?", "ACME, Question")),
        question("i1", "i1.png", text("What year?", "")),
        question("i2", "i2.png", f"What brand?\n{SHORT}"),
    ]
    write(tmp_path / "llava_textvqa_val_v051_ocr.jsonl", lines(rows))
    data = [
        {"image_id": "i2", "question": "What brand?", "question_id": 7, "answers": ["b"] * 10},
        {"image_id": "i1", "question": "what year?", "question_id": 8, "answers": ["1999"] * 2 + ["none"] * 8},
        {"image_id": "i1", "question": "What brand?", "question_id": 9, "answers": ["acme"] * 10},
    ]
    write(tmp_path / "TextVQA_0.5.1_val.json", json.dumps({"dataset_type": "val", "data": data}))
    for name in ("i1.png", "i2.png"):
        write(tmp_path / "train_images" / name, png())
    return tmp_path


def test_text_vqa(text_folder):
    samples = load(text_vqa, text_folder)
    assert [(s.id, s.target[0]) for s in samples] == [("9", "acme"), ("8", "1999"), ("7", "b")]
    assert samples[0].question == f"<image>\nWhat Brand?\nReference OCR token: ACME, Question\n{SHORT}"
    assert samples[2].question == f"<image>\nWhat brand?\n{SHORT}"
    assert text_vqa.BENCHMARK.score(samples[0], "Acme") == {"accuracy": 1.0}
    assert text_vqa.BENCHMARK.score(samples[1], "1999")["accuracy"] == pytest.approx(0.6)
    assert text_vqa.BENCHMARK.score(samples[1], "0") == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "TextVQA_0.5.1_val.json",
            "what year",
            "which year",
            "2 ids do not join, such as 'i1: what year?', a question",
        ),
        ("TextVQA_0.5.1_val.json", '"i2"', '"i1"', "label 'i1: what brand?' is there twice"),
        (
            "TextVQA_0.5.1_val.json",
            '"question_id": 8',
            '"question_id": 7',
            "TextVQA_0.5.1_val.json: question '7' is th",
        ),
        ("TextVQA_0.5.1_val.json", '["b", ', "[", "data[0]: `answers` has 9 entries, expected 10"),
        ("TextVQA_0.5.1_val.json", '"data"', '"rows"', "TextVQA_0.5.1_val.json: no `data`, expected a list"),
        ("llava_textvqa_val_v051_ocr.jsonl", "What year?\\n", "", "line 2: `text` is 0 lines without Reference OCR"),
        ("llava_textvqa_val_v051_ocr.jsonl", "What year?", "What\\nyear?", "line 2: `text` is 2 lines without"),
        ("llava_textvqa_val_v051_ocr.jsonl", '"i2.png"', '"i3.png"', "train_images/i3.png: no such picture"),
    ],
)
def test_text_vqa_bad_files(text_folder, file, old, new, message):
    edit(text_folder / file, old, new)
    error(text_vqa, text_folder, message)
