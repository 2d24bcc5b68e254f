"""Rows on disk: in order and once, whoever wrote them and whatever was killed on the way."""

import json
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from tga_jax.errors import UserError
from tga_jax.evals import store
from tga_jax.evals.store import AnswerStore


def row(n: int) -> dict:
    return {"n": n, "answer": f"ändwörd {n}\n"}


@pytest.fixture
def whole(tmp_path) -> bytes:
    """What an undisturbed process writes."""
    kept = AnswerStore(tmp_path / "whole", "x", 7)
    kept.append(row(n) for n in range(7))
    kept.finish()
    return (tmp_path / "whole" / "x.jsonl").read_bytes()


@hypothesis.given(cuts=st.lists(st.integers(0, 200), max_size=4), processes=st.integers(1, 3), step=st.integers(1, 3))
@hypothesis.settings(max_examples=40)
def test_killed_anywhere_by_any_number_of_processes(tmp_path_factory, cuts, processes, step):
    folder = tmp_path_factory.mktemp("store")
    for cut in cuts:  # each a run that ends within a write
        kept = AnswerStore(folder, "x", 7, process=cut % processes)
        kept.append(row(n) for n in kept.missing()[:step])
        part = folder / f".x.part-{cut % processes}"
        part.write_bytes(part.read_bytes()[: max(0, part.stat().st_size - cut % 30)])
    kept = AnswerStore(folder, "x", 7)
    missing = kept.missing()
    assert sorted({r["n"] for r in kept.rows()} | set(missing)) == list(range(7))
    kept.append(row(n) for n in missing)
    kept.finish()
    assert [json.loads(line) for line in (folder / "x.jsonl").read_text().splitlines()] == [row(n) for n in range(7)]
    assert [path.name for path in folder.iterdir()] == ["x.jsonl"]


def test_the_file_is_the_same_whatever_the_order(tmp_path, whole):
    for process, numbers in ((0, (3, 4)), (1, (6, 0, 5)), (0, (2,)), (2, (1,))):
        AnswerStore(tmp_path, "x", 7, process).append(row(n) for n in numbers)
    kept = AnswerStore(tmp_path, "x", 7)
    assert kept.missing() == []
    assert kept.rows() == [row(n) for n in range(7)]
    kept.finish()
    assert (tmp_path / "x.jsonl").read_bytes() == whole
    again = AnswerStore(tmp_path, "x", 7)
    assert (again.missing(), again.rows()) == ([], [row(n) for n in range(7)])
    again.finish()


def test_stores_of_one_folder_are_apart(tmp_path):
    AnswerStore(tmp_path, "x", 2).append([row(0)])
    AnswerStore(tmp_path, "x.y", 2).append([row(1)])
    assert [r["n"] for r in AnswerStore(tmp_path, "x", 2).rows()] == [0]


def test_a_file_of_something_else_is_named(tmp_path):
    path: Path = tmp_path / "x.jsonl"
    path.write_text('{"n": 0}\n')
    with pytest.raises(UserError, match=r"x.jsonl: has 1 rows, expected 2; remove it, or choose another folder"):
        AnswerStore(tmp_path, "x", 2)
    path.write_text('{"n": 0}\n{"id": 3}\n')
    with pytest.raises(UserError, match=r"x.jsonl: line 2 is no JSON object with a number n"):
        AnswerStore(tmp_path, "x", 2)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"n": True}, "is no JSON object with a number n"),
        ({"n": 1.0}, "is no JSON object with a number n"),
        ({"n": 2}, "is row 2, which is there already or one too many"),
        ({"n": 1}, "is row 1, which is there already or one too many"),
        ({"n": 0, "answer": ["x"]}, r"has \['x'\] as `answer`"),
        ({"n": 0, "harmful": 1}, "has 1 as `harmful`"),
        ({"n": 0, "groups": {"a": 1}}, "has a group that is no text"),
        ({"n": 0, "target": float("nan")}, "has NaN"),
    ],
)
def test_a_row_that_no_evaluation_writes_is_named(tmp_path, row, said):
    good = {"id": "a", "input": "text", "question": "q", "answer": "x", "groups": {}, "harmful": None, "target": None}
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({**good, **own}) + "\n" for own in ({"n": 1}, row)))
    with pytest.raises(UserError, match=f"line 2 {said}; remove the file"):
        store.read(tmp_path / "x.jsonl", store.ANSWER)


def test_fewer_verdicts_than_answers_and_unknown_ones_are_named(tmp_path):
    (tmp_path / "verdicts").mkdir()
    path = tmp_path / "verdicts" / "toys.j.jsonl"
    path.write_text('{"n": 0, "verdict": "refusal"}\n')
    assert store.verdicts(tmp_path, "toys", "j", 1) == ["refusal"]
    with pytest.raises(UserError, match="1 verdicts on 2 answers"):
        store.verdicts(tmp_path, "toys", "j", 2)
    path.write_text('{"n": 0, "verdict": "<b>"}\n')
    with pytest.raises(UserError, match="has '<b>' as `verdict`"):
        store.verdicts(tmp_path, "toys", "j", 1)


def test_half_a_surrogate_pair_is_kept(tmp_path):
    kept = AnswerStore(tmp_path, "x", 1)
    kept.append([{"n": 0, "answer": "ä\ud800"}])
    kept.finish()
    assert store.read(tmp_path / "x.jsonl") == [{"n": 0, "answer": "ä\ud800"}]
