"""`tga validate-data`: what is in a file of samples, and all in it that a training would stop at."""

import collections
import dataclasses
import hashlib
import re
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.progress
import rich.table

from tga_jax import workdir
from tga_jax.data import images, llava_json
from tga_jax.data.llava_json import Sample
from tga_jax.data.media import Store
from tga_jax.data.open_samples import open_pictures, open_samples
from tga_jax.data.prompt import IMAGE
from tga_jax.data.tokens import Vocabulary
from tga_jax.errors import UserError

PLACES = 20  # of every problem that a report names
_ROWS = 256  # looked at together

# Problem -> what it is, and whether a training stops at it. The first of a sample's own problems is reported.
PROBLEMS: dict[str, tuple[str, bool]] = {
    "json": ("line that is not JSON or not UTF-8", True),
    "fields": ("field that is missing or of a wrong type", True),
    "roles": ("speakers that do not take turns", True),
    "targets": ("no answer to learn from", True),
    "placeholders": (f"{IMAGE} and images differ in number", True),
    "image_names": ("image name that leads out of the store", True),
    "missing_images": ("image that is not there", True),
    "corrupt_images": ("image that cannot be read", True),
    "too_long": ("more tokens than the limit", True),
    "duplicate_ids": ("id of an earlier sample", False),
    "toxic_ids": ('id with "tox", and a picture: data.source.toxic has to say what it is', True),
    "same_captions": ("caption equal to the retrieved caption", False),
    "special_tokens": ("special token or marker of a template in a text, which is read as plain text", False),
}
# What templates write around turns, whether or not it is special to a tokenizer.
_MARKERS = ("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|im_start|>", "<|im_end|>")


@dataclasses.dataclass
class Checks:
    """What is looked at beside the samples themselves.

    images: the folder or archive of the pictures; decode: read every one of them, not only look whether it is there.
    tokenizer: a folder; lengths are then its tokens, without a template's, and words otherwise; its special tokens are
    looked for, and otherwise the markers of the templates here alone.
    image_tokens: that a picture takes, added to the length; length: the limit, 0 for none. toxic: what the training's
    `data.source.toxic` says, "" for nothing.
    """

    images: Path | None = None
    decode: bool = False
    tokenizer: Path | None = None
    image_tokens: int = 0
    length: int = 0
    toxic: str = ""


class _Report:
    """What was found, as it grows."""

    def __init__(self, unasked: set[str]):
        names = ("samples", "with_image", "several_images", "text_only", "turns", "images")
        self.counts = dict.fromkeys((*names, "captions", "retrieved_texts", "guided"), 0)
        self.problems: dict[str, dict[str, Any]] = {
            name: {"what": what, "stops_training": stops, "count": None if name in unasked else 0, "places": []}
            for name, (what, stops) in PROBLEMS.items()
        }
        self.lengths: collections.Counter[int] = collections.Counter()
        self.hashes, self.named = array("Q"), array("I")  # of the ids, and the rows that have them

    def problem(self, name: str, place: str) -> None:
        self.problems[name]["count"] += 1
        if len(self.problems[name]["places"]) < PLACES:
            self.problems[name]["places"].append(place)

    def sample(self, sample: Sample, row: int, place: str, length: int, limit: int, special: re.Pattern[str]) -> None:
        counts = self.counts
        counts["with_image" if sample.images else "text_only"] += 1
        counts["several_images"] += len(sample.images) > 1
        counts["turns"] += len(sample.turns)
        counts["images"] += len(sample.images)
        counts["captions"] += bool(sample.caption)
        counts["retrieved_texts"] += bool(sample.retrieved)
        counts["guided"] += bool(sample.images and sample.caption)
        self.lengths[length] += 1
        if limit and length > limit:
            self.problem("too_long", f"{place} has {length} tokens, expected at most {limit}")
        if self.problems["toxic_ids"]["count"] is not None and sample.images and "tox" in sample.id:
            self.problem("toxic_ids", f"{place} has a picture")
        texts = (text.replace(IMAGE, "") for turn in sample.turns for text in turn)
        if found := {m[0] for text in (*texts, sample.caption, sample.retrieved) for m in special.finditer(text)}:
            self.problem("special_tokens", f"{place} has {', '.join(sorted(found))}")
        if sample.caption and sample.caption == sample.retrieved:
            self.problem("same_captions", f"{place} has its own caption as retrieved caption")
        if sample.id:
            self.hashes.append(int.from_bytes(hashlib.blake2b(sample.id.encode(), digest_size=8).digest()))
            self.named.append(row)


def validate(path: Path, checks: Checks, console: rich.console.Console | None = None) -> dict[str, Any]:
    """The report on a file or a built folder, as JSON: its counts, the lengths, and of every problem the count (null if
    it was not looked for) and the first places. "guided" counts samples with a picture and a caption.

    console: shows the progress. Memory is that of `SampleFile`, of the store's index, and 12 bytes a row for ids.
    Raises UserError if the file as a whole, the store or the tokenizer cannot be read.
    """
    if checks.length and not checks.tokenizer:
        raise UserError("--length: needs --tokenizer, whose tokens are counted")
    file = open_samples(path)
    store = open_pictures(checks.images, file)
    if checks.decode and not store:
        raise UserError("--decode: needs --images, the pictures to be read")
    vocabulary, special = None, "|".join(map(re.escape, _MARKERS))
    if checks.tokenizer:
        from tga_jax.data.processor import load_tokenizer  # imports transformers

        vocabulary = Vocabulary(load_tokenizer(checks.tokenizer))
        special = f"{vocabulary.control.pattern}|{special}"
    measure, special = _measure(checks, vocabulary), re.compile(special)
    unasked = set() if checks.length else {"too_long"}
    unasked |= set() if checks.decode else {"corrupt_images"}
    unasked |= set() if store else {"image_names", "missing_images"}
    unasked |= {"toxic_ids"} if checks.toxic else set()
    report = _Report(unasked)
    report.counts["samples"] = len(file)
    bar = rich.progress.Progress(console=console, transient=True, disable=console is None)
    with ThreadPoolExecutor() as pool, bar:
        for start in bar.track(range(0, len(file), _ROWS), description="samples"):
            found: list[tuple[int, str, Sample]] = []
            for i in range(start, min(start + _ROWS, len(file))):
                try:
                    sample = llava_json.parse(file[i], file.where(i))
                    found.append((i, f"{file.where(i)}: sample {sample.id!r}", sample))
                except UserError as error:
                    report.problem(error.problem if isinstance(error, llava_json.SampleError) else "json", str(error))
            lengths = measure([sample for _, _, sample in found])
            for (i, place, sample), length in zip(found, lengths, strict=True):
                report.sample(sample, i, place, length, checks.length, special)
            if store:
                asked = [(place, name) for _, place, sample in found for name in sample.images]
                looked = pool.map(lambda pair: _image_problem(store, pair[1], checks.decode), asked)
                for (place, _), seen in zip(asked, looked, strict=True):
                    if seen:
                        report.problem(seen[0], f"{place}: {seen[1]}")
    for i in _repeated(report.hashes, report.named):
        if len(report.problems["duplicate_ids"]["places"]) == PLACES:
            report.problems["duplicate_ids"]["count"] += 1
        else:
            report.problem(
                "duplicate_ids", f"{file.where(i)}: sample {str(file[i]['id'])!r} has the id of an earlier one"
            )
    return {
        "file": str(path),
        "images": str(checks.images) if checks.images else None,
        "counts": report.counts,
        "lengths": _summary(report.lengths, "tokens" if checks.tokenizer else "words"),
        "problems": report.problems,
        "fit_for_training": not any(p["count"] and p["stops_training"] for p in report.problems.values()),
    }


def _measure(checks: Checks, vocabulary: Vocabulary | None) -> Callable[[list[Sample]], list[int]]:
    """The lengths of samples."""

    def texts(sample: Sample) -> str:
        words = "\n".join(text for turn in sample.turns for text in turn).replace(IMAGE, "")
        return f"{sample.retrieved}\n{words}" if sample.retrieved else words

    if vocabulary is None:
        return lambda samples: [len(texts(s).split()) for s in samples]

    def tokens(samples: list[Sample]) -> list[int]:
        how = {"add_special_tokens": False, "split_special_tokens": True}
        ids = vocabulary.tokenizer([texts(s) for s in samples], **how)["input_ids"] if samples else []
        return [len(row) + checks.image_tokens * len(s.images) for row, s in zip(ids, samples, strict=True)]

    return tokens


def _image_problem(store: Store, name: str, decode: bool) -> tuple[str, str] | None:
    try:
        present = name in store
    except UserError as error:
        return "image_names", str(error)
    if not present:
        return "missing_images", f"{store.path}: has no file {name!r}"
    try:
        if decode:
            images.decode(store.read(name), f"{store.path}: {name}")
    except UserError as error:
        return "corrupt_images", str(error)
    return None


def _repeated(hashes: array, rows: array) -> Iterator[int]:
    """The rows, in their order, whose hash an earlier one has."""
    keys = np.frombuffer(hashes, np.uint64)
    order = np.argsort(keys, kind="stable")
    again = order[1:][keys[order[1:]] == keys[order[:-1]]]
    return (rows[i] for i in np.sort(again).tolist())


def _summary(lengths: collections.Counter[int], unit: str) -> dict[str, Any]:
    """The lengths' unit, range and mean, and how many lie in up to 50 intervals of whole numbers."""
    values = np.array(sorted(lengths), int)
    weights = np.array([lengths[v] for v in values.tolist()], int)
    if not len(values):
        return {"unit": unit, "edges": [], "counts": []}
    step = -(-(values[-1] + 1) // 50)
    edges = np.arange(0, values[-1] + step + 1, step)
    return {
        "unit": unit,
        "least": int(values[0]),
        "mean": float(np.average(values, weights=weights)),
        "greatest": int(values[-1]),
        "edges": edges.tolist(),
        "counts": np.histogram(values, edges, weights=weights)[0].astype(int).tolist(),
    }


def run(path: Path, checks: Checks, report: Path | None, histogram: Path | None, console: rich.console.Console) -> int:
    """Prints the report and writes it where asked for; the exit status: 1 if a training would stop at something."""
    found = validate(path, checks, console)
    table = rich.table.Table(title=str(path), title_justify="left")
    table.add_column("what")
    table.add_column("count", justify="right")
    for name, count in found["counts"].items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    lengths = found["lengths"]
    if lengths["counts"]:
        for name in ("least", "mean", "greatest"):
            table.add_row(f"{name} length in {lengths['unit']}", f"{lengths[name]:,.0f}")
    table.add_section()
    for entry in found["problems"].values():
        style = "red" if entry["count"] and entry["stops_training"] else None
        table.add_row(entry["what"], "not checked" if entry["count"] is None else f"{entry['count']:,}", style=style)
    console.print(table)
    for entry in found["problems"].values():
        for place in entry["places"][:3]:
            console.print(place, markup=False, highlight=False, soft_wrap=True)
    fit = found["fit_for_training"]
    console.print("fit for training" if fit else "a training would stop here: see the lines above", style="bold")
    if report:
        workdir.write_json(report, found)
    if histogram:
        _draw(lengths, histogram)
    return 0 if fit else 1


def _draw(lengths: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel=f"length in {lengths['unit']}", ylabel="samples")
    if lengths["counts"]:
        axes.stairs(lengths["counts"], lengths["edges"], fill=True)
    with workdir.replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=150)
