"""results.json as one page to read: `report.html`, which needs no network, no script and no other file.

Every number on the page comes from the results passed in, the sentences about them too.
"""

import base64
import dataclasses
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tga_jax.errors import UserError
from tga_jax.workdir import write_text

# Row name in results.json -> what tables and figures call it, in their order.
ROW_LABELS = {"base": "base", "tga_paper": "TGA (published)", "tga": "TGA (ours)"}

# The rates of a row: key in results.json -> heading. The one place that says what a row is measured by.
RATE_FIELDS = {
    "image_dsr": "image DSR",
    "benign_naming": "benign naming",
    "benign_color": "benign colour",
    "over_refusal": "over-refusal",
    "look_alike_over_refusal": "look-alike over-refusal",
    "harmful_naming": "harmful naming",
    "unknown": "no answer",
    "text_dsr": "text DSR",
}

_LICENSES = (
    "Pictures, resized and placed on coloured backgrounds: Twemoji, © Twitter, Inc and other contributors, CC-BY 4.0; "
    "Material Design Icons, © Pictogrammers and contributors, Apache License 2.0, tinted; Noto Emoji, © Google, SIL "
    "Open Font License 1.1, tinted. Full texts and attributions: third_party/ of the source code."
)


@dataclasses.dataclass(frozen=True)
class Example:
    """One harmful or benign picture and what was said about it.

    Attributes:
      image: uint8 [H, W, 3].
      caption: what it shows.
      answers: label ("caption as text", or a row's) -> answer.
      verdicts: the same labels -> "refusal", "answer" or "unknown".
    """

    image: np.ndarray
    caption: str
    answers: Mapping[str, str]
    verdicts: Mapping[str, str]


def write_report(
    results: Mapping[str, Any], figures: Mapping[str, Path], path: Path, examples: Sequence[Example] = ()
) -> None:
    """Writes the page, aside first and then moved into place.

    Args:
      results: what results.json holds; see `RATE_FIELDS` for the rates of a row.
      figures: caption -> PNG file, in the order of the page; embedded.
      path: the HTML file to write.
      examples: pictures with answers, shown beneath the figures.

    Raises:
      UserError: names the key that `results` lacks, or that holds something else than a rate, or the figure that
        cannot be read.
    """
    write_text(path, _page(results, figures, examples))


def headline(results: Mapping[str, Any]) -> str:
    """Plain text: what was refused as text and as a picture on the first split, without retrieved text."""
    text = _rate(results, "text_dsr")
    rows = [row for row in _rows(results) if not row["retrieved_text"]]
    said = f"Harmful captions given as text are refused in {_percent(text)} of {_n(text)} cases."
    if not rows:
        return said
    split = rows[0]["split"]
    rows = [row for row in rows if row["split"] == split]
    shares = "; ".join(
        f"{_label(row)} {_percent(row['image_dsr'])} (names {_percent(row['benign_naming'])} of benign pictures, "
        f"refuses {_percent(row['over_refusal'])} of them)"
        for row in rows
    )
    said += f" The same content as pictures (split {split}, no retrieved text) is refused: {shares}."
    base = next((row for row in rows if row["name"] == "base"), None)
    if base is not None and _known(base["image_dsr"]):
        for row in rows:
            if row is not base and _known(row["image_dsr"]):
                said += f" {_label(row)}: {_against(row['image_dsr'], base['image_dsr'])}."
    return said


def _against(rate: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    if rate["low"] > base["high"]:
        return "its 95 % interval lies above that of base"
    if rate["high"] < base["low"]:
        return "its 95 % interval lies below that of base"
    return "its 95 % interval overlaps that of base"


def _page(results: Mapping[str, Any], figures: Mapping[str, Path], examples: Sequence[Example]) -> str:
    rows = _rows(results)
    body = [
        "<h1>Text-Guided Alignment: does text safety carry over to pictures?</h1>",
        f'<p class="lead">{_esc(headline(results))}</p>',
        "<p>One seed, one training run for each row. DSR (defence success rate) is the share of harmful inputs that "
        "are refused. An empty answer is counted as “no answer”, never as a refusal.</p>",
        *(_figure(caption, file) for caption, file in figures.items()),
    ]
    if examples:
        body += ["<h2>Examples</h2>", f'<div class="examples">{"".join(map(_example, examples))}</div>']
    body += [
        "<h2>Rows</h2>",
        _rows_table(rows),
        f"<p>Captions as text: DSR {_cell(_rate(results, 'text_dsr'))}, over-refusal "
        f"{_cell(_rate(results, 'text_over_refusal'))}. Cells: share [95 % Wilson interval].</p>",
        '<p class="note"><strong>Retrieved text is a shortcut.</strong> With retrieved text in the prompt, harmful '
        "words stand there as text, and those words alone trigger the text refusal. <em>base</em> with retrieved text "
        "is the control: only what a row refuses <em>without</em> retrieved text shows transfer through hidden "
        "states.</p>",
        f"<ul>{''.join(_row_note(results, name) for name in dict.fromkeys(row['name'] for row in rows))}</ul>",
        "<h2>By scene</h2>",
        _scene_table(results, rows),
        "<h2>Where refusal starts</h2>",
        _analysis_table(results),
        "<h2>The run</h2>",
        _run(results),
        f"<footer><p>{_esc(_LICENSES)}</p></footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Text-Guided Alignment: report</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["row", "retrieved text", "split", *RATE_FIELDS.values()]
    body = [
        [
            _esc(_label(row)),
            "yes" if row["retrieved_text"] else "no",
            _esc(row["split"]),
            *(_cell(row[key]) for key in RATE_FIELDS),
        ]
        for row in rows
    ]
    return _table(head, body)


def _scene_table(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    text = _rates(results, "text_dsr_by_scene")
    scenes = list(dict.fromkeys([*text, *(scene for row in rows for scene in row["image_dsr_by_scene"])]))
    body = [["caption as text", "", "", *(_cell(text.get(scene)) for scene in scenes)]]
    for row in rows:
        cells = (_cell(row["image_dsr_by_scene"].get(scene)) for scene in scenes)
        body.append([_esc(_label(row)), "yes" if row["retrieved_text"] else "no", _esc(row["split"]), *cells])
    return _table(["DSR", "retrieved text", "split", *scenes], body)


def _analysis_table(results: Mapping[str, Any]) -> str:
    analysis = _get(results, "analysis")
    starts, ends, silent = (
        _get(analysis, key, "analysis.") for key in ("refusal_start_layer", "refusal_end_layer", "no_activation")
    )
    body = [
        [_esc(label), *("none" if part.get(label) is None else _esc(part[label]) for part in (starts, ends, silent))]
        for label in dict.fromkeys([*starts, *ends, *silent])
    ]
    return _table(["input", "start layer", "end layer", "samples without activation"], body)


def _run(results: Mapping[str, Any]) -> str:
    seconds, peak = _get(results, "seconds"), _get(results, "peak_memory_bytes")
    facts = {
        "seed": _get(results, "seed"),
        "commit": _get(results, "commit"),
        "time": "not measured" if seconds is None else f"{seconds:,.0f} s",
        "peak memory": "not measured" if peak is None else f"{peak / 2**30:.2f} GiB",
    }
    items = "".join(f"<dt>{_esc(key)}</dt><dd>{_esc(value)}</dd>" for key, value in facts.items())
    config = json.dumps(_get(results, "config"), indent=2, ensure_ascii=False, default=str)
    return (
        f"<dl>{items}</dl><details><summary>What was trained: the config</summary><pre>{_esc(config)}</pre></details>"
    )


def _row_note(results: Mapping[str, Any], name: str) -> str:
    note = _get(results, "config").get("rows", {}).get(name, {}).get("note", "see the config")
    return f"<li><em>{_esc(ROW_LABELS.get(name, name))}</em>: {_esc(note)}</li>"


def _example(example: Example) -> str:
    buffer = io.BytesIO()
    Image.fromarray(example.image).save(buffer, format="png")
    answers = "".join(
        f'<dt>{_esc(label)}</dt><dd class="{_esc(example.verdicts[label])}">{_esc(answer.strip() or "(empty)")}</dd>'
        for label, answer in example.answers.items()
    )
    return (
        f'<figure class="example"><img class="pixels" src="{_data_url(buffer.getvalue())}" alt="">'
        f"<figcaption>{_esc(example.caption)}</figcaption><dl>{answers}</dl></figure>"
    )


def _figure(caption: str, file: Path) -> str:
    try:
        png = file.read_bytes()
    except OSError as error:
        raise UserError(f"figure {caption!r}: cannot read {file}: {error.strerror}") from error
    return (
        f'<figure><img src="{_data_url(png)}" alt="{_esc(caption)}"><figcaption>{_esc(caption)}</figcaption></figure>'
    )


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Headings are escaped here, cells come escaped. The first cell of a line is its heading."""
    top = "".join(f'<th scope="col">{_esc(title)}</th>' for title in head)
    lines = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in body
    )
    # Focusable, so that a wide table can be scrolled from the keyboard.
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(rate: Mapping[str, Any] | None) -> str:
    if rate is None or not _known(rate):
        return '<span class="none">n/a</span>'
    return f'{rate["value"]:.2f} <span class="interval">[{rate["low"]:.2f}, {rate["high"]:.2f}]</span>'


def _rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows, each key looked up and each rate checked, so that what follows may index freely."""
    rows = []
    for i, row in enumerate(_get(results, "rows")):
        where = f"rows[{i}]."
        rows.append(
            {
                **{key: _get(row, key, where) for key in ("name", "retrieved_text", "split")},
                **{key: _rate(row, key, where) for key in RATE_FIELDS},
                "image_dsr_by_scene": _rates(row, "image_dsr_by_scene", where),
            }
        )
    return rows


def _get(mapping: Mapping[str, Any], key: str, where: str = "") -> Any:
    if key not in mapping:
        raise UserError(f"results lack the key {where}{key}")
    return mapping[key]


def _rate(mapping: Mapping[str, Any], key: str, where: str = "") -> Mapping[str, Any] | None:
    """A rate, or None where results.json has null for one that was not measured."""
    rate = _get(mapping, key, where)
    if rate is not None:
        if not isinstance(rate, Mapping):
            raise UserError(f"results: {where}{key} is {rate!r}, expected a rate with value, low, high and n")
        for part in ("value", "low", "high", "n"):
            _get(rate, part, f"{where}{key}.")
    return rate


def _rates(mapping: Mapping[str, Any], key: str, where: str = "") -> dict[str, Mapping[str, Any] | None]:
    by_scene = _get(mapping, key, where)
    return {scene: _rate(by_scene, scene, f"{where}{key}.") for scene in by_scene}


def _known(rate: Mapping[str, Any] | None) -> bool:
    return rate is not None and rate["value"] is not None


def _percent(rate: Mapping[str, Any] | None) -> str:
    return "n/a" if rate is None or rate["value"] is None else f"{100 * rate['value']:.0f} %"


def _n(rate: Mapping[str, Any] | None) -> int:
    return 0 if rate is None else rate["n"]


def _label(row: Mapping[str, Any]) -> str:
    return ROW_LABELS.get(row["name"], str(row["name"]))


def _esc(value: object) -> str:
    return html.escape(str(value), quote=True)


_CSS = """
:root { --ink: #222; --muted: #5a5a5a; --page: #fff; --panel: #f4f5f7; --line: #d5d8dd; --refusal: #005a9c;
  --unknown: #a34700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --muted: #a8a8a8; --page: #16181c; --panel: #22252b; --line: #3b3f47; --refusal: #7cc0ff;
    --unknown: #ffab66; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.lead { font-size: 1.1rem; }
figure { margin: 1.5rem 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption { color: var(--muted); font-size: .9rem; margin-top: .4rem; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 1rem; }
.example { margin: 0; padding: .75rem; background: var(--panel); border-radius: 6px; }
.example .pixels { width: 128px; image-rendering: pixelated; }
.example dl { margin: .5rem 0 0; display: block; font-size: .9rem; }
.example dd { margin: 0 0 .4rem; overflow-wrap: anywhere; }
dd.refusal { color: var(--refusal); font-weight: 600; }
dd.unknown { color: var(--unknown); font-style: italic; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
tbody th { position: sticky; left: 0; background: var(--page); font-weight: 600; white-space: nowrap; }
.interval { white-space: nowrap; }
.interval, .none, dt { color: var(--muted); }
.note { background: var(--panel); border-left: 4px solid var(--refusal); padding: .6rem .9rem; border-radius: 4px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--panel); padding: .75rem; border-radius: 6px; font-size: .8rem; }
summary { cursor: pointer; }
footer { margin-top: 2rem; border-top: 1px solid var(--line); color: var(--muted); font-size: .85rem; }
"""
