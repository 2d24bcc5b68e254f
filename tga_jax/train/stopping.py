"""Stopping between two steps, with the state saved, instead of in the middle of one."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


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
