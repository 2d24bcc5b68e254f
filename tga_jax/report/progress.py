"""How long work shows how far it is: bars in a terminal, a line a minute in a pipe or a log."""

import time
from typing import Any

import rich.console
import rich.progress
from rich.progress import TaskID

_SECONDS = 60.0  # between two lines on one task


class Progress(rich.progress.Progress):
    """rich's, with one look everywhere. Of a task that counts, total and time left; a task without a total is named.

    console: None shows nothing; transient: bars go away at the end. Tasks may have a field `shown`, such as the loss.
    """

    def __init__(self, console: rich.console.Console | None, *, transient: bool = False):
        shown = console or rich.console.Console(quiet=True)
        self._told: dict[TaskID, float] = {}
        super().__init__(
            rich.progress.TextColumn("{task.description:<22}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[shown]}"),
            rich.progress.TimeRemainingColumn(),
            console=shown,
            transient=transient,
            disable=not shown.is_terminal,
        )

    def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
        task = super().add_task(description, *args, **{"shown": "", **fields})
        self._told[task] = time.monotonic()
        if self.disable and self._tasks[task].total is None:
            self._say(f"{description} ...")
        return task

    def update(self, task_id: TaskID, **fields: Any) -> None:
        super().update(task_id, **fields)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        if not self.disable:
            return
        with self._lock:
            now, task = time.monotonic(), self._tasks[task_id]
            if task.total is None or now - self._told[task_id] < _SECONDS:
                return
            self._told[task_id] = now
        done = f"{task.description}: {task.completed:,.0f} of {task.total:,.0f}"
        left = "" if task.time_remaining is None else f"{_length(task.time_remaining)} left"
        self._say(", ".join(filter(None, (done, task.fields["shown"], left))))

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _length(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
