"""The grid: what a cell depends on, what is kept of it, and that a stopped grid goes on."""

import contextlib
import dataclasses
import gzip
import io
import json
import re
from pathlib import Path

import pytest
import rich.console
from cells_support import fake
from demo_support import build

from configs.reproduce import get_config
from tga_jax import cli
from tga_jax import config as config_module
from tga_jax.demo import cells, claims, main, reproduce
from tga_jax.demo.cells import Cell
from tga_jax.demo.config import DemoConfig, Stage
from tga_jax.demo.grid import Grid
from tga_jax.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIG = build(name="emoji")


def test_the_grid_goes_by_seed_row_and_stage():
    found = list(cells.of_grid(CONFIG, (3, 1), ("tga", "base")))
    assert [cell.name for cell in found[:5]] == [
        "seed3-text", "seed3-tga-fit", "seed3-tga-stage2", "seed3-base-stage1", "seed3-base-stage2",
    ]  # fmt: skip
    assert [cell.seed for cell in found] == [3] * 5 + [1] * 5
    with pytest.raises(UserError, match=r"--rows: 'none', expected some of base, tga"):
        list(cells.of_grid(CONFIG, (0,), ("none",)))


def test_a_cell_depends_on_its_own_row_up_to_its_stage():
    first, last, text = Cell(0, "tga", "fit"), Cell(0, "tga", "stage2"), Cell(0, "text")
    before = {cell: cells.described(CONFIG, cell) for cell in (first, last, text)}
    assert len(set(before.values())) == 3

    def changed(**fields) -> set[Cell]:
        other = build(fields, name="emoji")
        return {cell for cell, known in before.items() if cells.described(other, cell) != known}

    assert changed(**{"rows.base.stages.stage1.steps": 7, "name": "other", "rows.tga.note": "other"}) == set()
    assert changed(**{"rows.tga.stages.stage2.steps": 7}) == {last}
    assert changed(**{"rows.tga.stages.fit.steps": 7}) == {first, last}
    assert changed(**{"rows.tga.guide.weight": 0.3}) == {first, last}
    assert changed(**{"text.steps": 7}) == changed(**{"asked": 7}) == set(before)
    assert cells.described(CONFIG, Cell(1, "text")) != before[text]


def test_a_kept_cell_is_read_back_unless_it_is_of_another_config(tmp_path):
    cell = Cell(2, "tga", "fit")
    assert cells.stored(tmp_path, CONFIG, cell) is None
    kept = {"config": cells.described(CONFIG, cell), "rates": {"a": 0.5}}
    cells.store(tmp_path, cell, kept)
    assert cells.stored(tmp_path, CONFIG, cell) == kept
    assert cells.stored(tmp_path, build({"rows.tga.stages.fit.steps": 7}), cell) is None
    assert [path.name for path in tmp_path.iterdir()] == ["seed2-tga-fit.json.gz"]
    first = cell.file(tmp_path).read_bytes()
    cells.store(tmp_path, cell, kept)
    assert cell.file(tmp_path).read_bytes() == first


# Without gzip's time, which would give each worker of pytest-xdist other names of the tests.
@pytest.mark.parametrize("content", [b"", b"no gzip", *(gzip.compress(text, mtime=0) for text in (b"{", b"[]", b"{}"))])
def test_a_damaged_cell_is_named(tmp_path, content):
    cell = Cell(0, "base", "stage1")
    cell.file(tmp_path).write_bytes(content)
    with pytest.raises(UserError, match=r"seed0-base-stage1\.json\.gz: cannot be read .*; remove it") as error:
        cells.stored(tmp_path, CONFIG, cell)
    assert "\n" not in str(error.value)


@pytest.fixture
def made(monkeypatch):
    """The cells that were made, by a stand-in for the trainings; "stop" in it stops the next one."""
    made: list = []

    def make(world, cell):
        if "stop" in made:
            raise KeyboardInterrupt
        made.append(cell)
        return fake(CONFIG, cell, 0.25 * (1 + cell.seed))

    class World:
        shows = staticmethod(contextlib.nullcontext)

    monkeypatch.setattr(main, "open_world", lambda config, parts, bars: World())
    monkeypatch.setattr(cells, "make", make)
    return made


def run(tmp_path, seeds=(0, 1), **options) -> str:
    console = rich.console.Console(file=io.StringIO(), width=300)
    reproduce.run(CONFIG, seeds, ("base",), tmp_path, tmp_path / "parts", console, **options)
    return console.file.getvalue()


def test_a_stopped_grid_goes_on_and_a_finished_one_makes_nothing(tmp_path, made):
    run(tmp_path, (0,))
    assert made == [Cell(0, "text"), Cell(0, "base", "stage1"), Cell(0, "base", "stage2")]
    made.append("stop")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    made.clear()
    assert "cell 4 of 6: seed1-text" in run(tmp_path)
    assert [cell.seed for cell in made] == [1, 1, 1]
    made.clear()
    run(tmp_path)
    assert made == []


def test_what_a_terminal_of_80_columns_shows(tmp_path, made):
    run(tmp_path, (0,))
    console = rich.console.Console(file=io.StringIO(), width=80)
    reproduce.run(CONFIG, (0,), ("base", "tga"), tmp_path, tmp_path / "parts", console, only_tables=True)
    said = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    table = said[: said.index("Intervals")]
    assert "…" not in table
    assert "missing" not in table  # `tga` was not made
    assert re.search(r"\n base after stage2 +\d\.\d\d +\d\.\d\d ", table)


def test_jobs_of_a_seed_begin_with_its_text_model_and_its_clip(tmp_path):
    grid = list(cells.of_grid(CONFIG, (0, 1), ("tga", "base")))
    without_text = [cell for cell in grid if cell != Cell(1, "text")]
    found = dict(reproduce._jobs(CONFIG, without_text, tmp_path, tmp_path))
    assert {name: job.needs for name, job in found.items()} == {
        "seed0-text": (),
        "seed0-clip": (),
        "seed0-tga": ("seed0-text", "seed0-clip"),
        "seed0-base": ("seed0-text", "seed0-clip"),
        "seed1-clip": (),
        "seed1-tga": ("seed1-clip",),  # whose text model is trained, if need be, by the first that needs it
        "seed1-base": ("seed1-clip",),
    }
    assert list(found)[:2] == ["seed0-text", "seed0-clip"]
    assert dict(reproduce._jobs(CONFIG, grid[:1], tmp_path, tmp_path)).keys() == {"seed0-text"}


def test_tables_alone_make_nothing_and_need_a_cell(tmp_path, made):
    with pytest.raises(UserError, match=r"no cells of this grid, expected at least one; run without --tables"):
        run(tmp_path, (0,), only_tables=True)
    run(tmp_path, (0,))
    made.clear()
    for name in ("table.md", "report.html", "results.json"):
        (tmp_path / name).unlink()
    run(tmp_path, (0, 5), only_tables=True)
    assert made == []
    assert "missing" not in (tmp_path / "table.md").read_text().split("###")[1]  # seed 0 is there
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["cells"]) == {"seed0-text", "seed0-base-stage1", "seed0-base-stage2"}
    assert results["missing"] == ["seed5-text", "seed5-base-stage1", "seed5-base-stage2"]
    assert "seed5-text" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--scale=some"], "--scale: 'some', expected quick or full"),
        (["--scale"], "--scale: '', expected quick or full"),
        (["--seeds=a"], "--seeds: 'a', expected numbers such as 0,1,2"),
        (["--seeds=1,1"], "--seeds: 1,1, expected different numbers"),
        (["--jobs=0"], "--jobs: 0, expected at least 1"),
        (["--rows=none"], "--rows: 'none', expected some of base"),
    ],
)
def test_flags_that_say_nothing_are_one_line(flags, said, tmp_path, capsys):
    assert cli.run(["reproduce", f"--workdir={tmp_path}", f"--parts={tmp_path}", *flags]) == 2
    assert said in capsys.readouterr().err


def test_the_demo_of_the_real_language_model_is_its_grid(monkeypatch, tmp_path, capsys):
    asked: list = []
    monkeypatch.setattr(reproduce, "run", lambda config, seeds, rows, *_: asked.append((config.name, seeds, rows)))
    assert cli.run(["demo", "--world=smollm2", f"--workdir={tmp_path}"]) == 0
    assert asked == [("reproduce_quick", [0], ("base", "tga_paper", "tga"))]
    for flags, said in (
        (["--world=mars"], "--world: 'mars', expected emoji or smollm2"),
        (["--world=smollm2", "--quick"], "--quick: is of the emoji world"),
    ):
        assert cli.run(["demo", *flags]) == 2
        assert said in capsys.readouterr().err


def test_the_quick_scale_is_shorter_and_the_full_one_is_the_config_itself(monkeypatch, tmp_path):
    asked: list = []
    monkeypatch.setattr(reproduce, "run", lambda config, seeds, rows, *_: asked.append((config, seeds, rows)))
    for flags in ([], ["--scale", "full"], ["--scale=quick", "--config=configs/reproduce.py", "--config.asked=3"]):
        assert cli.run(["reproduce", f"--parts={tmp_path}", *flags]) == 0
    (quick, seeds, rows), (full, all_seeds, all_rows), (named, *_) = asked
    assert (seeds, rows, all_seeds) == ([0], quick.core_rows, [0, 1, 2])
    assert set(all_rows) == set(full.rows) == set(quick.rows)
    assert named == dataclasses.replace(full, asked=3)  # a config that is named is taken as it is
    pairs = [(quick.clip, full.clip), (quick.patches, full.patches), (quick.text, full.text)]
    for name, row in full.rows.items():
        pairs += [(quick.rows[name].stages[stage], row.stages[stage]) for stage in row.stages]
        assert dataclasses.replace(quick.rows[name], stages=row.stages) == row
    assert all(0 < less.steps < more.steps for less, more in pairs)
    for less, more in pairs:
        reads = isinstance(more, Stage) and more.lm  # with the decoder
        assert less.batch_size == (8 if reads else more.batch_size)
    assert quick.scenes["train_two"] == quick.scenes["test_two"] == quick.clip.pairs == quick.text.mix.pairs == 0
    assert quick.asked < full.asked
    assert full.note == "" != quick.note
    with pytest.raises(ValueError, match=r"reproduce\.py:slow, expected reproduce\.py:full or reproduce\.py:quick"):
        get_config("slow")


def test_cells_are_json_without_weights(tmp_path):
    cells.store(tmp_path, Cell(0, "text"), {"config": "x", "answers": {}})
    assert json.loads(gzip.decompress((tmp_path / "seed0-text.json.gz").read_bytes())) == {"config": "x", "answers": {}}
    assert dataclasses.asdict(Cell(0, "text")) == {"seed": 0, "row": "text", "stage": ""}


def test_the_tables_in_configs_are_of_the_cells_that_lie_there_and_of_the_config():
    config = config_module.build(DemoConfig, get_config())
    folder = ROOT / "configs" / "reproduced"
    there = {path.name for path in (folder / "cells").iterdir()}
    others = (row for row in config.rows if row not in config.core)
    rows = (*config.core, *(row for row in others if any(f"-{row}-" in name for name in there)))
    grid = list(cells.of_grid(config, (0, 1, 2), rows))
    found = {c: kept for c in grid if (kept := cells.stored(folder / "cells", config, c)) is not None}
    assert {cell.file(folder).name for cell in found} == there
    text = (ROOT / "configs" / "README.md").read_text()
    for table in claims.tables(Grid(config, grid, found)):
        assert table.markdown() in text, table.name
