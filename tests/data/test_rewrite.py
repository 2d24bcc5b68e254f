"""A file of samples written anew: continued after a stop or a kill, refused where it would mix runs."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rich.console

from tga_jax.data import llava_json
from tga_jax.data.rewrite import rewrite
from tga_jax.data.samples import SampleFile
from tga_jax.errors import UserError
from tga_jax.workdir import Input

ROWS = [{"id": i, "text": "é" * (i % 4), "conversations": []} for i in range(11)]
CONSOLE = rich.console.Console(quiet=True)


@pytest.fixture(name="file")
def fixture_file(tmp_path) -> SampleFile:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    return SampleFile(path)


class Make:
    """Captions a row with twice its number; stops at sample `until`."""

    def __init__(self, file: SampleFile, until: int | None = None, error: BaseException | None = None):
        self.file, self.until, self.error, self.made = file, until, error or KeyboardInterrupt(), []

    def __call__(self, numbers):
        if self.until is not None and self.until in numbers:
            raise self.error
        self.made += numbers
        return [{**self.file[i], "image_caption": str(2 * i)} for i in numbers]


EXPECTED = [{**row, "image_caption": str(2 * row["id"])} for row in ROWS]


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("batch", [1, 3, 11, 20])
def test_all_rows_in_their_order_and_nothing_beside(file, tmp_path, batch):
    target = tmp_path / "new" / "out.jsonl"
    rewrite(file, target, "image_caption", {}, {}, Make(file), batch, CONSOLE)
    assert written(target) == EXPECTED
    assert [p.name for p in target.parent.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize(("batch", "processes"), [(1, 2), (3, 2), (2, 3), (20, 2)])
def test_several_processes_write_the_bytes_of_one(file, tmp_path, batch, processes):
    """Threads stand for them. In the second turn the last one is stopped and started again with the others."""
    rewrite(file, tmp_path / "one.jsonl", "image_caption", {}, {}, Make(file), batch, CONSOLE)
    for until in (None, 10):
        target, meeting = tmp_path / f"several-{until}.jsonl", threading.Barrier(processes)

        def work(process, make, target=target, meeting=meeting):
            def wait(what):
                meeting.wait(60)

            place = (process, processes, wait)
            try:
                rewrite(file, target, "image_caption", {"a": 1}, {}, make, batch, CONSOLE, *place)
            except BaseException:
                meeting.abort()
                raise

        def together(until, work=work):
            makes = [Make(file, until, UserError("stopped")) for _ in range(processes)]
            with ThreadPoolExecutor(processes) as pool:
                return makes, [pool.submit(work, i, make) for i, make in enumerate(makes)]

        if until is not None:
            _, futures = together(until)
            assert any(isinstance(future.exception(), UserError) for future in futures)
            assert not target.exists()
            meeting.reset()
        makes, futures = together(None)
        assert [future.exception() for future in futures] == [None] * processes
        made = sorted(n for make in makes for n in make.made)
        assert made == list(range(11)) if until is None or batch > 10 else len(made) < 11
        assert target.read_bytes() == (tmp_path / "one.jsonl").read_bytes()
        assert not list(tmp_path.glob(".*"))


def test_a_stopped_run_goes_on_where_it_stopped(file, tmp_path):
    target = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        rewrite(file, target, "image_caption", {"a": 1}, {}, Make(file, until=7), 3, CONSOLE)
    assert not target.exists()
    aside = tmp_path / ".out.jsonl.unfinished"
    with aside.open("a") as out:  # a killed run leaves half a line
        out.write('{"id": 6, "te')
    again = Make(file)
    rewrite(file, target, "image_caption", {"a": 1}, {}, again, 4, CONSOLE)
    assert again.made == list(range(6, 11))
    assert written(target) == EXPECTED
    assert not aside.exists()


def test_an_unfinished_file_of_other_settings_is_refused(file, tmp_path):
    target = tmp_path / "out.jsonl"
    with pytest.raises(UserError, match="no such picture"):
        rewrite(file, target, "image_caption", {"a": 1}, {}, Make(file, 7, UserError("no such picture")), 3, CONSOLE)
    with pytest.raises(UserError, match=r"unfinished: it.a is 1 there and 2 now; remove it, or choose another --to"):
        rewrite(file, target, "image_caption", {"a": 2}, {}, Make(file), 3, CONSOLE)
    assert len(written(tmp_path / ".out.jsonl.unfinished")) == 6


@pytest.mark.parametrize(
    ("name", "named"),
    [("out.json", "expected a name in .jsonl"), ("there.jsonl", "is there already, expected a new file")],
)
def test_a_bad_target_is_named(file, tmp_path, name, named):
    (tmp_path / "there.jsonl").write_text("mine")
    with pytest.raises(UserError, match=f"{name}: {named}"):
        rewrite(file, tmp_path / name, "image_caption", {}, {}, Make(file), 3, CONSOLE)
    assert (tmp_path / "there.jsonl").read_text() == "mine"


@pytest.fixture(name="stopped")
def fixture_stopped(file, tmp_path) -> Path:
    """The target of a run that was stopped before its seventh row."""
    inputs = {"--checkpoint": Input("model", {"a": "3:x"}), "--images": Input("pictures", {"0.png": "5:y"}, some=True)}
    with pytest.raises(KeyboardInterrupt):
        rewrite(file, tmp_path / "out.jsonl", "image_caption", {}, inputs, Make(file, until=6), 2, CONSOLE)
    return tmp_path / "out.jsonl"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({4: {**ROWS[4], "text": "other"}}, "rows.json: line 1, item 5 is not what its line 5 was made from; put that"),
        ({0: "no sample"}, "rows.json: line 1, item 1 is not what its line 1 was made from"),
        ({10: {**ROWS[10], "text": "not reached yet"}}, None),
        ({4: {**ROWS[4], "image_caption": "of an earlier command"}}, None),
    ],
)
def test_samples_that_were_replaced_are_found(stopped, tmp_path, change, said):
    rows = [change.get(i, row) for i, row in enumerate(ROWS)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    file = SampleFile(tmp_path / "rows.json")
    arguments = file, stopped, "image_caption", {}, {}, Make(file), 2, CONSOLE
    if said:
        with pytest.raises(UserError, match=said):
            rewrite(*arguments)
        assert not stopped.exists()
    else:
        rewrite(*arguments)
        assert written(stopped)[10]["text"] == rows[10]["text"]


def test_fewer_samples_than_are_written_are_named(stopped, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps(ROWS[:3]))
    file = SampleFile(tmp_path / "rows.json")
    with pytest.raises(UserError, match=r"rows.json: sample 4 is not what its line 4 was made from"):
        rewrite(file, stopped, "image_caption", {}, {}, Make(file), 2, CONSOLE)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (
            {"--checkpoint": Input("new", {"a": "3:z"})},
            "--checkpoint, new, is not what .*: a has other bytes, 3 as before",
        ),
        (
            {"--images": Input("new", {"0.png": "5:z"}, some=True)},
            "--images, new, is not what .*: 0.png has other",
        ),
        ({"--checkpoint": Input("moved", {"a": "3:x"}), "--images": Input("new", {"1.png": "2:z"}, some=True)}, None),
    ],
)
def test_inputs_that_were_replaced_are_found(stopped, file, inputs, said):
    arguments = file, stopped, "image_caption", {}, inputs, Make(file), 2, CONSOLE
    if said:
        with pytest.raises(UserError, match=said + ".*; put that back, or remove it, or choose another --to$"):
            rewrite(*arguments)
    else:
        rewrite(*arguments)
        assert written(stopped) == EXPECTED


def test_a_build_continues_by_its_samples(tmp_path):
    """Captions within turns are left out of the comparison as they are of what is written."""
    turn = {"from": "human", "value": "<image>\nWhat?"}
    rows = [{"id": i, "conversations": [{**turn, "image_caption": "old"}, {"image_caption": "x"}]} for i in range(4)]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file, target = SampleFile(path), tmp_path / "out.jsonl"

    def make(until):
        def made(numbers):
            if until in numbers:
                raise KeyboardInterrupt
            return [llava_json.with_text(file[i], "image_caption", f"new {i}") for i in numbers]

        return made

    with pytest.raises(KeyboardInterrupt):
        rewrite(file, target, "image_caption", {}, {}, make(2), 1, CONSOLE)
    rewrite(file, target, "image_caption", {}, {}, make(None), 1, CONSOLE)
    assert [row["image_caption"] for row in written(target)] == [f"new {i}" for i in range(4)]
