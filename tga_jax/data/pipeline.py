"""Records to batches: shuffled, tokenised, put together by length, shared between hosts.

Every batch is a function of its number, so a training resumes where it stopped, on however many hosts.
"""

import dataclasses
import itertools
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags

from tga_jax.data.arrange import arranged
from tga_jax.data.batch import Batch
from tga_jax.data.llava_json import SampleError
from tga_jax.data.templates import Record
from tga_jax.data.tiles import Grids, Size, placed
from tga_jax.data.tokens import ImageTokens, Shared, Tokens, Vocabulary, collate, tokenize
from tga_jax.errors import UserError

WINDOW = 16  # batches that are sorted by length together


@runtime_checkable
class Sized(Protocol):
    """A record's picture that tells its size, as `sources.PictureFile` does."""

    def __call__(self) -> np.ndarray: ...

    def size(self) -> Size: ...


@dataclasses.dataclass(frozen=True)
class Shape:
    """Static lengths. lengths: of rows, ascending; a batch takes the least that holds its rows."""

    lengths: tuple[int, ...]
    image_tokens: int  # P: tokens an image takes, unless `grids` says how many
    caption_length: int  # C, with its begin token
    labels: tuple[int, ...] = ()  # K for each length: most targets of a row there; (): T, and no `label_positions`
    pack: int = 1  # samples that share a row
    grids: Grids | None = None  # of a model that cuts pictures into tiles

    def __post_init__(self):
        if self.labels and (len(self.labels) != len(self.lengths) or min(self.labels) < 1):
            raise UserError(f"data.labels: {self.labels}, expected a positive number for each of {self.lengths}")
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise UserError(f"data.lengths: {self.lengths}, expected ascending lengths")

    @property
    def longest(self) -> int:
        """T of a sample: such that the last length holds any row."""
        return self.lengths[-1] // self.pack

    @property
    def most_labels(self) -> int:
        """K of a sample, likewise."""
        return self.labels[-1] // self.pack if self.labels else self.longest


@dataclasses.dataclass(frozen=True)
class Policy:
    """What becomes of samples that do not fit. Raises ValueError for an unknown one.

    too_long: "fail" or "cut", as LLaVA does, at `Shape.longest` (`Shape.labels` then count what is left); missing: of
    an image that cannot be read, "fail" or "skip", which leaves the sample empty, without anything to learn.
    """

    too_long: str = "fail"
    missing: str = "fail"

    def __post_init__(self):
        for name, known in (("too_long", ("fail", "cut")), ("missing", ("fail", "skip"))):
            if getattr(self, name) not in known:
                raise ValueError(f"data.policy.{name}: {getattr(self, name)!r}, expected {' or '.join(known)}")


def endless(source, seed: int) -> grain.MapDataset:
    """Every element of a random-access source once per epoch, in an order of the seed's, for ever."""
    return grain.MapDataset.source(source).seed(seed).shuffle().repeat()


def _start(row: Tokens, length: int) -> Tokens:
    """The first `length` tokens; the caption stays."""
    tokens, targets, image_mask, retrieved_mask, caption = row
    return Tokens(tokens[:length], targets[:length], image_mask[:length], retrieved_mask[:length], caption)


def _fit(record: Record, row: Tokens, shape: Shape, policy: Policy) -> Tokens:
    """The row, cut if it may be. Raises SampleError naming the sample."""

    def fail(problem: str, what: str) -> SampleError:
        return SampleError(problem, f"sample {record.id!r}: {what}")

    longest, whole = shape.longest, row
    if len(row.caption) > shape.caption_length:
        raise fail("long_captions", f"caption of {len(row.caption) - 1} tokens, expected under {shape.caption_length}")
    if len(row.tokens) > longest:
        if policy.too_long == "fail":
            raise fail("too_long", f"{len(row.tokens)} tokens, expected at most {longest}")
        row = _start(row, longest)
        if row.image_mask.sum() != whole.image_mask.sum():
            raise fail("too_long", f"cut to {longest} tokens it loses a part of an image")
        if whole.targets.any() and not row.targets.any():
            raise fail("too_long", f"cut to {longest} tokens it has no target left")
    if row.targets.sum() > shape.most_labels:
        raise fail("labels", f"{row.targets.sum()} targets, expected at most {shape.most_labels} (data.labels)")
    return row


def _bucket(rows: Sequence[Tokens], shape: Shape) -> int:
    """The first length that holds the rows of these samples and their labels."""
    sizes = np.array([(len(row.tokens), row.targets.sum()) for row in rows])
    length, labels = sizes.reshape(-1, shape.pack, 2).sum(1).max(0)
    places = zip(shape.lengths, shape.labels or shape.lengths, strict=True)
    return next(i for i, (t, k) in enumerate(places) if length <= t and labels <= k)


class _Row(NamedTuple):
    record: Record
    samples: tuple[Tokens, ...]  # what a batch has of it
    # Of the record's pictures, where they matter (`Shape.grids`); None: one cannot be read, and the samples are empty.
    sizes: tuple[Size, ...] | None


def _emptied(sample: Tokens) -> Tokens:
    """Nothing to read and nothing to learn."""
    return _start(sample, 0)._replace(caption=sample.caption[:1])


class Batches:
    """Random access to the batches of a training, of this host's share of each.

    The samples of WINDOW batches are arranged so that rows of one batch are about as long; every host makes the same
    plan from the tokens and reads the images of its own samples only: of H hosts, host h has the h-th part of each
    batch, so that together they have what one host would, in its order. With a single length, and a row for each
    sample, nothing is arranged.
    """

    def __init__(
        self,
        records: grain.MapDataset,
        vocabulary: Vocabulary,
        shape: Shape,
        batch_size: int,
        seed: int,
        policy: Policy = Policy(),
        host: int = 0,
        hosts: int = 1,
        pairs: bool = False,
    ):
        """pairs: every record becomes two samples, one behind the other, with its last answer and with the rejected
        one; `batch_size` counts pairs."""
        if batch_size % (hosts * shape.pack):
            packed = f" times data.pack={shape.pack}" if shape.pack > 1 else ""
            raise UserError(f"batch_size: {batch_size}, expected a multiple of the {hosts} hosts{packed}")
        self._records, self._vocabulary, self._shape, self._policy = records, vocabulary, shape, policy
        self._batch_size, self._seed, self._host, self._hosts = batch_size, seed, host, hosts
        self._pairs = pairs
        self._window = 1 if len(shape.lengths) == shape.pack == 1 else WINDOW
        self._plans: dict[int, list[list[_Row]]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, which have plans and a lock of their own."""
        return {name: value for name, value in vars(self).items() if name != "_lock"} | {"_plans": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def __len__(self) -> int:
        return sys.maxsize // (self._batch_size * self._window)

    def _row(self, number: int) -> _Row:
        record: Record = self._records[number]  # pyrefly: ignore
        try:
            sizes = self.sizes(record)
        except SampleError:
            if self._policy.missing != "skip":
                raise
            empty = self._samples(record, (0,) * len(record.images))
            return _Row(record, tuple(map(_emptied, empty)), None)
        return _Row(record, self._samples(record, self._counts(sizes)), sizes)

    @property
    def needs_sizes(self) -> bool:
        """Whether pictures' files are looked into before their pixels are needed."""
        return self._shape.grids is not None

    def sizes(self, record: Record) -> tuple[Size, ...]:
        """(height, width) of the record's pictures, where tokens depend on it. Raises SampleError naming it."""
        grids = self._shape.grids
        if grids is None:
            return ()
        if grids.most is not None and len(record.images) > 1:
            said = f"{len(record.images)} pictures, expected one for this model, which cuts it into tiles"
            raise SampleError("several_images", f"sample {record.id!r}: {said}")
        sized = [image for image in record.images if isinstance(image, Sized)]
        if len(sized) < len(record.images):
            said = "a picture without `size`, expected a data.sources.PictureFile for a model that cuts it into tiles"
            raise UserError(f"sample {record.id!r}: {said}")
        try:
            return tuple(image.size() for image in sized)
        except UserError as error:
            raise SampleError("corrupt_images", f"sample {record.id!r}: {error}") from error

    def _counts(self, sizes: tuple[Size, ...]) -> ImageTokens:
        grids = self._shape.grids
        return self._shape.image_tokens if grids is None else tuple(map(grids.tokens, sizes))

    def samples(self, record: Record) -> tuple[Tokens, ...]:
        """What a batch has of a record. Raises SampleError naming it."""
        return self._samples(record, self._counts(self.sizes(record)))

    def _samples(self, record: Record, image_tokens: ImageTokens) -> tuple[Tokens, ...]:
        versions = [record]
        if self._pairs:
            if record.rejected is None:
                said = "no `rejected` answer, expected one beside the chosen one for loss.dpo to compare"
                raise SampleError("rejected", f"sample {record.id!r}: {said}")
            turns = (*record.turns[:-1], (record.turns[-1][0], record.rejected))
            versions.append(dataclasses.replace(record, turns=turns))
        return tuple(self.fit(one, self._tokens(one, image_tokens)) for one in versions)

    def tokens(self, record: Record) -> Tokens:
        """A record's tokens, of any number. Raises UserError naming the sample."""
        return self._tokens(record, self._counts(self.sizes(record)))

    def _tokens(self, record: Record, image_tokens: ImageTokens) -> Tokens:
        row = tokenize(record, self._vocabulary, image_tokens)
        learnt = row.tokens[row.targets]
        if record.template == "chat" and len(learnt) and not np.isin(learnt, self._vocabulary.control_ids).any():
            raise UserError(
                f"sample {record.id!r}: the tokenizer's chat template writes no end token behind an answer, so that a "
                "training would not teach to stop; expected another template, such as vicuna_v1"
            )
        return row

    def fit(self, record: Record, row: Tokens) -> Tokens:
        """The row, cut if it may be. Raises SampleError naming the sample if it does not fit."""
        return _fit(record, row, self._shape, self._policy)

    def without_images(self, number: int) -> Batch:
        """All samples of a batch, of every host, whose images are not read."""
        return self.collated([sample for row in self._plan(number) for sample in row.samples])

    def collated(self, rows: Sequence[Tokens]) -> Batch:
        """Samples of the longest length, each with a row of its own, without images."""
        shape = self._shape
        return collate(rows, [()] * len(rows), self._vocabulary, shape.longest, shape.caption_length)

    def _make_plan(self, window: int) -> list[list[_Row]]:
        size = self._batch_size
        rows = [self._row(i) for i in range(window * self._window * size, (window + 1) * self._window * size)]
        if self._window == 1:
            return [rows]
        lengths = np.array([max(len(sample.tokens) for sample in row.samples) for row in rows])
        pictured = np.array([bool(row.record.images) for row in rows])
        rng = np.random.default_rng((self._seed, window))
        order = arranged(lengths, pictured, self._window, self._shape.pack, rng)
        return [[rows[i] for i in batch] for batch in order]

    def _plan(self, number: int) -> list[_Row]:
        window, at = divmod(number, self._window)
        with self._lock:  # of several reading threads one makes the plan
            if window not in self._plans:
                self._plans = {w: plan for w, plan in self._plans.items() if w >= window - 1}
                self._plans[window] = self._make_plan(window)
            return self._plans[window][at]

    def _read(self, row: _Row) -> list[np.ndarray] | None:
        """The record's images, or its pictures' tiles; None if one cannot be read and may be skipped."""
        if row.sizes is None:
            return None
        try:
            found = [image() for image in row.record.images]
        except UserError as error:
            if self._policy.missing == "skip":
                return None
            raise UserError(f"sample {row.record.id!r}: {error}") from error
        return found if self._shape.grids is None else [tile for tiles in found for tile in tiles]

    def _images(self, row: _Row) -> int:
        """How many `_read` gives."""
        grids = self._shape.grids
        return len(row.record.images) if grids is None else sum(map(grids.tiles, row.sizes or ()))

    def _of_one_shape(self, rows: list[_Row], media: list[list[np.ndarray] | None]) -> list[list[np.ndarray]]:
        """`media`, the first row's filled up to the most images of any of the batch's rows, or to a few more tiles: all
        hosts must have arrays of the same shape, also one whose own rows have fewer images, or none."""
        read, grids = [images or [] for images in media], self._shape.grids
        most = max(map(self._images, rows))
        most = most if grids is None else grids.slots(most)
        if most > len(read[0]):
            others = (self._read(row) or [] for row in rows)  # of other hosts, only if this has none
            example = next((image for images in itertools.chain(read, others) for image in images), None)
            if example is not None:
                read[0] = read[0] + [np.zeros_like(example)] * (most - len(read[0]))
        return read

    def __getitem__(self, number: int) -> Batch:
        rows = self._plan(number)
        bucket = _bucket([sample for row in rows for sample in row.samples], self._shape)
        share = len(rows) // self._hosts
        own = rows[self._host * share : (self._host + 1) * share]
        media = [self._read(row) for row in own]
        pictures = [
            images for row, images in zip(own, self._of_one_shape(rows, media), strict=True) for _ in row.samples
        ]
        tokens = [
            _emptied(sample) if images is None else sample
            for row, images in zip(own, media, strict=True)
            for sample in row.samples
        ]
        shape, length = self._shape, self._shape.lengths[bucket]
        labels = shape.labels[bucket] if shape.labels else None
        own_length, shared = (length, None) if shape.pack == 1 else (shape.longest, Shared(shape.pack, length))
        batch = collate(tokens, pictures, self._vocabulary, own_length, shape.caption_length, labels, shared)
        if shape.grids is None or batch.images is None:
            return batch
        grids = shape.grids
        cut = [
            [(grids.places(size), grids.tiles(size)) for size in row.sizes or () if images is not None]
            for row, images in zip(own, media, strict=True)
            for _ in row.samples
        ]
        return batch._replace(image_places=tuple(placed(batch.image_mask, cut, grids)))


def iterate(
    batches: Sequence[Batch] | Batches, threads: int = 1, processes: int = 0, start: int = 0
) -> grain.IterDataset[Batch]:
    """The batches from number `start` on, in their order, read ahead by `threads` of this process, or, unless
    `processes` is 0, by so many other processes with `threads` each: for records whose making keeps Python busy."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(4, threads))
    numbered = grain.MapDataset.source(batches)[start:]  # pyrefly: ignore
    ahead = numbered.to_iter_dataset(options)
    if not processes:
        return ahead
    if not flags.FLAGS.is_parsed():  # from outside `tga`; grain reads some of its own
        flags.FLAGS(sys.argv[:1])
    return ahead.mp_prefetch(grain.MultiprocessingOptions(processes, per_worker_buffer_size=2), _begin)


def _begin(number: int, count: int) -> None:
    """Of a process that reads: Ctrl-C is for the one that trains to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
