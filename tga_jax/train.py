"""The training loop: a config and a work folder in, trained parameters out. Can be stopped and resumed at any time."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import rich.console
import rich.progress
from jax.experimental import multihost_utils

from tga_jax import checkpoints, chips, flops, sharding, step, training
from tga_jax.data import pipeline, sources
from tga_jax.errors import UserError
from tga_jax.metrics import MetricsWriter, Speed
from tga_jax.training import TrainConfig
from tga_jax.workdir import AnyPath, claim, holds

# What a resumed run may have otherwise: where it runs, and what it writes.
_MAY_CHANGE = ("mesh", "remat", "attention", "log_every", "checkpoint_every", "keep", "keep_every", "wandb")


class Interrupted(KeyboardInterrupt):
    """Someone, or the machine's scheduler, asked to stop; the state is saved. preempted: by SIGTERM."""

    def __init__(self, message: str, preempted: bool):
        super().__init__(message)
        self.preempted = preempted


_requests: list[int] | None = None  # of the `stop_requests` that is under way


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of stopping in the middle of a step; a second one stops at once.

    Within another one, also in another thread, it is that one: signals reach the main thread alone, which holds this
    around trainings in several threads.
    """
    global _requests
    if _requests is not None:
        yield _requests
        return
    received: list[int] = []

    def handler(number: int, _: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    _requests = received
    try:
        yield received
    finally:
        _requests = None
        for number, old in previous.items():
            signal.signal(number, old)


def stop_if_asked() -> None:
    """Raises Interrupted if the `stop_requests` that is under way has one. For long work that is no training."""
    if _requests:
        raise Interrupted("stopped; the same command continues there", _requests[0] == signal.SIGTERM)


def _asked_to_stop(received: list[int], number: int, every: int, metrics: Any) -> int:
    """The signal after which all processes stop after step `number`, 0 if none. metrics: of that step, to wait for.

    One process sees its own at once; several tell each other every so many steps, so that they stop after the same.
    """
    own = received[0] if received else 0
    if jax.process_count() == 1:
        return own
    if number % every:
        return 0
    jax.block_until_ready(metrics)  # on CPUs two programs that communicate at once would read each other's messages
    return int(np.max(multihost_utils.process_allgather(np.array(own))))


def _resumable(state: step.TrainState) -> dict[str, Any]:
    """What a checkpoint holds; frozen parameters are read again from where they came."""
    return {"step": state.step, "trainable": state.trainable, "opt_state": state.opt_state}


def _check(metrics: dict[str, Any], number: int, saved: int | None) -> dict[str, float]:
    """The step's metrics as floats. Raises UserError if the loss or its gradient is not finite.

    A finite loss can have a gradient that is not, and its step would spoil every parameter.
    """
    values = {name: float(value) for name, value in metrics.items()}
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    for name in ("loss", "grad_norm"):
        if name in wrong:
            others = ", ".join(other for other in wrong if other != name)
            kept = f"the checkpoint of step {saved} is kept" if saved else "no checkpoint was written yet"
            raise UserError(
                f"{name} is {values[name]} at step {number}{f' (so are {others})' if others else ''}; {kept}; "
                "lower optim.learning_rate or check the data"
            )
    return values


def progress_bars(console: rich.console.Console) -> rich.progress.Progress:
    """To show trainings on, each by `run`; tasks have a field `shown`."""
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description:<22}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[shown]}"),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )


def run(
    config: TrainConfig,
    workdir: AnyPath,
    console: rich.console.Console | None = None,
    *,
    verbose: bool = False,
    bars: rich.progress.Progress | None = None,
    title: str = "",
) -> None:
    """Trains, or resumes, until `<workdir>/params` is written; returns at once if it is there.

    verbose: prints the whole config, which `<workdir>/config.json` has too; bars: `progress_bars` under way, on
    which to show this training beside others, and the console is theirs; title: to show instead of the config's name.
    Trainings can run at once in several threads, with their own workdirs, if the main thread holds `stop_requests`.
    Of several processes (`jax.distributed`) each runs this, with the same config and a workdir that all of them see.
    Raises UserError for a bad config, workdir, file or a loss that is not finite, and Interrupted, with the state
    saved, after SIGINT or SIGTERM.
    """
    host, hosts = jax.process_index(), jax.process_count()
    console = bars.console if bars else console or rich.console.Console(quiet=host > 0)
    title = title or config.name
    described = dataclasses.asdict(config)
    if holds(workdir, described, may_change=_MAY_CHANGE) and checkpoints.has_params(workdir):
        return
    vocabulary = sources.vocabulary(config.data)
    mesh = training.make_mesh(config)
    chosen, reason = training.choose_attention(config, mesh)
    if reason is not None:
        console.print(f"attention: {chosen}; {reason}", highlight=False)
    model = training.make_model(config, vocabulary.size, chosen)
    records = sources.records(config.data, model.clip.vision.image_size, config.seed)
    shape = config.data.shape(model.image_tokens)
    made = pipeline.Batches(records, vocabulary, shape, config.batch_size, config.seed, config.data.policy, host, hosts)
    made[0]  # raises for a file or sample that does not fit
    acts_on = training.guided(config, made) if config.loss.guide else None
    batches = iter(pipeline.iterate(made, config.data.threads))
    with jax.set_mesh(mesh):
        state = jax.block_until_ready(training.init_state(config, model, mesh))
    if host == 0:  # only now: a config that is found wrong leaves nothing behind
        claim(workdir, described, may_change=_MAY_CHANGE)
    checkpoints.wait_for_all("the workdir is claimed")
    if verbose:
        console.print_json(data=described)
        if acts_on is not None:
            console.print(acts_on, highlight=False)
    store = checkpoints.Checkpoints(workdir, config.keep, config.keep_every)
    writer = None
    try:
        with jax.set_mesh(mesh), stop_requests() as received:
            start = saved = store.latest_step() or 0
            if start:
                saved_state, data_state = store.restore(start, _resumable(state))
                state = state.replace(**saved_state)  # pyright: ignore[reportAttributeAccessIssue]
                batches.set_state(data_state)
            if host == 0:
                writer = MetricsWriter(workdir, start, config.name, config.wandb, described)
            train_step = training.make_step(config, model, state)
            key = jax.random.key(config.seed)
            speed = Speed(config.batch_size, chips.peak(mesh.devices.flat))
            with contextlib.nullcontext(bars) if bars else progress_bars(console) as progress:
                task = progress.add_task(title, total=config.steps, completed=start, shown="")

                def note(number: int, metrics: dict[str, Any], work: flops.Step | None) -> float:
                    values = _check(metrics, number, saved)
                    speed.step(values["tokens"], 0.0 if work is None else flops.step(model, work).model)
                    if number % config.log_every == 0 or number == config.steps:
                        if writer is not None:
                            writer.write(number, {**values, **speed.read()})
                        progress.update(task, shown=f"loss {values['loss']:.3f}")
                    progress.update(task, completed=number)
                    return values["loss"]

                last: tuple[Any, ...] | None = None  # the metrics of the step before, read while this one runs
                told = time.monotonic()
                for number in range(start + 1, config.steps + 1):
                    with speed.waiting():
                        batch = next(batches)
                    state, metrics = train_step(state, sharding.place_batch(batch, mesh), key)
                    if last is not None:
                        loss = note(number - 1, *last)
                        if not console.is_terminal and time.monotonic() - told > 15:
                            told = time.monotonic()
                            console.print(f"{title}: step {number - 1}/{config.steps}, loss {loss:.3f}")
                    last = metrics, training.work(config, model, state, batch)
                    stopping = _asked_to_stop(received, number, config.log_every, metrics)
                    if stopping or number % config.checkpoint_every == 0 or number == config.steps:
                        note(number, *last)  # before the save, so that a resumed run has this step's line
                        last = None
                        if writer is not None:
                            writer.flush()
                        store.save(number, _resumable(state), batches.get_state())  # pyright: ignore[reportArgumentType]
                        saved = number
                    if stopping:
                        raise Interrupted(
                            f"stopped at step {number} of {title}; the same command continues there",
                            stopping == signal.SIGTERM,
                        )
                progress.update(task, completed=config.steps)
            store.wait()
            checkpoints.save_params(workdir, training.trained_params(config, model, state))
    finally:
        store.close()
        if writer is not None:
            writer.close()
