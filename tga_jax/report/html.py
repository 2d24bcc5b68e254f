"""Pages a person reads: one HTML file that needs no network, no script and no other file."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from tga_jax.errors import UserError


def document(title: str, body: Sequence[str]) -> str:
    """body: HTML, a part a line."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{esc(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def esc(value: object) -> str:
    return html.escape(str(value), quote=True)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Headings are escaped here, cells come escaped. The first cell of a line is its heading.

    On a narrow screen each line is a block, with every cell's heading beside it.
    """
    top = "".join(f'<th role="columnheader" scope="col">{esc(title)}</th>' for title in head)
    lines = "".join(
        f'<tr role="row"><th role="rowheader" scope="row">{first}</th>'
        + "".join(
            f'<td role="cell" data-head="{esc(title)}"><div>{cell}</div></td>'
            for title, cell in zip(head[1:], rest, strict=True)
        )
        + "</tr>"
        for first, *rest in body
    )
    # The roles are those that a block, as on a narrow screen, would lose. Focusable, so that a wide table can be
    # scrolled from the keyboard.
    return (
        '<div class="scroll" tabindex="0"><table role="table"><thead role="rowgroup">'
        f'<tr role="row">{top}</tr></thead><tbody role="rowgroup">{lines}</tbody></table></div>'
    )


def figure(caption: str, file: Path) -> str:
    """A PNG file, embedded. Raises UserError if it cannot be read."""
    try:
        png = file.read_bytes()
    except OSError as error:
        raise UserError(f"figure {caption!r}: cannot read {file}: {error.strerror}") from error
    return f'<figure><img src="{data_url(png)}" alt="{esc(caption)}"><figcaption>{esc(caption)}</figcaption></figure>'


def data_url(picture: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode("ascii")


MAX_KINDS = 24  # that a gallery can be filtered by

_CSS = """
:root { --ink: #222; --muted: #5a5a5a; --page: #fff; --panel: #f4f5f7; --line: #d5d8dd; --refusal: #005a9c;
  --unknown: #a34700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --muted: #a8a8a8; --page: #16181c; --panel: #22252b; --line: #3b3f47; --refusal: #7cc0ff;
    --unknown: #ffab66; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.lead { font-size: 1.1rem; }
p, figcaption, ul, .note { max-width: 80ch; }
figure { margin: 1.5rem 0; max-width: 1000px; }
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
tbody th { position: sticky; left: 0; background: var(--page); font-weight: 600; min-width: 6.5rem; }
a { color: var(--refusal); }
.interval { white-space: nowrap; }
.interval, .none, dt { color: var(--muted); }
.note { background: var(--panel); border-left: 4px solid var(--refusal); padding: .6rem .9rem; border-radius: 4px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--panel); padding: .75rem; border-radius: 6px;
  font-size: .8rem; }
summary { cursor: pointer; }
footer { margin-top: 2rem; border-top: 1px solid var(--line); color: var(--muted); font-size: .85rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); gap: 1rem; }
.card { background: var(--panel); border-radius: 6px; padding: .75rem 1rem; }
.card h2 { margin: 0; font-size: .95rem; font-weight: 600; }
.card strong { display: block; font-size: 1.9rem; line-height: 1.3; }
.card p { margin: 0; font-size: .9rem; }
.gallery { margin: .75rem 0; }
.gallery label { margin: 0 1rem .5rem .25rem; display: inline-block; }
.thumb { display: block; max-width: 100%; border-radius: 4px; }
@media (max-width: 640px) {
  table, tbody, tr, tbody th, td { display: block; }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  tbody th, td { position: static; border: 0; padding: .15rem 0; min-width: 0; overflow-wrap: anywhere; }
  td { display: grid; grid-template-columns: minmax(6rem, 38%) 1fr; gap: .75rem; }
  td::before { content: attr(data-head); color: var(--muted); }
  .interval { white-space: normal; }
}
""" + "".join(f".filter.k{i}:checked ~ .examples > :not(.k{i}) {{ display: none; }}\n" for i in range(MAX_KINDS))
