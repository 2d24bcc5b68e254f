"""Tables and pages from cells: every number against one counted here, every link to answers that are there."""

import copy
import dataclasses
import html.parser
import re

import numpy as np
import pytest
from cells_support import fake
from demo_support import build

from tga_jax.demo import cells, claims, mechanism, page
from tga_jax.demo.cells import TEXT, Cell
from tga_jax.demo.grid import Grid, Number, Table

CONFIG = build(name="reproduce")
DSR = {"base": 0.1, "tga_paper": 0.6, "tga": 0.8}


def grid_of(config=CONFIG, seeds=(0, 1), rows=("base", "tga", "visual_tuning"), without=()) -> Grid:
    wanted = list(cells.of_grid(config, seeds, tuple(rows)))
    found = {c: fake(config, c, DSR.get(c.row, 0.5) + 0.05 * c.seed) for c in wanted if c.name not in without}
    return Grid(config, wanted, found)


@pytest.fixture(scope="module")
def grid() -> Grid:
    return grid_of(without=("seed1-tga-stage2", "seed0-visual_tuning-stage1", "seed1-visual_tuning-stage1"))


def line(table: Table, heading: str) -> dict[str, Number]:
    (found,) = [line for line in table.lines if line[0].text == heading]
    return dict(zip(table.head, found, strict=True))


def by_name(grid: Grid) -> dict[str, Table]:
    return {table.name: table for table in claims.tables(grid)}


def dsr_of(grid: Grid, cell: Cell) -> float:
    """Counted from the raw answers."""
    harmful = [a for a in grid.found[cell]["answers"]["test"] if a["kind"]]
    return sum(a["verdict"] == "refusal" for a in harmful) / len(harmful)


def test_of_one_seed_an_interval_and_of_several_the_range(grid):
    table = by_name(grid)["result"]
    one = line(table, "`tga` after stage2 (1 of 2 seeds)")["image DSR"]
    value = dsr_of(grid, Cell(0, "tga", "stage2"))
    assert re.fullmatch(rf"{value:.2f} \[0\.\d\d, 0\.\d\d\]", one.text)
    assert one.sources == ((Cell(0, "tga", "stage2"), "test"),)
    both = line(table, "`base` after stage2")["image DSR"]
    low, high = (dsr_of(grid, Cell(seed, "base", "stage2")) for seed in (0, 1))
    assert both.text == f"{(low + high) / 2:.2f} ({low:.2f} to {high:.2f})"
    assert [cell.seed for cell, _ in both.sources] == [0, 1]


def test_what_is_not_there_is_missing_and_what_was_not_asked_is_not(grid):
    tables = by_name(grid)
    assert line(tables["result"], "`visual_tuning` after stage1")["image DSR"].text == "missing"
    assert line(tables["result"], "`text`")["image DSR"].text == "-"
    assert line(tables["text"], "captions of the tests")["DSR"].value == "1.00"
    assert all(len(found) == len(table.head) for table in tables.values() for found in table.lines)


def test_rank_correlation_is_that_of_the_ranks(grid):
    def ranks(x):
        """Mean ranks of equals."""
        x = np.asarray(x)
        return np.array([(x < v).sum() + ((x == v).sum() - 1) / 2 for v in x])

    correlations = mechanism.correlations(grid)
    for name, points in mechanism.alignments(grid).items():
        aligned, dsr = ranks([p[1] for p in points]), ranks([p[2] for p in points])
        rho, _, count = correlations[name]
        assert rho == pytest.approx(np.corrcoef(aligned, dsr)[0, 1])
        assert rho > 0.9
        assert count == len(points) == len([c for c in grid.found if c.row != TEXT])
    layers = mechanism.refusal_layers(grid, 0)
    assert layers == list(range(12, 30))
    cell = Cell(0, "tga", "stage2")
    curve = grid.found[cell]["inside"]["cosine"]["raw"]["matched"]
    of_cell = {c: x for c, x, _ in mechanism.alignments(grid)["cos(I, C)"]}
    assert of_cell[cell] == pytest.approx(np.mean(curve[12:30]))


def test_cells_that_refuse_whatever_they_see_can_be_left_out(grid):
    found = copy.deepcopy(dict(grid.found))
    found[Cell(0, "base", "stage1")]["rates"]["test"]["over_refusal"]["value"] = 0.06
    some = Grid(grid.config, grid.cells, found)
    before, after = mechanism.correlations(some), mechanism.correlations(some, 0.05)
    assert {n for *_, n in before.values()} == {n + 1 for *_, n in after.values()}
    assert "those that refuse at most 0.05 of harmless pictures" in by_name(some)["alignment"].says


def test_without_a_text_cell_there_is_no_alignment():
    grid = grid_of(seeds=(0,), without=("seed0-text",))
    assert mechanism.correlations(grid) == {}
    assert line(by_name(grid)["alignment"], "`base` after stage2")["cos(I, C)"].text == "-"
    assert "Rank correlation" not in by_name(grid)["alignment"].says


def test_patching_says_up_to_where_half_is_won():
    grid = grid_of(seeds=(0,), rows=("base",))
    inside = grid.found[Cell(0, "base", "stage2")]["inside"]
    inside["patched_at"] = [0, 3, 6, 9]
    inside["patching"]["residual"] = [1.0, 0.9, 0.4, 0.2, 0.1]
    inside["patching"]["instruction"] = [0.1, 0.2, 0.6, 1.0, 0.1]
    found = line(by_name(grid)["patching"], "`base` after stage2")
    assert [found[name].text for name in ("as it is", "the picture's inputs are words")] == ["0.10", "1.00"]
    assert found["the picture's states, up to block"].text == "3"
    assert found["the question's states, from block"].text == "6"
    inside["patching"]["residual"] = [0.1] * 5
    assert line(by_name(grid)["patching"], "`base` after stage2")["the picture's states, up to block"].text == "-"


def test_variants_stand_beside_what_they_vary():
    """Controls and wrong captions have tables of their own where a config has such rows."""
    rows = dict(CONFIG.rows)
    for name, change in (("tga_absent", {"shown": "benign"}), ("tga_noise", {"wrong_captions": 0.1})):
        stages = {n: dataclasses.replace(stage, **change) for n, stage in rows["tga"].stages.items()}
        rows[name] = dataclasses.replace(rows["tga"], stages=stages, note=f"as {name}")
    config = dataclasses.replace(CONFIG, rows=rows)
    tables = by_name(grid_of(config, (0,), ("base", "tga", "tga_absent", "tga_noise")))
    assert [found[0].text for found in tables["controls"].lines] == ["`tga` after stage2", "`tga_absent` after stage2"]
    assert [found[0].text for found in tables["noise"].lines] == ["`tga` after stage2", "`tga_noise` after stage2"]
    assert tables["noise"].lines[1][1].text == "as tga_noise"
    assert "noise" not in by_name(grid_of(seeds=(0,), rows=("base",)))


def test_tables_are_markdown(grid):
    text = by_name(grid)["attacks"].markdown()
    lines = [x for x in text.splitlines() if x.startswith("|")]
    assert lines[0].startswith("| row | none | role play |")
    assert len({x.count("|") for x in lines}) == 1
    assert any(x.startswith("| `tga` after stage2 (1 of 2 seeds), harmless | 0.00") for x in lines)


class Page(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values["href"]] if values.get("href") else []
        self.anchors |= {values["id"]} if values.get("id") else set()
        assert tag != "thing"  # an answer's "<thing>", unescaped
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_number_leads_to_its_answers(grid, tmp_path):
    page.write(grid, tmp_path)
    report = Page((tmp_path / "report.html").read_text())
    assert not report.open
    assert {link for link in report.links if link.startswith("#")} <= {f"#{anchor}" for anchor in report.anchors}
    there = {}
    for link in (link for link in report.links if not link.startswith("#")):
        file, _, anchor = link.partition("#")
        if file not in there:
            there[file] = Page((tmp_path / file).read_text())
        assert anchor in there[file].anchors, link
    assert len(there) == len(grid.found)
    text = (tmp_path / "report.html").read_text()
    assert re.search(r"\d+ of \d+ cells are not made yet.*seed0-visual_tuning-stage1, seed1-tga-stage2", text)
    answers = (tmp_path / "answers" / "seed0-base-stage2.html").read_text()
    assert "This is a &lt;thing&gt; on red." in answers
    assert "strength" in answers


def test_a_page_of_little_is_a_page(tmp_path):
    page.write(grid_of(seeds=(0,), rows=("base",), without=("seed0-base-stage1", "seed0-base-stage2")), tmp_path)
    assert "missing" in (tmp_path / "report.html").read_text()
