"""results.json as one page to read: `report.html`, which needs no network, no script and no other file.

Every number on the page comes from the results passed in, the sentences about them too.
"""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tga_jax.errors import UserError
from tga_jax.report.html import data_url, document, esc, figure, table
from tga_jax.workdir import write_text

# Row name in results.json -> what tables and figures call it, in their order.
ROW_LABELS = {"base": "base", "tga_paper": "TGA (paper)", "tga_released": "TGA (released code)", "tga": "TGA (ours)"}

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

LICENSES = (
    "Pictures, resized and placed on coloured backgrounds: Twemoji, © Twitter, Inc and other contributors, CC-BY 4.0; "
    "OpenMoji, © the OpenMoji project, CC-BY-SA 4.0; "
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
    """One sentence: what is refused as text and, of each row, as a picture."""
    text = _rate(results, "text_dsr")
    said = f"Harmful captions are refused as text in {_percent(text)} of {_n(text)} cases"
    if not (rows := _shown(_rows(results))):
        return said + "."
    shares = ", ".join(f"{_label(row)} {_percent(row['image_dsr'])}" for row in rows)
    return f"{said}; shown as pictures (split {rows[0]['split']}), by {shares}."


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the first split, asked as in training and without retrieved text."""
    plain = [row for row in rows if not row["retrieved_text"] and not row["new_questions"]]
    return [row for row in plain if row["split"] == plain[0]["split"]]


def _cards(rows: Sequence[Mapping[str, Any]]) -> str:
    """A card a row: pictures refused, and what that comes with."""
    shown = _shown(rows)
    base = next((row["image_dsr"] for row in shown if row["name"] == "base" and _known(row["image_dsr"])), None)
    cards = []
    for row in shown:
        said = (
            f"of harmful pictures refused. It names {_percent(row['benign_naming'])} of the benign ones and refuses "
            f"{_percent(row['over_refusal'])} of them."
        )
        if base is not None and row["name"] != "base" and _known(row["image_dsr"]):
            said += f" Refused: {_against(row['image_dsr'], base)}."
        cards.append(
            f'<div class="card"><h2>{esc(_label(row))}</h2><strong>{_percent(row["image_dsr"])}</strong>'
            f"<p>{esc(said)}</p></div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


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
        f'<p class="lead">{esc(headline(results))}</p>',
        _cards(rows),
        *([f'<p class="note">{esc(note)}</p>'] if (note := _get(results, "config").get("note")) else []),
        "<p>One seed, one training run for each row. DSR (defence success rate) is the share of harmful inputs that "
        "are refused. An empty answer is counted as “no answer”, never as a refusal.</p>",
        *(figure(caption, file) for caption, file in figures.items()),
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
        "<h2>At which layers the lens reads refusal</h2>",
        _analysis_table(results),
        "<h2>The run</h2>",
        _run(results),
        f"<footer><p>{esc(LICENSES)}</p></footer>",
    ]
    return document("Text-Guided Alignment: report", body)


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["row", "retrieved text", "split", *RATE_FIELDS.values()]
    body = [
        [
            esc(_label(row)),
            "yes" if row["retrieved_text"] else "no",
            esc(row["split"]),
            *(_cell(row[key]) for key in RATE_FIELDS),
        ]
        for row in rows
    ]
    return table(head, body)


def _scene_table(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    text = _rates(results, "text_dsr_by_scene")
    scenes = list(dict.fromkeys([*text, *(scene for row in rows for scene in row["image_dsr_by_scene"])]))
    body = [["caption as text", "", "", *(_cell(text.get(scene)) for scene in scenes)]]
    for row in rows:
        cells = (_cell(row["image_dsr_by_scene"].get(scene)) for scene in scenes)
        body.append([esc(_label(row)), "yes" if row["retrieved_text"] else "no", esc(row["split"]), *cells])
    return table(["DSR", "retrieved text", "split", *scenes], body)


def _analysis_table(results: Mapping[str, Any]) -> str:
    analysis = _get(results, "analysis")
    starts, ends, silent, curves = (
        _get(analysis, key, "analysis.")
        for key in ("refusal_start_layer", "refusal_end_layer", "no_activation", "refusal_probability")
    )

    def probability(label: str, layer: int | None) -> str:
        return "n/a" if layer is None or label not in curves else f"{curves[label][layer]:.2f}"

    body = [
        [
            esc(label),
            *("none" if part.get(label) is None else esc(part[label]) for part in (starts, ends)),
            probability(label, starts.get(label)),
            probability(label, -1),
            esc(silent.get(label, "none")),
        ]
        for label in dict.fromkeys([*starts, *ends, *silent])
    ]
    head = ["input", "start layer", "end layer", "refusal's probability at the start", "at the last layer"]
    return (
        table([*head, "samples without a start"], body)
        + '<p class="note">Start and end are the paper\'s: by rank among the tokens that gain most from layer to '
        "layer. They are medians over the samples that have a start, and say little where the probability is low.</p>"
    )


def _run(results: Mapping[str, Any]) -> str:
    seconds, peak = _get(results, "seconds"), _get(results, "peak_memory_bytes")
    facts = {
        "seed": _get(results, "seed"),
        "commit": _get(results, "commit"),
        "time": "not measured" if seconds is None else f"{seconds:,.0f} s",
        "peak memory": "not measured" if peak is None else f"{peak / 2**30:.2f} GiB",
    }
    items = "".join(f"<dt>{esc(key)}</dt><dd>{esc(value)}</dd>" for key, value in facts.items())
    config = json.dumps(_get(results, "config"), indent=2, ensure_ascii=False, default=str)
    return f"<dl>{items}</dl><details><summary>What was trained: the config</summary><pre>{esc(config)}</pre></details>"


def _row_note(results: Mapping[str, Any], name: str) -> str:
    note = _get(results, "config").get("rows", {}).get(name, {}).get("note", "see the config")
    return f"<li><em>{esc(ROW_LABELS.get(name, name))}</em>: {esc(note)}</li>"


def _example(example: Example) -> str:
    buffer = io.BytesIO()
    Image.fromarray(example.image).save(buffer, format="png")
    answers = "".join(
        f'<dt>{esc(label)}</dt><dd class="{esc(example.verdicts[label])}">{esc(answer.strip() or "(empty)")}</dd>'
        for label, answer in example.answers.items()
    )
    return (
        f'<figure class="example"><img class="pixels" src="{data_url(buffer.getvalue())}" alt="">'
        f"<figcaption>{esc(example.caption)}</figcaption><dl>{answers}</dl></figure>"
    )


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
                **{key: _get(row, key, where) for key in ("name", "retrieved_text", "split", "new_questions")},
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
