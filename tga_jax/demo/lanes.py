"""Several parts of a demo at once: its programs are too small to keep all cores of a CPU at work."""

import os
import signal
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any, TypeVar

import jax

from tga_jax.train import stopping

T = TypeVar("T")
_TURN = 0.5  # seconds


def count() -> int:
    """How many parts run at once. One on an accelerator, and on several devices, whose programs talk to each other: two
    such programs would wait for one another for ever. On a CPU one more than it has cores, but few enough for 8 GiB."""
    devices = jax.devices()
    return min(3, 1 + (os.cpu_count() or 1)) if len(devices) == 1 and devices[0].platform == "cpu" else 1


def run(jobs: Mapping[str, Callable[[], T]], lanes: int) -> dict[str, T]:
    """What the jobs return, `lanes` of them at a time, started in their order.

    After a first error, or a signal to stop (`stopping.stop_requests`), trainings stop with their state saved, no other
    job starts, and the error is raised.
    """
    with stopping.stop_requests() as received, futures.ThreadPoolExecutor(lanes) as pool:

        def start(job: Callable[[], T]) -> T:
            stopping.stop_if_asked()
            return job()

        started = {name: pool.submit(start, job) for name, job in jobs.items()}
        pending = set(started.values())
        # In turns: a signal that comes just as a wait begins is handled when it ends.
        while pending and not any(future.done() and future.exception() for future in started.values()):
            _, pending = futures.wait(pending, _TURN, futures.FIRST_EXCEPTION)
        if pending:
            received.append(signal.SIGTERM)
        errors: list[Any] = [error for future in started.values() if (error := future.exception())]
        if errors:
            # What the others were stopped for.
            raise next((error for error in errors if not isinstance(error, stopping.Interrupted)), errors[0])
        return {name: future.result() for name, future in started.items()}
