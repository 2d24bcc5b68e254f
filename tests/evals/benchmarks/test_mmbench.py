"""MMBench against files of its form."""

import base64
import io
import random
import re

import pytest
from general_support import LETTER, error, load, png, write
from PIL import Image

from tga_jax.errors import UserError
from tga_jax.evals.benchmarks import (
    mmbench,
)

_COLUMNS = ["index", "question", "hint", *"ABCD", "answer", "category", "image", "source", "l2-category", "comment"]


def tsv(path, rows, columns=_COLUMNS):
    text = "\n".join("\t".join(row.get(c, "") for c in columns) for row in [{c: c for c in columns}, *rows])
    write(path / "mmbench_dev_20230712.tsv", text + "\n")


def bench_rows():
    picture = base64.b64encode(png("blue")).decode()
    base = {"image": picture, "category": "color"}
    return [
        {
            **base,
            "index": "1",
            "question": '"Which ""one""?\nNow"',
            "hint": "It is.",
            "A": "x",
            "B": "y",
            "answer": "B",
        },
        {**base, "index": "1000001", "question": "Q", "hint": "nan", "A": "x", "B": "None", "C": "z", "answer": "A"},
        {
            **base,
            "index": "3",
            "question": "Q",
            "A": "x",
            "B": "y",
            "C": "NaN",
            "D": "w",
            "answer": "A",
            "category": "",
        },
        {**base, "index": "4", "question": "Q", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "D"},
    ]


def test_mmbench_samples(tmp_path):
    tsv(tmp_path, bench_rows())
    samples = load(mmbench, tmp_path)
    assert [(s.id, s.question, s.target) for s in samples] == [
        ("1", f'<image>\nIt is.\nWhich "one"?\nNow\nA. x\nB. y\n{LETTER}', "B"),
        ("1000001", f"<image>\nQ\nA. x\n{LETTER}", "A"),
        ("3", f"<image>\nQ\nA. x\nB. y\n{LETTER}", "A"),
        ("4", f"<image>\nQ\nA. 1\nB. 2\nC. 3\nD. 4\n{LETTER}", "D"),
    ]
    assert [s.groups for s in samples] == [{"category": "color"}, {"category": "color"}, {}, {"category": "color"}]
    assert samples[0].images[0]().getpixel((0, 0)) == (0, 0, 255)
    assert mmbench.BENCHMARK.score(samples[3], "D. 4") == {"accuracy": 1.0, "unparsed": 0.0}


def test_mmbench_reads_pictures_above_the_usual_size_of_a_field(tmp_path):
    size = (300, 300)
    file = io.BytesIO()
    Image.frombytes("RGB", size, random.Random(0).randbytes(3 * size[0] * size[1])).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode()
    assert len(picture) > 2 * 131072
    tsv(tmp_path, [{**bench_rows()[3], "image": picture}])
    assert load(mmbench, tmp_path)[0].images[0]().size == size


def test_mmbench_without_answers_has_an_export_alone(tmp_path):
    tsv(tmp_path, bench_rows(), [c for c in _COLUMNS if c not in ("answer", "category", "hint")])
    samples = load(mmbench, tmp_path)
    assert [(s.target, s.groups) for s in samples] == [(None, {})] * 4
    assert mmbench.BENCHMARK.score(samples[0], "A") == {}
    mmbench.BENCHMARK.export(list(zip(samples, ["A", 'B.\t"y"\nso', "", "D"], strict=True)), tmp_path / "out")
    assert (tmp_path / "out/predictions.tsv").read_text() == (
        'index\tprediction\n1\tA\n1000001\t"B.\t""y""\nso"\n3\t\n4\tD\n'
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "C", "C": "none"}, "line 2: `answer` is 'C', expected the letter of one of 2 choices"),
        ({"answer": ""}, "line 2: `answer` is '', expected the letter of one of 4 choices"),
        ({"answer": "AB"}, "line 2: `answer` is 'AB', expected the letter of one of 4 choices"),
        ({"A": ""}, "line 2: no `A`, expected two to four choices"),
        ({"comment": "x\ty"}, "line 2: expected 13 cells, one for each column"),
        ({"comment": '"x'}, "mmbench_dev_20230712.tsv: cannot be read (unexpected end of data), expected MMBench's"),
        ({"comment": "\n4\tx"}, "line 3: expected 13 cells, one for each column"),
        ({"comment": "\n" + "\t".join(bench_rows()[3].get(c, "") for c in _COLUMNS)}, "question '4' is there twice"),
    ],
)
def test_mmbench_bad_rows(tmp_path, changes, message):
    tsv(tmp_path, [bench_rows()[3] | changes])
    error(mmbench, tmp_path, message)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("a", "line 2: `image` is not base64"),
        ("aGVsbG8=", "line 2: cannot be read as an image"),
        ("", "line 2: cannot"),
    ],
)
def test_mmbench_bad_pictures(tmp_path, image, message):
    tsv(tmp_path, [bench_rows()[3] | {"image": image}])
    with pytest.raises(UserError, match=re.escape(f"mmbench_dev_20230712.tsv: {message}")):
        load(mmbench, tmp_path)[0].images[0]()


def test_mmbench_bad_files(tmp_path):
    error(mmbench, tmp_path, "0 files called mmbench_*.tsv, expected one")
    tsv(tmp_path, bench_rows(), ["index", "question", "A", "C", "D"])
    error(mmbench, tmp_path, "mmbench_dev_20230712.tsv: lacks the column B, image, expected MMBench's tsv")
    write(tmp_path / "mmbench_dev_20230712.tsv", b"\xff\xfe")
    error(mmbench, tmp_path, "mmbench_dev_20230712.tsv: cannot be read ('utf-8' codec")
    write(tmp_path / "mmbench_test.tsv", "")
    error(mmbench, tmp_path, "2 files called mmbench_*.tsv, expected one")
