"""What the page shows of one checkpoint: its answers and its safety lens, as HTML. All text is escaped here."""

import itertools
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tga_jax.report import figures
from tga_jax.report.html import data_url, esc
from tga_jax.serve.lens import Lens

PICTURE, TEXT = "the picture", figures.TEXT_LABEL
_VERDICTS = {"refusal": "refused", "partial": "refused in part", "answer": "answered", "unknown": "no words"}


def answers(name: str, said: dict[str, tuple[str, str]], unknown: Sequence[str] = ()) -> str:
    """name: of the checkpoint; said: what was asked about (`PICTURE`, `TEXT`) -> (the answer so far, its verdict, ""
    while it is written); unknown: words that are not in its vocabulary."""
    rows = []
    if unknown:
        rows.append(f"<dd><em>Not in its vocabulary: {esc(', '.join(unknown))}</em></dd>")
    for asked, (answer, verdict) in said.items():
        badge = f'<span class="badge {verdict}">{_VERDICTS[verdict]}</span>' if verdict else ""
        rows.append(f"<dt>{esc(asked)} {badge}</dt><dd>{esc(answer) or '&nbsp;'}</dd>")
    return f'<section class="tga"><h3>{esc(name)}</h3><dl>{"".join(rows)}</dl></section>'


def lens(found: Lens) -> str:
    parts = [_words(found.words)]
    curves = {PICTURE: found.picture, **({TEXT: found.text} if found.text else {})}
    parts.append(_figure("Probability of a refusal, by layer", curves, "layer"))
    if found.cosine is None or found.causes is None:
        parts.append("<p>Say what the picture shows, to compare it with its caption as text.</p>")
    else:
        parts.append(
            _figure("Cosine of the picture's and the caption's states", {PICTURE: found.cosine}, "layer", -0.3)
        )
        some = "one block reads" if found.window == 1 else f"{found.window} blocks read"
        title = f"Probability of a refusal if {some} the caption instead"
        parts.append(_figure(title, {PICTURE: found.causes}, "first of the blocks"))
    return f'<section class="tga">{"".join(parts)}</section>'


def retrieved(texts: Sequence[tuple[float, str]]) -> str:
    """Nearest first, with their cosines."""
    rows = "".join(f"<li>{esc(text)} <small>{score:.2f}</small></li>" for score, text in texts)
    return f'<section class="tga"><h4>Nearest texts, by CLIP</h4><ol>{rows}</ol></section>'


def picture(png: bytes, caption: str) -> str:
    return f'<section class="tga"><img class="shown" src="{data_url(png)}" alt="{esc(caption)}"></section>'


def _words(words: Sequence[tuple[str, float]]) -> str:
    """The strip; neighbours of the same word are one, with their number and their mean cosine."""
    spans = []
    for word, group in itertools.groupby(words, key=lambda pair: pair[0]):
        cosines = [cosine for _, cosine in group]
        mean, times = sum(cosines) / len(cosines), f" ×{len(cosines)}" if len(cosines) > 1 else ""
        strength = round(100 * min(1.0, max(0.0, mean)))
        spans.append(f'<span style="--s:{strength}%" title="cosine {mean:.2f}">{esc(word)}{times}</span>')
    return (
        "<h4>The word nearest to each image token</h4>"
        f'<p class="strip">{" ".join(spans)}</p><small>Darker: nearer, by the cosine of the embeddings.</small>'
    )


def _figure(title: str, curves: dict[str, list[float]], xlabel: str, lowest: float = -0.03) -> str:
    """lowest: where the axis begins, the same for all checkpoints, so that plots beside each other can be compared."""
    figure = Figure(figsize=(4.6, 2.7), layout="constrained")
    axes = figure.add_subplot()
    for (label, curve), color in zip(curves.items(), figures.colors(curves), strict=True):
        style = "--" if label == TEXT else "-"  # the other one may lie below it
        axes.plot(range(len(curve)), curve, style, color=color, linewidth=2, marker=".", label=label)
    figures.apply(axes, "", "")
    axes.set_xlabel(xlabel, color=figures.INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(min(lowest, *(1.05 * min(curve) for curve in curves.values())), 1.05)
    if len(curves) > 1:
        figures.legend(figure, axes)
    ends = "; ".join(f"{label}: {curve[-1]:.2f} at the last" for label, curve in curves.items())
    return (
        f'<figure><figcaption>{esc(title)}</figcaption><img src="{data_url(figures.png(figure))}" '
        f'alt="{esc(title)}. {esc(ends)}"></figure>'
    )


# Of the page, beside Gradio's own; its variables follow the browser's light or dark scheme.
CSS = """
:root { --tga-muted: #5a5a5a; }
.dark { --tga-muted: #b4b4b4; }
.dark #message *, .dark #upload-message * { color: #ff8a8a; }
.tga { overflow-wrap: anywhere; }
.tga h3 { margin: 0 0 .4rem; font-size: 1.1rem; }
.tga h4, .tga figcaption { margin: 1rem 0 .3rem; font-size: .9rem; font-weight: 600; color: var(--body-text-color); }
.tga dt { color: var(--tga-muted); font-size: .85rem; }
.tga dd { margin: 0 0 .6rem; }
.tga small { color: var(--tga-muted); }
.tga img { display: block; width: 100%; max-width: 560px; height: auto; background: #fff; border-radius: 6px; }
.tga img.shown { width: 224px; image-rendering: auto; }
.tga .badge { border-radius: 1em; padding: .05rem .55rem; color: #fff; background: #5a5a5a; font-weight: 600; }
.tga .badge.refusal { background: #005a9c; }
.tga .badge.answer { background: #a34700; }
.tga .strip { margin: 0; line-height: 2; }
.tga .strip span { display: inline-block; line-height: 1.5; padding: 0 .4rem; margin: 0 .1rem; border-radius: 4px;
  color: var(--body-text-color); background: color-mix(in srgb, #56b4e9 var(--s), transparent); }
#message *, #upload-message * { color: #c02626; font-weight: 600; }
footer { display: none !important; }
"""
