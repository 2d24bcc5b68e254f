"""A file of samples written anew: continued after a stop or a kill, refused where it would mix runs."""

import json
from pathlib import Path

import pytest
import rich.console

from tga_jax.data.rewrite import rewrite
from tga_jax.data.samples import SampleFile
from tga_jax.errors import UserError

ROWS = [{"id": i, "text": "é" * (i % 4)} for i in range(11)]
CONSOLE = rich.console.Console(quiet=True)


@pytest.fixture(name="file")
def fixture_file(tmp_path) -> SampleFile:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    return SampleFile(path)


class Make:
    """Doubles a row's number; stops at sample `until`."""

    def __init__(self, file: SampleFile, until: int | None = None, error: BaseException | None = None):
        self.file, self.until, self.error, self.made = file, until, error or KeyboardInterrupt(), []

    def __call__(self, numbers):
        if self.until is not None and self.until in numbers:
            raise self.error
        self.made += numbers
        return [{**self.file[i], "double": 2 * i} for i in numbers]


EXPECTED = [{**row, "double": 2 * row["id"]} for row in ROWS]


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("batch", [1, 3, 11, 20])
def test_all_rows_in_their_order_and_nothing_beside(file, tmp_path, batch):
    target = tmp_path / "new" / "out.jsonl"
    rewrite(file, target, {}, Make(file), batch, CONSOLE)
    assert written(target) == EXPECTED
    assert [p.name for p in target.parent.iterdir()] == ["out.jsonl"]


def test_a_stopped_run_goes_on_where_it_stopped(file, tmp_path):
    target = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        rewrite(file, target, {"a": 1}, Make(file, until=7), 3, CONSOLE)
    assert not target.exists()
    aside = tmp_path / ".out.jsonl.unfinished"
    with aside.open("a") as out:  # a killed run leaves half a line
        out.write('{"id": 6, "te')
    again = Make(file)
    rewrite(file, target, {"a": 1}, again, 4, CONSOLE)
    assert again.made == list(range(6, 11))
    assert written(target) == EXPECTED
    assert not aside.exists()


def test_an_unfinished_file_of_other_settings_is_refused(file, tmp_path):
    target = tmp_path / "out.jsonl"
    with pytest.raises(UserError, match="no such picture"):
        rewrite(file, target, {"a": 1}, Make(file, 7, UserError("no such picture")), 3, CONSOLE)
    with pytest.raises(UserError, match=r"unfinished: it.a is 1 there and 2 now; remove it, or choose another --to"):
        rewrite(file, target, {"a": 2}, Make(file), 3, CONSOLE)
    assert len(written(tmp_path / ".out.jsonl.unfinished")) == 6


@pytest.mark.parametrize(
    ("name", "named"),
    [("out.json", "expected a name in .jsonl"), ("there.jsonl", "is there already, expected a new file")],
)
def test_a_bad_target_is_named(file, tmp_path, name, named):
    (tmp_path / "there.jsonl").write_text("mine")
    with pytest.raises(UserError, match=f"{name}: {named}"):
        rewrite(file, tmp_path / name, {}, Make(file), 3, CONSOLE)
    assert (tmp_path / "there.jsonl").read_text() == "mine"
