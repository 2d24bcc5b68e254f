"""`report.html`: an analysis as a page a person reads, and its figures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tga_jax.analysis import plots
from tga_jax.analysis.hidden_states import FLOOR
from tga_jax.report.html import document, esc, figure, table
from tga_jax.workdir import write_text

_CHANGES = {
    "log-ratio": "the logarithm of the ratio of their probabilities (the paper's change)",
    "difference": "the difference of their probabilities (the released code's change)",
}
_INPUTS = {"image": "a picture", "text": "text"}


def write(analysis: Mapping[str, Any], folder: Path) -> None:
    """Draws the figures into `plots/` and writes the page. analysis: what analysis.json holds."""
    figures = _figures(analysis, folder / "plots")
    write_text(folder / "report.html", _page(analysis, figures))


def _figures(analysis: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Caption -> PNG, of those that there is anything to draw for."""
    found, groups = {}, analysis["groups"]
    runs = {
        f"given as {label}": {name: group["runs"][kind] for name, group in groups.items() if kind in group["runs"]}
        for kind, label in _INPUTS.items()
    }
    runs = {title: by_group for title, by_group in runs.items() if by_group}
    path = folder / "refusal.png"
    plots.plot_curves(
        {title: {name: run["probability"]["mean"] for name, run in part.items()} for title, part in runs.items()},
        path, ylabel="probability of refusal tokens",
        marks={title: {name: run["start"]["median"] for name, run in part.items()} for title, part in runs.items()},
    )  # fmt: skip
    found[
        "How probable a refusal token is as the next token if the model stopped at that layer (logit lens), mean over "
        "the runs. Where harmful text rises and the same content as a picture does not, the picture's states do not "
        "reach what refuses."
    ] = path
    count = analysis["centred_over"]
    if pairs := {name: group["pairs"] for name, group in groups.items() if "pairs" in group}:
        path = folder / "cosine.png"
        panels = {title: {name: pair[title] for name, pair in pairs.items()} for title in ("raw", "centred")}
        plots.plot_layer_cosine(panels, {}, path)
        found[
            "How like a picture's mean state is its caption's. Raw cosines are high for any two texts, so read the gap "
            "between the own caption (solid) and another's (dashed): it is what pictures and captions share beyond "
            f"that. Centred: after each side's mean is taken off. Over the first {count} samples that have both."
        ] = path
    shown = {name: group["runs"]["image"] for name, group in groups.items() if "image" in group["runs"]}
    if shown:
        path = folder / "attention.png"
        curves = {name: run["attention"]["mean"] for name, run in shown.items()}
        plots.plot_curves(
            {"Attention on the picture, from the prompt's last position": curves}, path, first=1, xlabel="block",
            ylabel="share of attention",
        )  # fmt: skip
        found[
            "Which share of its attention the position that answers puts on the image tokens, mean over heads and "
            "runs. Where it is near 0, what the picture's states hold is not read there directly."
        ] = path
    if curves := {name: group["image_refusal"]["mean"] for name, group in groups.items() if "image_refusal" in group}:
        path = folder / "image_tokens.png"
        title = "Image tokens whose likeliest word is a refusal token"
        plots.plot_curves({title: curves}, path, ylabel="share of image tokens")
        found[
            "The share of image tokens that the logit lens reads as a refusal token. Above 0, refusal is already "
            "written into the picture's own positions, before the answer."
        ] = path
    if ablation := {name: group["ablation"]["refused"] for name, group in groups.items() if "ablation" in group}:
        path = folder / "ablation.png"
        window = analysis["settings"]["window"]
        curves = {name: parts["windows"]["mean"] for name, parts in ablation.items()}
        plots.plot_curves(
            {"Pictures that are refused if blocks read the caption instead": curves}, path, first=1,
            xlabel=f"first of {window} blocks that read the caption", ylabel="share refused",
            levels={
                f"read at {part}": {name: parts[key]["mean"] for name, parts in ablation.items()}
                for part, key in (("all blocks", "all"), ("none", "none"))
            },
        )  # fmt: skip
        found[
            f"Cause, not correlation: the share of pictures whose next token is a refusal token if {window} blocks, "
            "from the one given on, read the states of the caption's words, repeated to its length, in place of the "
            "picture's. Where it rises above “none”, those blocks turn what they read into refusal. Where even “all "
            "blocks” is low, the words themselves are not refused, and the figure says nothing."
        ] = path
    return found


def _page(analysis: Mapping[str, Any], figures: Mapping[str, Path]) -> str:
    groups, settings = analysis["groups"], analysis["settings"]
    samples = sum(group["samples"] for group in groups.values())
    without = sum(group["without_caption"] for group in groups.values())
    said = [f"{name}: {_shares(group)}" for name, group in groups.items()]
    least = FLOOR if settings["floor"] is None else settings["floor"]
    floor = f" among those of a probability of at least {least:g}" * (settings["change"] == "log-ratio")
    tokens = [
        [f"<code>{esc(t['token'])}</code>", str(t["id"]), esc(t["phrase"]), str(t["position"])]
        for t in analysis["refusal_tokens"]
    ]
    body = [
        "<h1>At which layers refusal lives</h1>",
        f'<p class="lead">{samples} samples. The next token is a refusal token for {esc("; ".join(said))}.</p>',
        f"<p>Checkpoint {esc(settings['checkpoint'])}, data {esc(settings['data'])}. Every sample with a picture and a "
        "caption is run twice: with the picture, and with the caption once as text in its place; a sample without a "
        f"picture is run as it is. Pictures without a caption, which enter no cosine and no patching: {without}.</p>",
        *(figure(caption, path) for caption, path in figures.items()),
        "<h2>Runs</h2>",
        _table(groups),
        "<p>Start: the first layer above 1 at which a refusal token is among the "
        f"{settings['top_k']} that gain most from the layer before, by {_CHANGES[settings['change']]}{floor}; end: the "
        "last layer from there on whose most probable token is one. Medians over the runs in which refusal starts; the "
        "others are counted as without activation. Cells of refused: share [95 % Wilson interval].</p>",
        "<h2>Refusal tokens</h2>",
        table(["token", "id", "of the phrase", "position"], tokens),
        '<p class="note">Of each phrase the first token that stands in none of a list of benign answers, so that “I” '
        "is none. A token at position 0 is what a refusing model says first. One further on is seen "
        "by the lens only as far as the model already has it in mind: if a model begins its refusals with “I”, read "
        "start and end layers, and take the share that refuse for a lower bound.</p>",
        f"<details><summary>Settings</summary><pre>{esc(json.dumps(settings, indent=2, ensure_ascii=False))}</pre>"
        "</details>",
    ]
    return document("At which layers refusal lives", body)


def _shares(group: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{100 * run['refused']['value']:.0f} % of {run['n']} given as {_INPUTS[kind]}"
        for kind, run in group["runs"].items()
    )


def _table(groups: Mapping[str, Any]) -> str:
    def layer(run: Mapping[str, Any], name: str) -> str:
        return "none" if run[name]["median"] is None else str(run[name]["median"])

    def refused(rate: Mapping[str, Any]) -> str:
        return f'{rate["value"]:.2f} <span class="interval">[{rate["low"]:.2f}, {rate["high"]:.2f}]</span>'

    return table(
        ["input", "runs", "refused", "start layer", "end layer", "without activation"],
        [
            [f"{esc(name)}, as {_INPUTS[kind]}", str(run["n"]), refused(run["refused"]), layer(run, "start"),
             layer(run, "end"), str(run["no_activation"])]
            for name, group in groups.items() for kind, run in group["runs"].items()
        ],
    )  # fmt: skip
