"""Answers beside their pictures, as a part of a page: some of each kind, and a filter by kind."""

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tga_jax.errors import UserError
from tga_jax.evals.asking import Question
from tga_jax.report.html import MAX_KINDS, data_url, esc
from tga_jax.workdir import replacing

PER_KIND = 12  # samples of a kind that are shown
_SIDE = 160  # pixels of a thumbnail's longer side
_TEXT = 600  # characters of an answer that are shown
_QUESTION = 300
_HARM = {True: "harmful", False: "harmless", None: ""}
_INPUTS = {"image": "picture", "text": "as text"}


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers of one evaluation to one benchmark.

    rows: of `answers/<name>.jsonl`; verdicts: what was found of each, such as "refusal" or "right", "" for nothing.
    """

    rows: Sequence[Mapping[str, Any]]
    verdicts: Sequence[str]

    def by_sample(self) -> dict[str, list[tuple[Mapping[str, Any], str]]]:
        """id -> [(row, verdict)]: of the picture first, then as text."""
        found: dict[str, list[tuple[Mapping[str, Any], str]]] = {}
        for row, verdict in sorted(zip(self.rows, self.verdicts, strict=True), key=lambda pair: pair[0]["n"]):
            found.setdefault(row["id"], []).append((row, verdict))
        return found


def kinds(sides: Mapping[str, Answers]) -> dict[str, list[str]]:
    """Kind -> ids of its samples. sides: label -> answers of one evaluation, or of two to the same questions.

    A sample's kind is whether it is harmful, and the verdict on what was answered to its picture, or to its text if it
    has none, such as "harmful: refusal" or "harmful: A answer, B refusal".
    """
    grouped = {label: answers.by_sample() for label, answers in sides.items()}
    found: dict[str, list[str]] = {}
    for id in next(iter(grouped.values())):
        (row, _), *_ = next(iter(grouped.values()))[id]
        said = ", ".join(f"{label} {own[id][0][1]}".strip() for label, own in grouped.items())
        found.setdefault(": ".join(filter(None, (_HARM[row["harmful"]], said))) or "all", []).append(id)
    # The harmful ones first, and what few do before what most do.
    return dict(sorted(found.items(), key=lambda pair: (pair[0].startswith("harmless"), len(pair[1]))))


def shown(by_kind: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Kind -> ids of at most `PER_KIND` of its samples, evenly spaced."""
    return {
        kind: [ids[len(ids) * i // count] for i in range(count)]
        for kind, ids in by_kind.items()
        for count in [min(len(ids), PER_KIND)]
    }


def keep_thumbnails(every: Iterable[Question], ids: Iterable[str], folder: Path) -> None:
    """Writes `<folder>/<n>.jpg`, n a question's number, for those of these samples that have pictures.

    A picture that can not be read now has no thumbnail; its answer is there all the same.
    """
    wanted = set(ids)
    for question in every:
        path = folder / f"{question.number}.jpg"
        if question.sample.id not in wanted or not question.images or path.exists():
            continue
        try:
            pictures = [load() for load in question.images]
        except UserError:
            continue
        with replacing(path) as aside:
            aside.write_bytes(_strip(pictures))


def _strip(pictures: Sequence[Image.Image]) -> bytes:
    """A JPEG with the pictures side by side."""
    small = [picture.convert("RGB") for picture in pictures]
    for picture in small:
        picture.thumbnail((_SIDE, _SIDE))
    strip = Image.new("RGB", (sum(p.width for p in small), max(p.height for p in small)), "white")
    left = 0
    for picture in small:
        strip.paste(picture, (left, 0))
        left += picture.width
    written = io.BytesIO()
    strip.save(written, "JPEG", quality=80)
    return written.getvalue()


def gallery(name: str, sides: Mapping[str, Answers], thumbnails: Path, number: int) -> list[str]:
    """HTML of a benchmark's answers. thumbnails: the folder that `keep_thumbnails` wrote; number: of the gallery on
    its page."""
    by_kind = kinds(sides)
    if len(by_kind) > MAX_KINDS:  # by free-form verdicts, of which no filter would help
        by_kind = {"all": [id for ids in by_kind.values() for id in ids]}
    some = shown(by_kind)
    grouped = {label: answers.by_sample() for label, answers in sides.items()}
    total, count = sum(map(len, by_kind.values())), sum(map(len, some.values()))
    body = [
        f"<details><summary>{esc(name)}: {count} of {total} samples, with their answers</summary>",
        f'<div class="gallery" role="group" aria-label="{esc(name)}">',
        _choice(number, "all", "every kind", checked=True),
        *(_choice(number, f"k{i}", f"{kind} ({len(ids)})") for i, (kind, ids) in enumerate(by_kind.items())),
        '<div class="examples">',
    ]
    for i, ids in enumerate(some.values()):
        body += [_sample({label: own[id] for label, own in grouped.items()}, thumbnails, f"k{i}") for id in ids]
    return [*body, "</div></div></details>"]


def _choice(number: int, kind: str, label: str, checked: bool = False) -> str:
    return (
        f'<input type="radio" class="filter {kind}" name="g{number}" id="g{number}-{kind}"{" checked" * checked}>'
        f'<label for="g{number}-{kind}">{esc(label)}</label>'
    )


def _sample(sides: Mapping[str, Sequence[tuple[Mapping[str, Any], str]]], thumbnails: Path, kind: str) -> str:
    (row, _), *_ = next(iter(sides.values()))
    path = thumbnails / f"{row['n']}.jpg"
    picture = ""
    if row["input"] == "image" and path.exists():
        picture = f'<img class="thumb" alt="" src="{data_url(path.read_bytes(), "jpeg")}">'
    said = [
        (f"{label} {_INPUTS[row['input']]}: {verdict or 'not judged'}".strip(), verdict, row["answer"])
        for label, answers in sides.items()
        for row, verdict in answers
    ]
    lines = [f'<dt>{esc(head)}</dt><dd class="{esc(verdict)}">{_cut(answer)}</dd>' for head, verdict, answer in said]
    if row["target"] is not None:
        lines.insert(0, f"<dt>expected</dt><dd>{esc(row['target'])}</dd>")
    question = esc(row["question"].replace("<image>", "").strip()[:_QUESTION])
    return (
        f'<div class="example {kind}">{picture}<p>{question}</p>'
        f"<dl><dt>sample</dt><dd>{esc(row['id'])}</dd>{''.join(lines)}</dl></div>"
    )


def _cut(answer: str) -> str:
    return esc(answer[:_TEXT]) + " …" * (len(answer) > _TEXT) if answer else "<em>empty</em>"
