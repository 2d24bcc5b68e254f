"""Training metrics: JSON lines, TensorBoard events and, if wanted, Weights & Biases; and how fast a training is."""

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

from tga_jax.errors import UserError
from tga_jax.workdir import AnyPath, absolute, disk_errors, is_remote, write_text


class MetricsWriter:
    """Appends to `<workdir>/metrics.jsonl` and to TensorBoard events beside it.

    Nothing can be appended to a file of a bucket: there both are kept here and copied at every `flush`.
    start: the step a resumed run continues from; lines of later steps, which the run will write again, are dropped.
    wandb: a project there, "" for none. Raises UserError if that is not installed.
    """

    def __init__(
        self, workdir: AnyPath, start: int, name: str = "", wandb: str = "", config: dict[str, Any] | None = None
    ):
        self._workdir, self._scratch = workdir, tempfile.TemporaryDirectory() if is_remote(workdir) else None
        here = Path(self._scratch.name if self._scratch else workdir)
        self._run = _open_wandb(workdir, here, name, wandb, config) if wandb else None
        self._path, self._events_path = here / "metrics.jsonl", here / "tensorboard"
        kept, old = [], workdir / "metrics.jsonl"
        if old.exists():
            for line in old.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= start:
                        kept.append(line + "\n")
                except (json.JSONDecodeError, KeyError):
                    continue  # the half line of a killed run
        write_text(self._path, "".join(kept))
        self._lines = self._path.open("a", buffering=1)
        self._events = SummaryWriter(str(self._events_path), purge_step=start + 1, write_to_disk=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        with disk_errors(self._path.parent):
            self._lines.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(values, step=step)

    def flush(self) -> None:
        """What was written is in the workdir afterwards."""
        if self._scratch is None:
            return
        self._events.flush()
        with disk_errors(self._workdir):
            write_text(self._workdir / "metrics.jsonl", self._path.read_text())
            for file in self._events_path.iterdir():
                (self._workdir / "tensorboard" / file.name).write_bytes(file.read_bytes())

    def close(self) -> None:
        with disk_errors(self._path.parent):
            self._lines.close()
            self._events.close()
        if self._run is not None:
            self._run.finish()
        try:
            self.flush()
        finally:
            if self._scratch is not None:
                self._scratch.cleanup()


def _open_wandb(workdir: AnyPath, here: Path, name: str, project: str, config: dict[str, Any] | None) -> Any:
    try:
        import wandb  # pyrefly: ignore
    except ImportError as error:
        raise UserError('wandb: is not installed, expected `pip install wandb` or --config.wandb=""') from error
    # The workdir names the run, so that a resumed one goes on there.
    run = "-".join(absolute(workdir).parts[-2:])
    return wandb.init(project=project, name=name, id=run, resume="allow", dir=str(here), config=config)


class Speed:
    """Rates since the last `read`; the first step, which compiles, is left out.

    peak: FLOPs a second of all devices together by their data sheet, None where there is none.
    """

    def __init__(self, batch_size: int, peak: float | None = None):
        self._batch_size = batch_size
        self._peak = peak
        self._start: float | None = None
        self._steps, self._tokens, self._flops, self._waited = 0, 0.0, 0.0, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def step(self, tokens: float, flops: float = 0.0) -> None:
        """A step has ended. tokens: of all its rows, without padding; flops: those of the model, 0 if not known."""
        if self._start is None:
            self._reset()
            return
        self._steps, self._tokens, self._flops = self._steps + 1, self._tokens + tokens, self._flops + flops

    def _reset(self) -> None:
        self._start = time.perf_counter()
        self._steps, self._tokens, self._flops, self._waited = 0, 0.0, 0.0, 0.0

    def read(self) -> dict[str, float]:
        """Rates a second, the share of time spent waiting for data, MFU (Chowdhery et al., 2022: the model's FLOPs, as
        `flops` counts them, of the peak) and the device's peak memory where it tells."""
        found = {}
        if self._start is not None and self._steps:
            seconds = time.perf_counter() - self._start
            found = {
                "speed/seconds_per_step": seconds / self._steps,
                "speed/samples_per_second": self._steps * self._batch_size / seconds,
                "speed/tokens_per_second": self._tokens / seconds,
                "speed/waiting": self._waited / seconds,
            }
            if self._flops:
                found["speed/tflop_per_second"] = self._flops / seconds / 1e12
                if self._peak is not None:
                    found["speed/mfu"] = self._flops / seconds / self._peak
            self._reset()
        stats = jax.local_devices()[0].memory_stats()
        if stats and "peak_bytes_in_use" in stats:
            found["memory/peak_gib"] = stats["peak_bytes_in_use"] / 2**30
        return found
