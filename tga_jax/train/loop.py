"""The training loop: a config and a work folder in, trained parameters out. Can be stopped and resumed at any time."""

import contextlib
import dataclasses
import math
import signal
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import rich.console
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from tga_jax.checkpoints import orbax_files
from tga_jax.data import pipeline, sources
from tga_jax.errors import UserError
from tga_jax.models import llava, sharding
from tga_jax.report.progress import Progress
from tga_jax.train import chips, flops, origin, setup, step, stopping
from tga_jax.train.config import TrainConfig
from tga_jax.train.metrics import MetricsWriter, Speed
from tga_jax.workdir import AnyPath, claim, holds, working

# What a resumed run may have otherwise: where it runs, and what it writes.
_MAY_CHANGE = (
    "mesh",
    "processes",
    "remat",
    "attention",
    "log_every",
    "checkpoint_every",
    "keep",
    "keep_every",
    "wandb",
)


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


class _Ready(NamedTuple):
    """What a training needs before its first step; found without writing anything."""

    mesh: Mesh
    model: llava.LlavaConfig
    preset: llava.LlavaConfig  # `model`, before it was set up for these devices
    batches: pipeline.Batches
    guided: str | None  # a line on how many samples the guide acts


def _ready(config: TrainConfig, console: rich.console.Console) -> tuple[_Ready, step.TrainState]:
    """And the state at step 0: apart, so that nothing keeps its arrays once there is another.

    Raises UserError for a config, file or sample that does not fit, and for a guide without a sample to act on.
    """
    vocabulary = sources.vocabulary(config.data)
    mesh = setup.make_mesh(config)
    preset = origin.model_of(config, vocabulary.size)
    chosen, reason = setup.choose_attention(config, preset.llm, mesh)
    if reason is not None:
        console.print(f"attention: {chosen}; {reason}", highlight=False)
    model = setup.make_model(config, preset, chosen)
    whose = "the preset" if isinstance(config.model, str) else "the model's checkpoint"
    origin.check(config.init, model, config.called, whose)
    records = sources.records(config.data, setup.pictures(config, model), config.seed)
    made = setup.make_batches(config, vocabulary, model, records, jax.process_index(), jax.process_count())
    made[0]  # raises for a file or sample that does not fit
    guided = setup.guided(config, made, console.print) if config.loss.guide else None
    with jax.set_mesh(mesh):
        state = jax.block_until_ready(setup.init_state(config, model, mesh))
    return _Ready(mesh, model, preset, made, guided), state


def _ended(workdir: AnyPath) -> str:
    return f"{workdir / 'params'}; next: tga convert --from-run={workdir} --to=DIR, a checkpoint for chat and evaluate"


class _Log:
    """Where the metrics of the steps go: into their file, onto the bar, and now and then to a console without bars."""

    def __init__(
        self,
        config: TrainConfig,
        ready: _Ready,
        start: int,
        writer: MetricsWriter | None,
        progress: Progress,
        title: str,
    ):
        self.saved = start  # the step of the newest checkpoint
        self.speed = Speed(config.batch_size, chips.peak(ready.mesh.devices.flat))
        self._config, self._model, self._writer = config, ready.model, writer
        self._progress = progress
        self._task = progress.add_task(title, total=config.steps, completed=start, shown="")

    def step(self, number: int, metrics: dict[str, Any], work: flops.Step | None) -> None:
        """Raises UserError for a metric that is not finite."""
        values, steps = _check(metrics, number, self.saved), self._config.steps
        self.speed.step(values["tokens"], 0.0 if work is None else flops.step(self._model, work).model)
        if number % self._config.log_every == 0 or number == steps:
            if self._writer is not None:
                self._writer.write(number, {**values, **self.speed.read()})
            self._progress.update(self._task, shown=f"loss {values['loss']:.3f}")
        self._progress.update(self._task, completed=number)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()


def _steps(
    config: TrainConfig,
    ready: _Ready,
    state: step.TrainState,
    start: int,
    store: orbax_files.Checkpoints,
    log: _Log,
    received: list[int],
    title: str,
) -> step.TrainState:
    """The state after all steps. Raises stopping.Interrupted, with the state saved, once a signal was received."""
    train_step = setup.make_step(config, ready.model, state)
    key = jax.random.key(config.seed)
    # One batch a step: the next one's number is the step's.
    ahead = iter(pipeline.iterate(ready.batches, config.data.threads, config.processes, start))
    last: tuple[Any, Any] | None = None  # the metrics of the step before, read while this one runs
    for number in range(start + 1, config.steps + 1):
        with log.speed.waiting():
            batch = next(ahead)
        state, metrics = train_step(state, sharding.place_batch(batch, ready.mesh), key)
        if last is not None:
            log.step(number - 1, *last)
        work = setup.work(config, ready.model, state, batch)
        last = metrics, work
        signalled = _asked_to_stop(received, number, config.log_every, metrics)
        if signalled or number % config.checkpoint_every == 0 or number == config.steps:
            log.step(number, *last)  # before the save, so that a resumed run has this step's line
            last = None
            log.flush()
            store.save(number, _resumable(state))
            log.saved = number
        if signalled:
            raise stopping.Interrupted(
                f"stopped at step {number} of {title}; the same command continues there", signalled == signal.SIGTERM
            )
    return state


def run(
    config: TrainConfig,
    workdir: AnyPath,
    console: rich.console.Console | None = None,
    *,
    verbose: bool = False,
    bars: Progress | None = None,
    title: str = "",
) -> None:
    """Trains, or resumes, until `<workdir>/params` is written; returns at once if it is there.

    verbose: says where the config and the results lie, and what comes next; bars: a `Progress` under way, on
    which to show this training beside others, and the console is theirs; title: to show instead of the config's name.
    Trainings can run at once in several threads, with their own workdirs, if the main thread holds `stop_requests`.
    Of several processes (`jax.distributed`) each runs this, with the same config and a workdir that all of them see.
    Raises UserError for a bad config, workdir, file or a loss that is not finite, and Interrupted, with the state
    saved, after SIGINT or SIGTERM.
    """
    host = jax.process_index()
    console = bars.console if bars else console or rich.console.Console(quiet=host > 0)
    title = title or config.name
    described, inputs = dataclasses.asdict(config), setup.inputs(config)
    if holds(workdir, described, may_change=_MAY_CHANGE, inputs=inputs) and orbax_files.has_params(workdir):
        if verbose:
            console.print(f"nothing left to do: {_ended(workdir)}", highlight=False, soft_wrap=True)
        return
    ready, state = _ready(config, console)
    if host == 0:  # only now: a config that is found wrong leaves nothing behind
        known = {**described, "architecture": origin.describe(ready.preset, config.init)}
        claim(workdir, known, may_change=_MAY_CHANGE, inputs=inputs)
    orbax_files.wait_for_all("the workdir is claimed")
    if verbose:
        console.print(f"config: {workdir / 'config.json'}", highlight=False, soft_wrap=True)
        if ready.guided is not None:
            console.print(ready.guided, highlight=False)
        console.print("compiling the first step ...", highlight=False)
    with working(workdir, process=host):
        store = orbax_files.Checkpoints(workdir, config.keep, config.keep_every)
        writer = None
        try:
            with jax.set_mesh(ready.mesh), stopping.stop_requests() as received:
                start, found = store.restore_newest(_resumable(state), partial(console.print, highlight=False))
                if start:
                    state = state.replace(**found)  # pyrefly: ignore
                if host == 0:
                    writer = MetricsWriter(workdir, start, config.name, config.wandb, described)
                with contextlib.nullcontext(bars) if bars else Progress(console) as progress:
                    log = _Log(config, ready, start, writer, progress, title)
                    state = _steps(config, ready, state, start, store, log, received, title)
                store.wait()
                orbax_files.save_params(workdir, setup.trained_params(config, ready.model, state))
                if verbose:
                    console.print(f"trained: {_ended(workdir)}", highlight=False, soft_wrap=True)
        finally:
            store.close()
            if writer is not None:
                writer.close()
