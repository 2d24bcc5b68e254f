"""The training: a config and a work folder in, trained parameters out. Can be stopped and resumed at any time."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import rich.console
import rich.progress

from tga_jax import checkpoints, optim, sharding, step
from tga_jax.data import pipeline, sources
from tga_jax.errors import UserError
from tga_jax.metrics import MetricsWriter
from tga_jax.models import llava, presets
from tga_jax.workdir import claim, holds


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    data: int = -1  # -1: what the other axes leave
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training, whichever of the four it is.

    init: where each part of the model starts from: the work folder of the training that made it, or "" for random
    parameters. A part that is left out is not part of this training.
    """

    name: str
    seed: int
    model: str
    init: dict[str, str]
    steps: int
    batch_size: int
    loss: step.LossConfig
    optim: optim.OptimConfig
    data: sources.DataConfig
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    log_every: int = 20
    checkpoint_every: int = 500


class Interrupted(KeyboardInterrupt):
    """The person asked to stop; the state is saved."""


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of stopping in the middle of a step; a second one stops at once."""
    received: list[int] = []

    def handler(number: int, _: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _initial_params(config: TrainConfig, model: llava.LlavaConfig) -> dict:
    key = jax.random.key(config.seed)
    params = {}
    for part, folder in config.init.items():
        if part not in ("clip", "projector", "llm"):
            raise UserError(f"init: unknown part {part!r}, expected clip, projector or llm")
        make = partial(llava.init, model, key, (part,))
        params[part] = (
            checkpoints.load_params(Path(folder), part, jax.eval_shape(make)[part]) if folder else make()[part]
        )
    return params


def _check_fit(config: TrainConfig, model: llava.LlavaConfig, shards: int) -> None:
    """Raises UserError where the config names layers that the model lacks or a batch that the mesh cannot share."""
    guide, blocks = config.loss.guide, model.llm.num_layers
    if guide is not None and max(guide.layers) > blocks:
        raise UserError(f"loss.guide.layers: {guide.layers}, expected at most {blocks}, the blocks of {config.model!r}")
    if config.batch_size < 1 or config.batch_size % shards:
        raise UserError(f"batch_size: {config.batch_size}, expected a multiple of data * fsdp = {shards} of the mesh")


def _resumable(state: step.TrainState) -> dict[str, Any]:
    """What a checkpoint holds; frozen parameters are read again from where they came."""
    return {"step": state.step, "trainable": state.trainable, "opt_state": state.opt_state}


def _check(metrics: dict[str, Any], number: int, saved: int | None) -> dict[str, float]:
    """The step's metrics as floats. Raises UserError if the loss or its gradient is not finite.

    A finite loss can have a gradient that is not, and its step would spoil every parameter.
    """
    values = {name: float(value) for name, value in metrics.items()}
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            kept = f"the checkpoint of step {saved} is kept" if saved else "no checkpoint was written yet"
            hint = "lower optim.learning_rate or check the data"
            raise UserError(f"{name} is {values[name]} at step {number}; {kept}; {hint}")
    return values


def _progress(console: rich.console.Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description:<22}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[shown]}"),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )


def run(config: TrainConfig, workdir: Path, console: rich.console.Console | None = None) -> None:
    """Trains, or resumes, until `<workdir>/params` is written; returns at once if it is there.

    Raises UserError for a bad config, workdir, file or a loss that is not finite, and Interrupted, with the state
    saved, after SIGINT or SIGTERM.
    """
    console = console or rich.console.Console()
    if holds(workdir, dataclasses.asdict(config)) and checkpoints.has_params(workdir):
        return
    vocabulary = sources.vocabulary(config.data)
    model = presets.get(config.model, vocabulary.size)
    mesh = sharding.make_mesh(**dataclasses.asdict(config.mesh))
    _check_fit(config, model, mesh.shape["data"] * mesh.shape["fsdp"])
    records = sources.records(config.data, model.clip.vision.image_size, config.seed)
    host, hosts = jax.process_index(), jax.process_count()
    made = pipeline.Batches(
        records, vocabulary, config.data.shape(model.image_tokens), config.batch_size, config.seed, config.data.policy,
        host, hosts,
    )  # fmt: skip
    made[0]  # raises for a file or sample that does not fit
    batches = iter(pipeline.iterate(made, config.data.threads))
    with jax.set_mesh(mesh):
        state = step.init_state(_initial_params(config, model), config.optim, config.steps)
    claim(workdir, dataclasses.asdict(config))  # only now: a config that is found wrong leaves nothing behind
    store = checkpoints.Checkpoints(workdir)
    writer = None
    try:
        with jax.set_mesh(mesh), _stop_requests() as stop:
            placement = sharding.shardings(state, mesh)
            state = jax.device_put(state, placement)
            start = saved = store.latest_step() or 0
            if start:
                saved_state, data_state = store.restore(start, _resumable(state))
                state = state.replace(**saved_state)  # pyright: ignore[reportAttributeAccessIssue]
                batches.set_state(data_state)
            writer = MetricsWriter(workdir, start)
            train_step = jax.jit(
                partial(step.train_step, model, config.loss, config.optim, config.steps),
                out_shardings=(placement, None),
                donate_argnums=0,
            )
            key = jax.random.key(config.seed)
            with _progress(console) as progress:
                task = progress.add_task(config.name, total=config.steps, completed=start, shown="")

                def note(number: int, metrics: dict[str, Any]) -> float:
                    values = _check(metrics, number, saved)
                    if number % config.log_every == 0 or number == config.steps:
                        writer.write(number, values)
                        progress.update(task, shown=f"loss {values['loss']:.3f}")
                    progress.update(task, completed=number)
                    return values["loss"]

                last: dict[str, Any] | None = None  # the metrics of the step before, read while this one runs
                told = time.monotonic()
                for number in range(start + 1, config.steps + 1):
                    batch = sharding.place_batch(next(batches), mesh)
                    state, metrics = train_step(state, batch, key)
                    if last is not None:
                        loss = note(number - 1, last)
                        if not console.is_terminal and time.monotonic() - told > 15:
                            told = time.monotonic()
                            console.print(f"{config.name}: step {number - 1}/{config.steps}, loss {loss:.3f}")
                    last = metrics
                    stopping = bool(stop)  # looked at once: a request that comes later ends the next step
                    if stopping or number % config.checkpoint_every == 0 or number == config.steps:
                        note(number, metrics)  # before the save, so that a resumed run has this step's line
                        last = None
                        store.save(number, _resumable(state), batches.get_state())  # pyright: ignore[reportArgumentType]
                        saved = number
                    if stopping:
                        raise Interrupted(
                            f"stopped at step {number} of {config.name}; the same command continues there"
                        )
                progress.update(task, completed=config.steps)
            params = optim.combine(state.trainable, state.frozen)
            trained = {path.split("/")[0] for path in state.trainable}
            checkpoints.save_params(workdir, {part: params[part] for part in sorted(trained)})
    finally:
        store.close()
        if writer is not None:
            writer.close()
