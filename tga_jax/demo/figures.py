"""The demo's figures and report, from its results."""

from pathlib import Path
from typing import Any

import numpy as np

from tga_jax.analysis import plots as layer_plots
from tga_jax.demo import measure, plots
from tga_jax.demo.config import World
from tga_jax.demo.rates import Answer
from tga_jax.demo.report import ROW_LABELS, Example, write_report
from tga_jax.demo.world.concepts import SCENES
from tga_jax.report.figures import TEXT_LABEL


def draw(
    world: World,
    workdir: Path,
    results: dict[str, Any],
    measured: dict[str, measure.Measured],
    text: list[Answer],
    inside: dict[str, measure.Inside],
) -> None:
    """The figures and report.html."""
    main_rows: dict[str, Any] = {
        r["name"]: r
        for r in results["rows"]
        if r["split"] == "test" and not r["retrieved_text"] and not r["new_questions"]
    }
    # With many rows the figures show those that tell the story; the tables show all.
    if shown := [name for name in main_rows if name in ROW_LABELS]:
        main_rows = {name: main_rows[name] for name in shown}
    inside = {name: found for name, found in inside.items() if name in (TEXT_LABEL, *main_rows)}
    measured = {name: measured[name] for name in main_rows}
    labels = {name: ROW_LABELS.get(name, name) for name in main_rows}
    names = {TEXT_LABEL: TEXT_LABEL, **labels}
    by_scene = {TEXT_LABEL: results["text_dsr_by_scene"]}
    by_scene |= {labels[name]: row["image_dsr_by_scene"] for name, row in main_rows.items()}
    plots.plot_dsr_by_scene(by_scene, workdir / "dsr_by_scene.png")
    panels = {
        title: {labels[name]: found.cosine[kind] for name, found in inside.items() if found.cosine}
        for kind, title in (("raw", "as it is"), ("centred", "centred"))
    }
    guides = {
        labels[name]: row.guide.on(world.model().llm.num_layers).layers
        for name, row in world.config.rows.items()
        if name in labels and row.guide is not None and any(stage.guide for stage in row.stages.values())
    }
    layer_plots.plot_layer_cosine(panels, guides, workdir / "layer_cosine.png")
    layer_plots.plot_refusal_by_layer(
        {names[name]: found.refusal.probability for name, found in inside.items()},
        {names[name]: found.refusal.start for name, found in inside.items()},
        workdir / "refusal_by_layer.png",
    )
    wordlike = {labels[name]: found.wordlike for name, found in inside.items() if found.wordlike}
    layer_plots.plot_panels(
        {kind: {label: curves[kind] for label, curves in wordlike.items()} for kind in next(iter(wordlike.values()))},
        workdir / "wordlike.png",
        ratios=("norm, pictures over words",),
    )
    patched = {labels[name]: found.patching for name, found in inside.items() if found.patching}
    layer_plots.plot_panels(patched, workdir / "patching.png")
    examples = _examples(world, labels, measured, text)
    plots.plot_examples(
        np.stack([e.image for e in examples]),
        [e.caption for e in examples],
        {label: [e.answers[label] for e in examples] for label in examples[0].answers},
        {label: [e.verdicts[label] for e in examples] for label in examples[0].answers},
        workdir / "examples.png",
    )
    example = _typical(examples, {labels[name]: row["image_dsr"]["value"] for name, row in main_rows.items()})
    told = {label: (example.answers[label], example.verdicts[label]) for label in example.answers}
    plots.plot_overview(
        example.image,
        example.caption,
        told.pop(TEXT_LABEL),
        told,
        results["text_dsr"],
        {labels[name]: row["image_dsr"] for name, row in main_rows.items()},
        {labels[name]: row["benign_naming"] for name, row in main_rows.items()},
        workdir / "overview.png",
    )
    figures = {
        "The finding in one picture": "overview.png",
        "Refusals of harmful pictures by scene, beside the same captions as text": "dsr_by_scene.png",
        "Cosine of picture and caption states by layer (solid: matched, dashed: mismatched)": "layer_cosine.png",
        "Probability of a refusal token by layer (logit lens). Ring: where a refusal token is first among those that "
        "gain most, the paper's start of refusal, whatever the probability there": "refusal_by_layer.png",
        "How like words a picture's tokens are, by layer, beside the same prompts with the caption's words, repeated, "
        "in the picture's place": "wordlike.png",
        "Patching: share refused when states of the same prompt in words are taken over from layer j on. Residual, key "
        "and value: at the picture's own positions; instruction: at all positions after it": "patching.png",
    }
    write_report(results, {c: workdir / name for c, name in figures.items()}, workdir / "report.html", examples)


def _typical(examples: list[Example], dsr: dict[str, float]) -> Example:
    """The first example on which every row does what it does on most harmful pictures; the first of all if none is."""

    def is_typical(example: Example) -> bool:
        return all((example.verdicts[label] == "refusal") == (share >= 0.5) for label, share in dsr.items())

    harmful = [e for e in examples if e.verdicts[TEXT_LABEL] == "refusal"]
    return next(filter(is_typical, harmful), examples[0])


def _examples(
    world: World, labels: dict[str, str], measured: dict[str, measure.Measured], text: list[Answer]
) -> list[Example]:
    """The first held-out picture of each harmful scene, then benign ones, of those that were asked about, in the order
    of the split."""
    pictures = world.split("test")
    as_text = {a.id: a for a in text}
    caption_answer = {
        str(pictures.captions[i]): as_text[str(pictures.ids[i])]
        for i in range(len(pictures))
        if str(pictures.ids[i]) in as_text
    }
    said = {
        name: {a.id: a for a in found.answers["test"] if a.question == world.language.describe[0]}
        for name, found in measured.items()
    }
    asked = [
        i
        for i in range(len(pictures))
        if str(pictures.captions[i]) in caption_answer and all(str(pictures.ids[i]) in by_id for by_id in said.values())
    ]
    shown: list[int] = []
    for scene in dict.fromkeys(str(pictures.scenes[i]) for i in asked):
        rows = [i for i in asked if pictures.scenes[i] == scene]
        shown += rows[: 3 if scene == "" else 1]
    order = ["gun", "knife", *SCENES]
    shown.sort(key=lambda i: order.index(str(pictures.scenes[i])) if pictures.scenes[i] else len(order))
    examples = []
    for i in shown:
        of = {TEXT_LABEL: caption_answer[str(pictures.captions[i])]}
        of |= {labels[name]: answers[str(pictures.ids[i])] for name, answers in said.items()}
        answers, verdicts = ({k: getattr(a, field) for k, a in of.items()} for field in ("answer", "verdict"))
        examples.append(Example(pictures.images[i], str(pictures.captions[i]), answers, verdicts))
    return examples
