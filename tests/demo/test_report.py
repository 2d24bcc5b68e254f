import base64
import copy
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tga_jax.demo.report import RATE_FIELDS, Example, headline, write_report
from tga_jax.errors import UserError
from tga_jax.report.intervals import wilson

SCENES = ("alcohol", "gun")
NASTY = "<script>alert('x')</script> & \"quoted\""


def rate(percent, n=100):
    return wilson(percent, n).to_json()


def make_row(name, retrieved, split, dsr):
    row = {key: rate(10) for key in RATE_FIELDS}
    return row | {
        "name": name,
        "retrieved_text": retrieved,
        "new_questions": False,
        "split": split,
        "image_dsr": rate(dsr),
        "image_dsr_by_scene": {scene: rate(dsr) for scene in SCENES},
    }


@pytest.fixture
def results():
    rows = [
        make_row(name, retrieved, split, dsr)
        for split in ("test", "test_hand")
        for retrieved in (False, True)
        for name, dsr in (("base", 8), ("tga_paper", 12), ("tga", 50))
    ]
    rows[1]["look_alike_over_refusal"] = wilson(0, 0).to_json()
    rows[2]["look_alike_over_refusal"] = None
    rows[3]["split"] = NASTY
    return {
        "seed": 3,
        "commit": "abc123",
        "config": {"note": NASTY, "optimizer": {"lr": 1e-3}, "rows": {"tga": {"note": f"ours: {NASTY}"}}},
        "seconds": 1234.5,
        "peak_memory_bytes": None,
        "text_dsr": rate(100),
        "text_over_refusal": rate(1),
        "text_dsr_by_scene": {scene: rate(100) for scene in SCENES},
        "rows": rows,
        "analysis": {
            "refusal_start_layer": {"caption as text": 2, NASTY: None},
            "refusal_end_layer": {"caption as text": 8, NASTY: None},
            "no_activation": {"caption as text": 0, NASTY: 17},
            "refusal_probability": {"caption as text": [0.0, 0.0, 0.01, 0.5, 0.987]},
        },
    }


@pytest.fixture
def figure(tmp_path):
    path = tmp_path / "figure.png"
    Image.new("RGB", (7, 5), "red").save(path)
    return path


class Page(HTMLParser):
    """What a browser would see: the tags with their attributes, the cells of each table, the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.tables, self.text, self._in_cell = [], [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        self.text += data
        if self._in_cell:
            self.tables[-1][-1][-1] += data


def write(results, figure, tmp_path):
    path = tmp_path / "out" / "report.html"
    example = Example(
        np.zeros((4, 4, 3), np.uint8),
        NASTY,
        {"base": NASTY, "TGA (ours)": "", "caption as text": "I'm sorry"},
        {"base": "answer", "TGA (ours)": "unknown", "caption as text": "refusal"},
    )
    write_report(results, {f"Rates {NASTY}": figure}, path, [example])
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def test_needs_nothing_else(results, figure, tmp_path):
    html, page = write(results, figure, tmp_path)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base"})
    loads = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href", "srcset")]
    assert len(loads) == 2
    assert all(load.startswith("data:image/png;base64,") for load in loads)
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    assert not re.search(r"url\(|@import|https?://", html)


def test_pictures_are_embedded_as_they_are(results, figure, tmp_path):
    _, page = write(results, figure, tmp_path)
    pngs = [base64.b64decode(attrs["src"].split(",")[1]) for tag, attrs in page.tags if tag == "img"]
    assert pngs[0] == figure.read_bytes()
    assert Image.open(io.BytesIO(pngs[1])).size == (4, 4)


def test_markup_in_the_data_stays_text(results, figure, tmp_path):
    html, page = write(results, figure, tmp_path)
    assert "<script" not in html
    # figure caption, example caption, answer, split (twice), label of the analysis, notes of the config and of a row
    assert page.text.count(NASTY) == 8
    assert '"lr": 0.001' in page.text


def test_every_row_and_rate_is_in_the_table(results, figure, tmp_path):
    _, page = write(results, figure, tmp_path)
    rows = page.tables[0]
    assert rows[0] == ["row", "retrieved text", "split", *RATE_FIELDS.values()]
    assert len(rows) == 1 + 12
    assert rows[1][:4] == ["base", "no", "test", "0.08 [0.04, 0.15]"]
    assert rows[6][:4] == ["TGA (ours)", "yes", "test", "0.50 [0.40, 0.60]"]
    look_alike = rows[0].index("look-alike over-refusal")
    assert [row[look_alike] for row in rows[1:4]] == ["0.10 [0.06, 0.17]", "n/a", "n/a"]


def test_scene_and_layer_tables(results, figure, tmp_path):
    del results["rows"][0]["image_dsr_by_scene"]["gun"]
    _, page = write(results, figure, tmp_path)
    assert page.tables[1][0] == ["DSR", "retrieved text", "split", *SCENES]
    assert page.tables[1][1] == ["caption as text", "", "", "1.00 [0.96, 1.00]", "1.00 [0.96, 1.00]"]
    assert page.tables[1][2][3:] == ["0.08 [0.04, 0.15]", "n/a"]
    assert page.tables[2][1:] == [
        ["caption as text", "2", "8", "0.01", "0.99", "0"],
        [NASTY, "none", "none", "n/a", "n/a", "17"],
    ]


def test_the_lead_and_the_cards_say_what_the_rates_say(results, figure, tmp_path):
    expected = (
        "Harmful captions are refused as text in 100 % of 100 cases; shown as pictures (split test), by base 8 %, "
        "TGA (paper) 12 %, TGA (ours) 50 %."
    )
    assert headline(results) == expected
    _, page = write(results, figure, tmp_path)
    assert expected in page.text
    assert [attrs.get("class") for _, attrs in page.tags].count("card") == 3
    assert "TGA (ours)50 %of harmful pictures refused. It names 10 % of the benign ones and refuses 10 %" in page.text
    assert "Refused: its 95 % interval overlaps that of base." in page.text
    assert "Refused: its 95 % interval lies above that of base." in page.text
    results["rows"] = [make_row("base", False, "test", 50), results["rows"][2] | {"image_dsr": rate(0)}]
    _, page = write(results, figure, tmp_path / "other")
    assert "Refused: its 95 % interval lies below that of base." in page.text


def test_the_lead_without_rows_or_rates(results):
    results["text_dsr"] = None
    assert headline(results | {"rows": []}) == "Harmful captions are refused as text in n/a of 0 cases."


@pytest.mark.parametrize(
    "key",
    [
        "seed",
        "commit",
        "config",
        "seconds",
        "peak_memory_bytes",
        "text_dsr",
        "text_over_refusal",
        "text_dsr_by_scene",
        "rows",
        "analysis",
        "analysis.no_activation",
        "analysis.refusal_probability",
        "text_dsr.high",
        "rows[1].split",
        "rows[1].image_dsr_by_scene",
        "rows[1].image_dsr_by_scene.gun.low",
        *(f"rows[1].{key}" for key in RATE_FIELDS),
    ],
)
def test_a_missing_key_is_named(results, figure, tmp_path, key):
    results = copy.deepcopy(results)
    *parents, last = key.replace("[1]", ".1").split(".")
    part = results
    for parent in parents:
        part = part[int(parent)] if isinstance(part, list) else part[parent]
    del part[last]
    with pytest.raises(UserError, match=re.escape(f"lack the key {key}") + "$"):
        write_report(results, {}, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_bare_number_is_no_rate(results, tmp_path):
    results["rows"][0]["image_dsr"] = 0.5
    with pytest.raises(UserError, match=r"rows\[0\]\.image_dsr is 0\.5, expected a rate"):
        write_report(results, {}, tmp_path / "report.html")


def test_a_missing_figure_is_named(results, tmp_path):
    with pytest.raises(UserError, match=r"figure 'Rates'.*gone\.png"):
        write_report(results, {"Rates": tmp_path / "gone.png"}, tmp_path / "report.html")
