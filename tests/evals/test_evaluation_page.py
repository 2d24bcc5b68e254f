"""The pages of `tga evaluate` and `tga compare`: what they count, show and leave out."""

import dataclasses
import html.parser
import io
import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rich.console
from PIL import Image

from tga_jax import cli
from tga_jax.errors import UserError
from tga_jax.evals import compare, gallery, outcomes, page, store, summary
from tga_jax.evals.asking import questions
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.gallery import Answers
from tga_jax.report.html import MAX_KINDS
from tga_jax.report.intervals import wilson
from tga_jax.workdir import write_json

COLOURS = ["red", "green", "blue", "white", "black", "yellow"]


def _samples(folder: Path):
    for i, colour in enumerate(COLOURS):
        load = partial(Image.new, "RGB", (400, 100 + i), colour)
        yield BenchmarkSample(f"s{i}", f"<image>\nWhat is <{i}>?", (load,), f"A {colour} thing?", {}, i < 4)


SCENES = Benchmark("scenes", "safety", _samples, "nothing")
SCORED = Benchmark(
    "scored", "general", lambda _: [BenchmarkSample(f"q{i}", "q", target=i) for i in range(3)], "nothing",
    lambda sample, _: {"share": sample.target / 2, "other": 1.0},
)  # fmt: skip


def write(folder: Path, refused: set[str], answer: str = "A <b>thing</b>.") -> Path:
    """An evaluation in which these "id input" are refused."""
    rows = [
        {
            "n": q.number, "id": q.sample.id, "input": q.input, "question": q.text, "groups": {}, "target": None,
            "harmful": q.sample.harmful, "answer": "No." if f"{q.sample.id} {q.input}" in refused else answer,
        }
        for q in questions(_samples(folder), sees=True)
    ]  # fmt: skip
    verdicts = ["refusal" if row["answer"] == "No." else "answer" for row in rows]
    scored = [
        {"n": i, "id": f"q{i}", "input": "text", "question": "q", "groups": {}, "harmful": None, "target": i}
        | {"answer": f"says {i}"}
        for i in range(3)
    ]
    for part, name, lines in (
        ("answers", "scenes", rows),
        ("verdicts", "scenes.j-1", [{"n": i, "verdict": v} for i, v in enumerate(verdicts)]),
        ("answers", "scored", scored),
    ):
        kept = store.AnswerStore(folder / part, name, len(lines))
        kept.append(lines)
        kept.finish()
    judged = {"j-1": {"rubric": "refusal", "table": outcomes.table(outcomes.judged(rows, verdicts))}}
    write_json(folder / "results.json", {
        "settings": {"checkpoint": folder.name, "template": "chat", "system": None, "defence": {"name": "none"}},
        "benchmarks": {
            "scenes": {"suite": "safety", "answers": len(rows), "empty": 0, "judges": judged},
            "scored": {"suite": "general", "answers": 3, "empty": 0,
                       "table": outcomes.table(outcomes.scored(SCORED, scored))},
        },
        "commands": ["tga evaluate --to='a <b>'"],
    })  # fmt: skip
    return folder


TEXT = {f"s{i} text" for i in range(4)}


def made(folder: Path) -> str:
    return page.page(json.loads((folder / "results.json").read_text()), folder, {"scenes": SCENES, "scored": SCORED})


class _Text(html.parser.HTMLParser):
    """All text of a page, and what is open at its end."""

    def __init__(self, page: str):
        super().__init__()
        self.text, self.open = "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open += [tag] * (tag not in ("meta", "img", "input"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_cards_are_counted_over_all_questions(tmp_path):
    found = _Text(made(write(tmp_path / "a", TEXT | {"s1 image", "s5 image"})))
    assert not found.open
    low, high = (100 * x for x in (wilson(1, 4).low, wilson(1, 4).high))
    assert f"1 of 4 harmful pictures are refused (95 % interval {low:.0f} to {high:.0f} %)." in found.text
    assert "4 of 4 harmful questions in text alone are refused" in found.text
    assert "1 of 2 harmless pictures are refused" in found.text
    assert "0 of 2 harmless questions in text alone are refused" in found.text
    assert "tga evaluate --to='a <b>'" in found.text


@pytest.mark.parametrize(
    ("text", "picture", "said"),
    [
        ((98, 100), (10, 100), "pictures are refused less often, so text safety does not carry over as a whole"),
        ((98, 100), (95, 100), "the 95 % intervals overlap, so no gap can be told"),
        ((10, 100), (60, 100), "pictures are refused more often"),
    ],
)
def test_the_lead_goes_no_further_than_the_intervals(tmp_path, text, picture, said):
    """Over two benchmarks, whose counts are added."""

    def part(way: str, k: int, n: int):
        return {"input": way, "group": None, "value": None, "rates": {"DSR": wilson(k, n).to_json()}}

    halves = [
        {"judges": {"j": {"rubric": "refusal", "table": [part(way, k - k // 2 if i else k // 2, n // 2)
                                                        for way, (k, n) in (("text", text), ("image", picture))]}},
         "answers": 0, "empty": 0}
        for i in range(2)
    ]  # fmt: skip
    results = {
        "settings": {"checkpoint": "x", "template": "chat", "system": None, "defence": {"name": "none"}},
        "benchmarks": {"a": halves[0], "b": halves[1]},
    }
    for name in ("a", "b"):
        kept = store.AnswerStore(tmp_path / "answers", name, 0)
        kept.finish()
        store.AnswerStore(tmp_path / "verdicts", f"{name}.j", 0).finish()
    found = _Text(page.page(results, tmp_path, {})).text
    assert said in found
    assert f"{picture[0]} of {picture[1]} harmful pictures" in found


def test_a_sample_is_of_the_kind_of_its_pictures_answer(tmp_path):
    folder = write(tmp_path / "a", TEXT | {"s1 image", "s5 image"})
    own = page.answers(folder, "scenes", "j-1", SCENES)
    assert gallery.kinds({"": own}) == {
        "harmful: refusal": ["s1"],
        "harmful: answer": ["s0", "s2", "s3"],
        "harmless: answer": ["s4"],
        "harmless: refusal": ["s5"],
    }
    scored = page.answers(folder, "scored", None, SCORED)
    assert gallery.kinds({"": scored}) == {"wrong": ["q0"], "in part": ["q1"], "right": ["q2"]}
    without = page.answers(folder, "scored", None, dataclasses.replace(SCORED, score=None))
    assert gallery.kinds({"": without}) == {"all": ["q0", "q1", "q2"]}


def test_at_most_so_many_of_a_kind_are_shown():
    some = gallery.shown({"a": [str(i) for i in range(100)], "b": ["x"]})
    assert len(set(some["a"])) == gallery.PER_KIND
    assert some["a"][0] == "0"
    assert max(map(int, some["a"])) > 90
    assert some["b"] == ["x"]


def test_thumbnails_are_of_their_questions(tmp_path):
    every = questions(_samples(tmp_path), sees=True)
    gallery.keep_thumbnails(every, ["s1", "s4"], tmp_path / "t")
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == ["1.jpg", "4.jpg"]
    for n in (1, 4):
        with Image.open(tmp_path / "t" / f"{n}.jpg") as small:
            assert max(small.size) == 160
            expected = np.asarray(Image.new("RGB", small.size, COLOURS[n]), int)
            assert abs(np.asarray(small, int) - expected).max() < 8


def test_several_pictures_are_beside_each_other_and_what_cannot_be_read_is_left_out(tmp_path):
    def gone():
        raise UserError("gone")

    two = (partial(Image.new, "L", (300, 100), 0), partial(Image.new, "RGBA", (50, 50), "white"))
    every = questions([BenchmarkSample("a", "q", two), BenchmarkSample("b", "q", (gone,))], sees=True)
    gallery.keep_thumbnails(every, ["a", "b"], tmp_path / "t")
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["0.jpg"]
    with Image.open(tmp_path / "t" / "0.jpg") as strip:
        assert strip.size == (160 + 50, 53)


def test_the_gallery_shows_answers_pictures_and_filters(tmp_path):
    folder = write(tmp_path / "a", TEXT)
    gallery.keep_thumbnails(questions(_samples(folder), True), ["s0", "s4"], folder / "thumbnails" / "scenes")
    text = made(folder)
    assert text.count('<img class="thumb"') == 2
    assert "A <b>thing" not in text
    assert "A &lt;b&gt;thing&lt;/b&gt;." in text
    assert "What is &lt;0&gt;?" in text
    filters = dict(re.findall(r'class="filter (k\d+)".*?<label for="g0-k\d+">(.*?)</label>', text))
    assert filters == {"k0": "harmful: answer (4)", "k1": "harmless: answer (2)"}
    assert [text.count(f'<div class="example k{i}">') for i in range(3)] == [4 + 1, 2 + 1, 1]  # and those of "scored"
    assert ".filter.k1:checked ~ .examples > :not(.k1) { display: none; }" in text
    assert "<script" not in text
    assert '<a href="answers/scenes.jsonl">' in text
    assert (folder / "answers" / "scenes.jsonl").exists()


def test_verdicts_of_too_many_kinds_have_no_filter(tmp_path):
    rows = [
        {"n": i, "id": str(i), "input": "text", "question": "q", "harmful": None, "target": None, "answer": ""}
        for i in range(MAX_KINDS + 1)
    ]
    found = "".join(gallery.gallery("x", {"": Answers(rows, [str(i) for i in range(len(rows))])}, tmp_path, 0))
    assert 'class="filter k0"' in found
    assert 'class="filter k1"' not in found
    assert found.count("<em>empty</em>") == gallery.PER_KIND


def test_two_evaluations_beside_each_other(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "BENCHMARKS", {"scenes": SCENES, "scored": SCORED})
    a, b = write(tmp_path / "a", TEXT), write(tmp_path / "b", TEXT | {f"s{i} image" for i in range(3)}, "Other.")
    gallery.keep_thumbnails(questions(_samples(a), True), ["s0"], a / "thumbnails" / "scenes")
    assert cli.run(["compare", str(a), str(b), f"--html={tmp_path / 'two.html'}"]) == 0
    assert "two.html" in capsys.readouterr().out
    text = (tmp_path / "two.html").read_text()
    found = _Text(text)
    assert not found.open
    assert "A 0.0 %, B 75.0 %, of 4; difference [" in found.text
    assert "harmful: A answer, B refusal (3)" in found.text
    assert "harmless: A answer, B answer (2)" in found.text
    assert "A right, B right (1)" in found.text
    assert "A as text: refusal" in found.text
    assert "B picture: refusal" in found.text
    assert text.count('<img class="thumb"') == 1
    assert f"tga compare {a} {b}" in found.text


def test_differences_that_cannot_be_told_are_called_so():
    row = {"benchmark": "x", "judge": "j", "input": "image", "measure": "DSR", "a": 0.5, "b": 0.6, "n": 10}
    shares = {"difference": 0.1, "low": -0.1, "high": 0.3}
    found = {"a": "a", "b": "b", "differs": [], "not_compared": [], "rows": [row | shares]}
    assert "The interval holds 0: no difference can be told." in page.comparison(found, {}, Path())
    found["rows"] = [row | shares | {"low": 0.05}]
    assert "B is higher." in page.comparison(found, {}, Path())


def test_a_terminal_of_80_columns_shows_all(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "BENCHMARKS", {"scenes": SCENES, "scored": SCORED})
    folder = write(tmp_path / "a", TEXT)
    console = rich.console.Console(file=io.StringIO(), width=80)
    for part in summary.terminal(json.loads((folder / "results.json").read_text())):
        console.print(part, markup=False, highlight=False)
    compare.report(folder, folder, console)
    lines = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    assert any(re.fullmatch(r" scenes +image +DSR +0\.0 \[0\.0, 49\.0\] of 4 *", line) for line in lines)
    assert any(re.search(r"scenes +image +DSR +0\.0 +0\.0 +\+0\.0 \[\+0\.0, +\+0\.0\]", line) for line in lines)
