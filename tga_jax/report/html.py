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
    """Headings are escaped here, cells come escaped. The first cell of a line is its heading."""
    top = "".join(f'<th scope="col">{esc(title)}</th>' for title in head)
    lines = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in body
    )
    # Focusable, so that a wide table can be scrolled from the keyboard.
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def figure(caption: str, file: Path) -> str:
    """A PNG file, embedded. Raises UserError if it cannot be read."""
    try:
        png = file.read_bytes()
    except OSError as error:
        raise UserError(f"figure {caption!r}: cannot read {file}: {error.strerror}") from error
    return f'<figure><img src="{data_url(png)}" alt="{esc(caption)}"><figcaption>{esc(caption)}</figcaption></figure>'


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


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
tbody th { position: sticky; left: 0; background: var(--page); font-weight: 600; min-width: 6.5rem; }
a { color: var(--refusal); }
.interval { white-space: nowrap; }
.interval, .none, dt { color: var(--muted); }
.note { background: var(--panel); border-left: 4px solid var(--refusal); padding: .6rem .9rem; border-radius: 4px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--panel); padding: .75rem; border-radius: 6px; font-size: .8rem; }
summary { cursor: pointer; }
footer { margin-top: 2rem; border-top: 1px solid var(--line); color: var(--muted); font-size: .85rem; }
"""
