"""`tga bench train`: the time of a training's very step on this machine, with random weights and data."""

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import rich.console
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tga_jax.bench import against, figures, lengths, prepared
from tga_jax.checkpoints import hub
from tga_jax.data.batch import Batch
from tga_jax.data.tiles import placed
from tga_jax.data.tokens import Shared, Tokens, collate
from tga_jax.errors import UserError
from tga_jax.guides import Released
from tga_jax.models import sharding
from tga_jax.models.projectors import Mlp2xGelu
from tga_jax.train import chips, flops, setup
from tga_jax.train.config import TrainConfig
from tga_jax.workdir import write_json


@dataclasses.dataclass(frozen=True)
class TrainFigures:
    """seconds: of a step, with `median`, `p10` and `p90`. Rates and shares are of the median."""

    config: str
    mesh: dict[str, int]
    batch_size: int
    rows: int
    length: int
    attention: str
    attention_reason: str | None
    remat: str
    dtype: str
    seconds: dict[str, float]
    steps: list[float]
    samples_per_second: float
    tokens_per_second: float  # real ones
    padded_tokens_per_second: float
    model_tflop: float
    hardware_tflop: float
    tflop_per_second: float  # of the model's, all devices
    mfu: float | None  # of the data sheet's peak
    share_of_matmul: float  # of a matrix product's rate, timed here
    matmul_tflop_per_second: float  # one device
    trace_seconds: float
    lower_seconds: float
    compile_seconds: float
    peak_bytes: int | None  # of one device, while it ran
    memory_analysis: dict[str, int]
    loss: float


def matmul_rate(dtype: str) -> float:
    """FLOPs a second of one device in a large matrix product, the best of ten."""
    n = 1024 if jax.default_backend() == "cpu" else 8192
    x = jax.random.normal(jax.random.key(0), (n, n), dtype)
    times = 1 if jax.default_backend() == "cpu" else 10

    @jax.jit
    def products(x):
        return jax.lax.fori_loop(0, times, lambda _, y: y @ x / n**0.5, x)

    products(x).block_until_ready()
    best = np.inf
    for _ in range(10):
        start = time.perf_counter()
        products(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return times * 2 * n**3 / best


def random_batch(made: prepared.Setup, samples: lengths.Samples, seed: int = 0) -> Batch:
    """A NumPy batch of the setup's shapes. Sample by sample: a begin token, a retrieved text, the pictures, a question
    and an answer as long; the answer is the target, as much of it as data.labels has room for."""
    rng = np.random.default_rng(seed)
    like, words, pack = made.batch, made.model.llm.vocab_size, made.config.data.pack
    t, c = like.tokens.shape[1], like.caption_tokens.shape[1]
    labels = None if like.label_positions is None else like.label_positions.shape[1]

    def sample(length: int, pictured: bool) -> Tokens:
        image = pictured * made.image_tokens
        retrieved = answer = (length - image) // 4
        if labels is not None:
            answer = min(answer, labels // pack)
        place = np.arange(length)
        return Tokens(
            rng.integers(3, words, length).astype(np.int32),
            place >= length - answer,
            (place > retrieved) & (place <= retrieved + image),
            (place >= 1) & (place <= retrieved) & bool(image),
            rng.integers(3, words, c).astype(np.int32),
        )

    def pictures(pictured: bool) -> list[np.ndarray]:
        return list(rng.integers(0, 256, like.images.shape[1:], np.uint8)) if pictured else []

    rows = [sample(*one) for one in zip(*samples, strict=True)]
    pad: Any = SimpleNamespace(pad_id=0)  # what of a vocabulary is read
    shared = None if like.rows is None else Shared(pack, like.rows.shape[1])
    batch = collate(rows, [pictures(own) for own in samples.pictured], pad, t, c, labels, shared)
    if (grids := hub.grids(made.model)) is None or batch.images is None:
        return batch
    largest = [(grids.places(grids.largest), grids.tiles(grids.largest))] * made.pictures
    return batch._replace(
        image_places=tuple(placed(batch.image_mask, [largest if own else [] for own in samples.pictured], grids))
    )


def equal_samples(made: prepared.Setup, fill: float) -> lengths.Samples:
    """Those of a batch, all with `fill` of their share of a row. Raises UserError if that is too little."""
    share, taken = made.length // made.config.data.pack, made.image_tokens
    length = round(fill * share)
    if length < taken + 4:
        raise UserError(
            f"--fill: {length} of {share} tokens, expected more than the {taken} of the pictures and four more"
        )
    every = made.batch.tokens.shape[0]
    return lengths.Samples(np.full(every, length), np.full(every, made.pictures > 0))


class TrainBench:
    """The compiled step with its state, to be run again and again."""

    def __init__(
        self,
        config: TrainConfig,
        length: int = 0,
        pictures: int = 1,
        fill: float = 1.0,
        samples: lengths.Samples | None = None,
    ):
        """Compiles and fills: with `samples`, or each with `fill` of its share of a row. Raises UserError for a config
        that does not fit this machine."""
        config = dataclasses.replace(config, init=dict.fromkeys(config.init, ""))  # random weights
        self.made = made = prepared.prepare(config, None, length, pictures)
        batch = random_batch(made, equal_samples(made, fill) if samples is None else samples)
        self.tokens = int(batch.valid.sum())
        with jax.set_mesh(made.mesh):
            self._state = setup.init_state(config, made.model, made.mesh)
            self._batch = sharding.place_batch(batch, made.mesh)
            self._key = jax.device_put(jax.random.key(1), NamedSharding(made.mesh, P()))
            start = time.perf_counter()
            traced = setup.make_step(config, made.model, self._state).trace(self._state, self._batch, self._key)
            after_trace = time.perf_counter()
            lowered = traced.lower()
            after_lower = time.perf_counter()
            self.compiled = lowered.compile()
            self.compile_seconds = time.perf_counter() - after_lower
        self.trace_seconds, self.lower_seconds = after_trace - start, after_lower - after_trace

    def seconds(self) -> float:
        """Of one more step."""
        start = time.perf_counter()
        self._state, metrics = self.compiled(self._state, self._batch, self._key)
        jax.block_until_ready((self._state, metrics))
        taken = time.perf_counter() - start
        self.loss = float(metrics["loss"])
        return taken

    def figures(self, steps: int, warmup: int) -> TrainFigures:
        """Raises UserError if the loss is not finite: then the time says nothing."""
        for _ in range(warmup):
            self.seconds()
        times = [self.seconds() for _ in range(steps)]
        if not np.isfinite(self.loss):
            raise UserError(f"{self.made.config.name}: the loss is {self.loss} after {warmup + steps} steps")
        made, config, device = self.made, self.made.config, jax.local_devices()[0]
        spread = figures.spread(times)
        step = flops.step(made.model, made.work)
        rate, count = step.model / spread["median"], made.mesh.size
        chip, matmul = chips.of_kind(device.device_kind), matmul_rate(config.dtype)
        stats, memory = device.memory_stats() or {}, self.compiled.memory_analysis()
        return TrainFigures(
            config.name, dict(made.mesh.shape), config.batch_size, made.rows, made.length,
            made.attention, made.attention_reason, config.remat, config.dtype,
            seconds=spread,
            steps=times,
            samples_per_second=config.batch_size / spread["median"],
            tokens_per_second=self.tokens / spread["median"],
            padded_tokens_per_second=made.rows * made.length / spread["median"],
            model_tflop=step.model / 1e12,
            hardware_tflop=flops.step(made.model, made.work, made.causal).hardware / 1e12,
            tflop_per_second=rate / 1e12,
            mfu=None if chip is None else rate / (count * chip.flops),
            share_of_matmul=rate / (count * matmul),
            matmul_tflop_per_second=matmul / 1e12,
            trace_seconds=self.trace_seconds,
            lower_seconds=self.lower_seconds,
            compile_seconds=self.compile_seconds,
            peak_bytes=stats.get("peak_bytes_in_use"),
            memory_analysis={
                name: getattr(memory, f"{name}_size_in_bytes") for name in ("argument", "output", "alias", "temp")
            },
            loss=self.loss,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MixtureFigures:
    """Of batches of many lengths. by_length: of each of data.lengths that they take, how many batches, and the seconds
    of a step; rates are of all batches."""

    config: str
    mesh: dict[str, int]
    batch_size: int
    pack: int
    lengths: str
    batches: int
    attention: str
    remat: str
    dtype: str
    by_length: dict[int, dict[str, float]]
    padding: float  # share of all positions
    samples_per_second: float
    tokens_per_second: float  # real ones
    padded_tokens_per_second: float


def mixture(console: rich.console.Console, config: TrainConfig, kind: str, steps: int, warmup: int) -> MixtureFigures:
    """The steps of batches as a training would read them, one of each length timed; prints each figure once it is
    there. kind: one of `lengths.KINDS`. Raises UserError as TrainBench does."""
    if config.loss.dpo is not None:
        raise UserError("--lengths: loss.dpo learns pairs, expected a training on single samples")
    made = prepared.prepare(config)
    found = lengths.batches(config, made.image_tokens, kind)
    tokens = sum(int(samples.lengths.sum()) for _, samples in found)
    positions = sum(config.batch_size // config.data.pack * length for length, _ in found)
    console.print(f"{config.name}, {len(found)} batches of lengths as {kind}'s: {1 - tokens / positions:.1%} padding")
    by_length: dict[int, dict[str, float]] = {}
    for length in sorted({length for length, _ in found}):
        own = [samples for taken, samples in found if taken == length]
        timed = TrainBench(config, length, samples=own[0]).figures(steps, warmup)
        one = by_length[length] = {"batches": len(own), "seconds": timed.seconds["median"]}
        rows = figures.rows(config.batch_size, made.rows, length)
        console.print(f"{len(own)} batches: {rows}, {one['seconds']:.3f} s a step")
    seconds = sum(one["batches"] * one["seconds"] for one in by_length.values())
    return MixtureFigures(
        config.name, dict(made.mesh.shape), config.batch_size, config.data.pack, kind, len(found), made.attention,
        config.remat, config.dtype, by_length,
        padding=1 - tokens / positions,
        samples_per_second=config.batch_size * len(found) / seconds,
        tokens_per_second=tokens / seconds,
        padded_tokens_per_second=positions / seconds,
    )  # fmt: skip


def report_mixture(
    console: rich.console.Console, config: TrainConfig, path: Path | None, *, kind: str, steps: int, warmup: int
) -> None:
    """Prints the figures of `mixture`. path: they go there as JSON."""
    found = mixture(console, config, kind, steps, warmup)
    console.print(
        f"{found.dtype}, attention {found.attention}: {found.samples_per_second:.2f} samples/s, "
        f"{found.tokens_per_second:.0f} tokens/s without padding"
    )
    if path is not None:
        write_json(path, {"bench": "mixture", **figures.circumstances(), **dataclasses.asdict(found)})


def shape(made: prepared.Setup) -> dict[str, Any]:
    """What the peer needs to build the same step. Raises UserError for what it has no counterpart for."""
    config, model = made.config, made.model
    guide = config.loss.guide
    if model.projector.on(model.llm.hidden_size) != Mlp2xGelu(hidden=model.llm.hidden_size):
        raise UserError(f"--peer: {config.model!r} has another projector, expected mlp2x_gelu as wide as the decoder")
    if not model.clip.vision.has_cls or isinstance(model.feature_layer, tuple):
        raise UserError(
            f"--peer: {config.model!r} reads pictures otherwise than LLaVA-1.5, expected one layer of a CLIP"
        )
    if not isinstance(guide, Released) or config.lora is not None or config.optim.kind != "adam":
        raise UserError('--peer: expected the guide "released", Adam and no LoRA')
    if config.data.pack > 1:
        raise UserError(f"--peer: data.pack is {config.data.pack}, expected 1: the peer has no rows to share")
    k = None if made.batch.label_positions is None else made.batch.label_positions.shape[1]
    return {
        "llm": dataclasses.asdict(model.llm),
        "vision": dataclasses.asdict(model.clip.vision),
        "feature_layer": model.feature_layer,
        "batch": config.batch_size,
        "length": made.length,
        "caption": config.data.caption_length,
        "labels": k,
        "guide_layers": guide.layers,
        "trains_llm": "llm" in made.work.trains,
        "dtype": config.dtype,
        "remat": config.remat != "none",
    }


def report(
    console: rich.console.Console,
    config: TrainConfig,
    path: Path | None,
    *,
    length: int,
    pictures: int,
    fill: float,
    steps: int,
    warmup: int,
    script: Path | None,
    mode: str | None,
    pairs: int,
) -> None:
    """Prints the figures, and with a peer's script the ratio of `pairs` pairs in turns. Raises UserError as TrainBench
    does, or for a peer that fails."""
    described = None if script is None else shape(prepared.prepare(config, None, length, pictures))
    bench = TrainBench(config, length, pictures, fill)
    found = bench.figures(steps, warmup)
    if found.attention_reason:
        console.print(f"attention: {found.attention} instead of {found.attention_reason}", markup=False)
    mfu = "" if found.mfu is None else f"{found.mfu:.1%} of the data sheet, "
    console.print(
        f"{found.config}, {figures.rows(found.batch_size, found.rows, found.length)}, {found.dtype}: "
        f"{found.seconds['median']:.3f} s a step ({found.seconds['p10']:.3f} to {found.seconds['p90']:.3f}), "
        f"{found.samples_per_second:.2f} samples/s, {found.tokens_per_second:.0f} tokens/s"
    )
    console.print(
        f"{found.model_tflop:.3g} TFLOP a step, {found.tflop_per_second:.3g} TFLOP/s: {mfu}{found.share_of_matmul:.1%} "
        f"of a matrix product's {found.matmul_tflop_per_second:.3g} TFLOP/s; traced, lowered, compiled in "
        f"{found.trace_seconds:.1f}, {found.lower_seconds:.1f}, {found.compile_seconds:.1f} s"
    )
    values: dict[str, Any] = {"bench": "train", **figures.circumstances(), **dataclasses.asdict(found)}
    if script is not None:
        arguments = ["--mode", mode, "--shape", json.dumps(described)]
        with against.start(script, arguments) as other:  # in turns: a machine's speed drifts
            ours, theirs = zip(*((bench.seconds(), other()) for _ in range(pairs)), strict=True)
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        median = float(np.median(ratios))
        values["peer"] = {"mode": mode, "ours": ours, "theirs": theirs, "ratios": ratios, "median_ratio": median}
        console.print(
            f"transformers and torch, {mode}: {np.median(theirs):.3f} s; {np.median(ratios):.2f} times as fast, median "
            f"of {pairs} pairs ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if path is not None:
        write_json(path, values)
