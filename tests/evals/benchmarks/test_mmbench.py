"""MMBench against files of its form."""

import base64
import csv
import io
import random
import re

import pytest
from general_support import LETTER, error, load, png, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tga_jax.errors import UserError
from tga_jax.evals.benchmarks import mmbench, mmbench_cn

_COLUMNS = ["index", "question", "hint", *"ABCD", "answer", "category", "image", "source", "l2-category", "comment"]


def tsv(path, rows, columns=_COLUMNS, name="mmbench_dev_20230712.tsv"):
    text = "\n".join("\t".join(row.get(c, "") for c in columns) for row in [{c: c for c in columns}, *rows])
    write(path / name, text + "\n")


def answered(folder, answers):
    """The summary of a folder's samples with these answers, by index; samples without one were not asked."""
    return mmbench.BENCHMARK.summarize([(s.target, answers[s.id]) for s in load(mmbench, folder) if s.id in answers])


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
    assert [(s.id, s.question, s.target["row"]["answer"]) for s in samples] == [
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
    assert [s.groups for s in samples] == [{}] * 4
    assert mmbench.BENCHMARK.score(samples[0], "A") == {}
    assert answered(tmp_path, dict.fromkeys(["1", "1000001", "3", "4"], "A")) == {}
    mmbench.BENCHMARK.export(list(zip(samples, ["A", 'B.\t"y"\nso', "", "D"], strict=True)), tmp_path / "out", tmp_path)
    # Read back with the rules by which it was written; MMBench's server refuses a table without the choices.
    with (tmp_path / "out/predictions.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["index", "question", "A", "B", "C", "D", "source", "l2-category", "comment", "prediction"]
    assert [(row["index"], row["prediction"]) for row in rows] == [
        ("1", "A"), ("1000001", 'B.\t"y"\nso'), ("3", ""), ("4", "D"),
    ]  # fmt: skip
    assert rows[0]["question"] == 'Which "one"?\nNow'


def circular_rows():
    """Question 7 of three choices in three rows, 8 of two in two; the picture lies in the first row of each."""
    rows, options = [], {"7": ["x", "y", "z"], "8": ["on", "off"]}
    for index, own in options.items():
        picture = base64.b64encode(png({"7": "red", "8": "blue"}[index])).decode()
        for turn in range(len(own)):
            moved = own[turn:] + own[:turn]
            rows.append({
                "index": str(int(index) + 1_000_000 * turn), "question": f"Q{index}",
                "answer": "ABC"[moved.index(own[1])],
                "image": picture if turn == 0 else index, **dict(zip("ABC", moved, strict=False)),
            })  # fmt: skip
    return rows


def test_an_image_cell_may_hold_the_index_of_a_row(tmp_path):
    tsv(tmp_path, circular_rows()[::-1], name="MMBench_DEV_EN.tsv")
    samples = {s.id: s for s in load(mmbench, tmp_path)}
    colors = {i: s.images[0]().getpixel((0, 0)) for i, s in samples.items()}
    red, blue = (255, 0, 0), (0, 0, 255)
    assert colors == {"7": red, "1000007": red, "2000007": red, "8": blue, "1000008": blue}


@pytest.mark.parametrize("cell", ["9", "1000007", "", "aGVsbG8="])
def test_an_image_cell_that_leads_to_no_picture(tmp_path, cell):
    rows = circular_rows()
    rows[1]["image"] = cell
    tsv(tmp_path, rows)
    error(mmbench, tmp_path, f"line 3: `image` is {cell!r}, expected base64, or the index of a row that has it")


def test_a_damaged_picture_is_named_by_the_row_that_has_it(tmp_path):
    rows = circular_rows()
    rows[0]["image"] = base64.b64encode(b"no picture" * 10).decode()
    tsv(tmp_path, rows)
    with pytest.raises(UserError, match=r"mmbench_dev_20230712\.tsv: line 2: cannot be read as an image"):
        load(mmbench, tmp_path)[2].images[0]()


def test_circular_accuracy(tmp_path):
    tsv(tmp_path, circular_rows())
    right = {"7": "B", "1000007": "A", "2000007": "C", "8": "B", "1000008": "A"}
    assert answered(tmp_path, right) == {"circular_accuracy": 1.0}
    assert answered(tmp_path, right | {"2000007": "B"}) == {"circular_accuracy": 0.5}
    assert answered(tmp_path, dict.fromkeys(right, "B")) == {"circular_accuracy": 0.0}
    assert answered(tmp_path, right | {"1000008": ""}) == {"circular_accuracy": 0.5}
    assert answered(tmp_path, {i: a for i, a in right.items() if i != "2000007"}) == {}  # a limit left one out
    assert answered(tmp_path, {}) == {}


def test_a_file_without_copies_has_no_circular_accuracy(tmp_path):
    tsv(tmp_path, bench_rows()[2:])
    assert answered(tmp_path, {"3": "A", "4": "D"}) == {}


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=4), min_size=1, max_size=5), st.randoms())
def test_circular_accuracy_is_that_of_the_definition(groups, order):
    """MMBench's definition: solved if every pass is; independent of the order of the rows."""
    pairs = [
        ({"copies": len(passes), "row": {"index": str(10 + g + 1_000_000 * turn), "answer": "A"}}, "A" if ok else "B")
        for g, passes in enumerate(groups)
        for turn, ok in enumerate(passes)
    ]
    order.shuffle(pairs)
    figure = sum(min(passes) for passes in groups) / len(groups)
    assert mmbench.BENCHMARK.summarize(pairs) == {"circular_accuracy": pytest.approx(figure)}


@pytest.mark.parametrize("missing", ["NA", "N/A", "null", "<NA>", "NONE", "-1.#IND"])
def test_choices_end_at_what_pandas_reads_as_missing(tmp_path, missing):
    tsv(tmp_path, [bench_rows()[3] | {"C": missing, "hint": missing, "answer": "B"}])
    assert load(mmbench, tmp_path)[0].question == f"<image>\nQ\nA. 1\nB. 2\n{LETTER}"


@pytest.mark.parametrize("name", ["mmbench_dev_cn_20231003.tsv", "MMBench_DEV_CN.tsv", "MMBench_TEST_CN_V11.tsv"])
def test_the_chinese_files_are_a_benchmark_of_their_own(tmp_path, name):
    """Also where the file in English lies beside it, as in LLaVA's folder."""
    tsv(tmp_path, [bench_rows()[3] | {"question": "问", "answer": "C"}], name=name)
    error(mmbench, tmp_path, "0 files called mmbench_*.tsv or MMBench_*.tsv without cn in their names, expected one")
    tsv(tmp_path, [bench_rows()[3]])
    [sample] = load(mmbench_cn, tmp_path)
    assert sample.question == "<image>\n问\nA. 1\nB. 2\nC. 3\nD. 4\n请直接回答选项字母。"
    assert mmbench_cn.BENCHMARK.score(sample, "C") == {"accuracy": 1.0, "unparsed": 0.0}
    assert load(mmbench, tmp_path)[0].question == f"<image>\nQ\nA. 1\nB. 2\nC. 3\nD. 4\n{LETTER}"


def test_without_the_chinese_file(tmp_path):
    tsv(tmp_path, [bench_rows()[3]])
    error(mmbench_cn, tmp_path, "0 files called mmbench_*.tsv or MMBench_*.tsv with cn in their names, expected one")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "C", "C": "none"}, "line 2: `answer` is 'C', expected the letter of one of 2 choices"),
        ({"answer": ""}, "line 2: `answer` is '', expected the letter of one of 4 choices"),
        ({"answer": "AB"}, "line 2: `answer` is 'AB', expected the letter of one of 4 choices"),
        ({"index": "4.5"}, "line 2: `index` is '4.5', expected a whole number"),
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
        ("a" * 65, "line 2: `image` is not base64"),
        ("aGVsbG8h" * 9, "line 2: cannot be read as an image"),
    ],
)
def test_mmbench_bad_pictures(tmp_path, image, message):
    tsv(tmp_path, [bench_rows()[3] | {"image": image}])
    with pytest.raises(UserError, match=re.escape(f"mmbench_dev_20230712.tsv: {message}")):
        load(mmbench, tmp_path)[0].images[0]()


def test_mmbench_bad_files(tmp_path):
    error(mmbench, tmp_path, "0 files called mmbench_*.tsv or MMBench_*.tsv without cn in their names")
    tsv(tmp_path, bench_rows(), ["index", "question", "A", "C", "D"])
    error(mmbench, tmp_path, "mmbench_dev_20230712.tsv: lacks the column B, image, expected MMBench's tsv")
    write(tmp_path / "mmbench_dev_20230712.tsv", b"\xff\xfe")
    error(mmbench, tmp_path, "mmbench_dev_20230712.tsv: cannot be read ('utf-8' codec")
    write(tmp_path / "mmbench_test.tsv", "")
    error(mmbench, tmp_path, "2 files called mmbench_*.tsv or MMBench_*.tsv without cn")
