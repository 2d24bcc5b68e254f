"""`tga validate-data`: what is in a file of samples, and all in it that a training would stop at."""

import collections
import dataclasses
import hashlib
import itertools
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rich.console
import rich.table

from tga_jax import workdir
from tga_jax.data import images, llava_json
from tga_jax.data.batch import Batch
from tga_jax.data.llava_json import Sample
from tga_jax.data.media import Store
from tga_jax.data.open_samples import open_pictures, open_samples
from tga_jax.data.prompt import IMAGE
from tga_jax.data.tokens import Tokens, Vocabulary
from tga_jax.errors import UserError
from tga_jax.report.progress import Progress

if TYPE_CHECKING:  # they import Grain and transformers, which a look at a file does not need
    from tga_jax.data.llava_source import LlavaRecords
    from tga_jax.data.pipeline import Batches

PLACES = 20  # of every problem that a report names
_ROWS = 256  # looked at together

# Problem -> what it is, and whether a training stops at it. The first of a sample's own problems is reported.
PROBLEMS: dict[str, tuple[str, bool]] = {
    "json": ("line that is not JSON or not UTF-8", True),
    "fields": ("field that is missing or of a wrong type", True),
    "roles": ("speakers that do not take turns", True),
    "targets": ("no answer to learn from", True),
    "placeholders": (f"{IMAGE} and images differ in number, or {IMAGE} outside a question", True),
    "image_names": ("image name that leads out of the store", True),
    "missing_images": ("image that is not there", True),
    "corrupt_images": ("image that cannot be read", True),
    "toxic_ids": ('id with "tox", and a picture: data.source.toxic has to say what it is', True),
    "template": ("text that the template or the tokenizer cannot take", True),
    "long_captions": ("`image_caption` longer than data.caption_length", True),
    "too_long": ("more tokens than the last of data.lengths", True),
    "rejected": ("no `rejected` answer for loss.dpo", True),
    "several_images": ("several pictures, for a model that cuts one into tiles", True),
    "labels": ("more tokens to learn than the last of data.labels", True),
    "cut": ("more tokens than the last of data.lengths, cut there (data.policy.too_long)", False),
    "guide": ("no sample at all on which loss.guide acts", True),
    "duplicate_ids": ("id of an earlier sample", False),
    "same_captions": ("caption equal to the retrieved caption", False),
    "special_tokens": (
        "special token or marker of a template in a text: plain text, unless the source says not",
        False,
    ),
}
_OF_A_TRAINING = ("template", "long_captions", "too_long", "rejected", "several_images", "labels", "cut", "guide")
# What templates write around turns, whether or not it is special to a tokenizer.
_MARKERS = ("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|im_start|>", "<|im_end|>")
_OF_PICTURES = ("image_names", "missing_images", "corrupt_images")


@dataclasses.dataclass(frozen=True)
class Training:
    """The training's own code, through which every sample goes.

    records: of the file; vocabulary: for its special tokens; batches: for its `tokens` and `fit`; skips_images: whether
    a row whose image cannot be read is left empty (data.policy.missing); counts: of a Batch, on how many rows the guide
    acts, None without one.
    """

    records: "LlavaRecords"
    vocabulary: Vocabulary
    batches: "Batches"
    skips_images: bool
    counts: Callable[[Batch], dict[str, Any]] | None = None


@dataclasses.dataclass(frozen=True)
class Checks:
    """What is looked at beside the samples themselves.

    images: the folder or archive of the pictures; decode: read every one of them, not only look whether it is there.
    tokenizer: a folder; lengths are then its tokens, without a template's, and words otherwise; its special tokens are
    looked for, and otherwise the markers of the templates here alone. training: what the samples are for; lengths are
    then those of its rows.
    """

    images: workdir.AnyPath | None = None
    decode: bool = False
    tokenizer: Path | None = None
    training: Training | None = None

    def unasked(self, store: Store | None) -> set[str]:
        """The problems that are not looked for."""
        looks = self.decode or (self.training is not None and self.training.batches.needs_sizes)
        unasked = set() if looks else {"corrupt_images"}
        unasked |= set() if store else {"image_names"}
        unasked |= set() if store or self.training else {"missing_images"}
        if self.training is None:
            return unasked | set(_OF_A_TRAINING)
        return unasked | (set() if self.training.counts else {"guide"})


class _Report:
    """What was found, as it grows."""

    def __init__(self, unasked: set[str], forgiven: Sequence[str]):
        """forgiven: problems that the training goes on after."""
        names = ("samples", "with_image", "several_images", "text_only", "turns", "images")
        self.counts = dict.fromkeys((*names, "captions", "retrieved_texts", "guided"), 0)
        self.problems: dict[str, dict[str, Any]] = {
            name: {
                "what": what,
                "stops_training": stops and name not in forgiven,
                "count": None if name in unasked else 0,
                "places": [],
            }
            for name, (what, stops) in PROBLEMS.items()
        }
        self.lengths: collections.Counter[int] = collections.Counter()
        self.hashes, self.named = array("Q"), array("I")  # of the ids, and the rows that have them

    def problem(self, name: str, place: str) -> None:
        self.problems[name]["count"] += 1
        if len(self.problems[name]["places"]) < PLACES:
            self.problems[name]["places"].append(place)

    def sample(self, sample: Sample, row: int, place: str, length: int, special: re.Pattern[str]) -> None:
        counts = self.counts
        counts["with_image" if sample.images else "text_only"] += 1
        counts["several_images"] += len(sample.images) > 1
        counts["turns"] += len(sample.turns)
        counts["images"] += len(sample.images)
        counts["captions"] += bool(sample.caption)
        counts["retrieved_texts"] += bool(sample.retrieved)
        counts["guided"] += bool(sample.images and sample.caption)
        if length:
            self.lengths[length] += 1
        texts = (text.replace(IMAGE, "") for turn in sample.turns for text in turn)
        if found := {m[0] for text in (*texts, sample.caption, sample.retrieved) for m in special.finditer(text)}:
            self.problem("special_tokens", f"{place} has {', '.join(sorted(found))}")
        if sample.caption and sample.caption == sample.retrieved:
            self.problem("same_captions", f"{place} has its own caption as retrieved caption")
        if sample.id:
            self.hashes.append(int.from_bytes(hashlib.blake2b(sample.id.encode(), digest_size=8).digest()))
            self.named.append(row)


def validate(path: workdir.AnyPath, checks: Checks, console: rich.console.Console | None = None) -> dict[str, Any]:
    """The report on a file or a built folder, as JSON: its counts, the lengths, and of every problem the count (null if
    it was not looked for) and the first places. "guided" counts samples with a picture and a caption.

    With `checks.training`, "fit_for_training" says whether the training would go through every sample, as far as
    pictures are decoded. console: shows the progress. Memory is that of `SampleFile`, of the store's index, and 12
    bytes a row for ids. Raises UserError if the file as a whole, the store or the tokenizer cannot be read.
    """
    file = open_samples(path)
    store = open_pictures(checks.images, file)
    if checks.decode and not store:
        raise UserError("--decode: needs --images, the pictures to be read")
    training = checks.training
    vocabulary = training.vocabulary if training else _vocabulary(checks.tokenizer)
    measure, special = _measure(vocabulary), _special(vocabulary)
    forgiven = _OF_PICTURES if training and training.skips_images else ()
    report = _Report(checks.unasked(store), forgiven)
    report.counts["samples"] = len(file)
    acted = 0
    bar = Progress(console, transient=True)
    with ThreadPoolExecutor() as pool, bar:
        for start in bar.track(range(0, len(file), _ROWS), description="samples"):
            found: list[_Found] = []
            for i in range(start, min(start + _ROWS, len(file))):
                try:
                    sample = llava_json.parse(file[i], file.where(i))
                    found.append(_Found(i, f"{file.where(i)}: sample {sample.id!r}", sample, sample.images))
                except UserError as error:
                    report.problem(error.problem if isinstance(error, llava_json.SampleError) else "json", str(error))
            if training:
                rows = [_rehearse(report, training, one, file.where(one.row), store) for one in found]
                if training.counts and (whole := [row for row in rows if row is not None]):
                    acted += sum(int(n) for n in training.counts(training.batches.collated(whole)).values())
            else:
                for one, length in zip(found, measure([one.sample for one in found]), strict=True):
                    one.length = length
                    if one.sample.images and "tox" in one.sample.id:
                        report.problem("toxic_ids", f"{one.place} has a picture")
            for one in found:
                report.sample(one.sample, one.row, one.place, one.length, special)
            if store:
                asked = [(one.place, name, image) for one in found for name, image in one.pictures()]
                looked = pool.map(lambda a: _image_problem(store, a[1], a[2], checks.decode), asked)
                for (place, *_), seen in zip(asked, looked, strict=True):
                    if seen:
                        report.problem(seen[0], f"{place}: {seen[1]}")
    if training and training.counts and not acted:
        report.problem(
            "guide", f"{path}: no sample with what the guide compares, such as a picture and `image_caption`"
        )
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
        "lengths": _summary(report.lengths, "tokens" if checks.tokenizer or training else "words"),
        "problems": report.problems,
        "fit_for_training": not any(p["count"] and p["stops_training"] for p in report.problems.values()),
    }


@dataclasses.dataclass
class _Found:
    """A sample of the file. images: names of those that are read; loaders: the training's, as many; length: in words or
    tokens."""

    row: int
    place: str
    sample: Sample
    images: tuple[str, ...]
    loaders: tuple[Callable[[], Any], ...] = ()
    length: int = 0

    def pictures(self) -> Iterator[tuple[str, Callable[[], Any] | None]]:
        yield from zip(self.images, self.loaders or itertools.repeat(None), strict=False)


def _rehearse(report: _Report, training: Training, one: _Found, where: str, store: Store | None) -> Tokens | None:
    """What the training makes of a sample; None, and reported, if it stops there."""
    try:
        record = training.records.record(one.sample, where)
        one.images, one.loaders = one.images[: len(record.images)], record.images
        whole = training.batches.tokens(record)
        one.length = len(whole.tokens)
        row = training.batches.samples(record)[0]
    except UserError as error:
        problem = error.problem if isinstance(error, llava_json.SampleError) else "template"
        if problem == "corrupt_images" and store:  # or not there
            looked = (_image_problem(store, name, None, False) for name in one.images)
            problem = next((seen[0] for seen in looked if seen), problem)
        report.problem(problem, f"{one.place}: {error}".replace(f": {where}: sample {one.sample.id!r}", ""))
        one.images = one.loaders = ()
        return None
    if len(row.tokens) < one.length:
        report.problem("cut", f"{one.place} has {one.length} tokens, of which {len(row.tokens)} stay")
    return row


def _vocabulary(tokenizer: Path | None) -> Vocabulary | None:
    if tokenizer is None:
        return None
    from tga_jax.data.processor import load_tokenizer  # imports transformers

    return Vocabulary(load_tokenizer(tokenizer))


def _special(vocabulary: Vocabulary | None) -> re.Pattern[str]:
    """What to look for in texts as special tokens."""
    markers = "|".join(map(re.escape, _MARKERS))
    return re.compile(f"{vocabulary.control.pattern}|{markers}" if vocabulary else markers)


def _measure(vocabulary: Vocabulary | None) -> Callable[[list[Sample]], list[int]]:
    """The lengths of samples."""

    def texts(sample: Sample) -> str:
        words = "\n".join(text for turn in sample.turns for text in turn).replace(IMAGE, "")
        return f"{sample.retrieved}\n{words}" if sample.retrieved else words

    if vocabulary is None:
        return lambda samples: [len(texts(s).split()) for s in samples]

    def tokens(samples: list[Sample]) -> list[int]:
        how = {"add_special_tokens": False, "split_special_tokens": True}
        ids = vocabulary.read([texts(s) for s in samples], **how)["input_ids"] if samples else []
        return [len(row) for row in ids]

    return tokens


def _image_problem(store: Store, name: str, load: Callable[[], Any] | None, decode: bool) -> tuple[str, str] | None:
    """load: the training's own way to read it, None without one."""
    try:
        present = name in store
    except UserError as error:
        return "image_names", str(error)
    if not present:
        return "missing_images", f"{store.path}: has no file {name!r}"
    try:
        if decode:
            load() if load else images.decode(store.read(name), f"{store.path}: {name}")
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


def run(
    path: workdir.AnyPath, checks: Checks, report: Path | None, histogram: Path | None, console: rich.console.Console
) -> int:
    """Prints the report and writes it where asked for; the exit status: 1 if a training would stop at something."""
    found = validate(path, checks, console)
    show(found, console)
    if report:
        workdir.write_json(report, found)
    if histogram:
        _draw(found["lengths"], histogram)
    return 0 if found["fit_for_training"] else 1


def show(found: dict[str, Any], console: rich.console.Console) -> None:
    """Prints a report of `validate`."""
    table = rich.table.Table(title=found["file"], title_justify="left")
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
    unchecked = any(entry["count"] is None and entry["stops_training"] for entry in found["problems"].values())
    fit = "nothing found that a training would stop at, of what was checked" if unchecked else "fit for training"
    stops = "a training would stop here: see the lines above"
    console.print(fit if found["fit_for_training"] else stops, style="bold")


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
