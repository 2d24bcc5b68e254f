"""Training metrics to disk: JSON lines and TensorBoard events."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter

from tga_jax.workdir import disk_errors, write_text


class MetricsWriter:
    """Appends to `<workdir>/metrics.jsonl` and to TensorBoard events beside it.

    start: the step a resumed run continues from; lines of later steps, which the run will write again, are dropped.
    """

    def __init__(self, workdir: Path, start: int):
        self._path = workdir / "metrics.jsonl"
        kept = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= start:
                        kept.append(line + "\n")
                except (json.JSONDecodeError, KeyError):
                    continue  # the half line of a killed run
        write_text(self._path, "".join(kept))
        self._lines = self._path.open("a", buffering=1)
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1, write_to_disk=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        with disk_errors(self._path.parent):
            self._lines.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        with disk_errors(self._path.parent):
            self._lines.close()
            self._events.close()
