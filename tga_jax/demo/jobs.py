"""Jobs in several processes at once: one small training leaves an accelerator idle for most of its time."""

import dataclasses
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from concurrent.futures import process

from tga_jax.errors import UserError
from tga_jax.train import stopping

_TURN = 0.5  # seconds


@dataclasses.dataclass(frozen=True)
class Job:
    """work: what can be sent to another process; needs: the names of the jobs that must have ended before."""

    work: Callable[[], None]
    needs: tuple[str, ...] = ()


def run(jobs: Mapping[str, Job], count: int) -> Iterator[str]:
    """The name of each job as it ends, `count` of them at a time, started in their order once what they need has ended.

    After a first error, or a signal to stop (`stopping.stop_requests`), trainings stop with their state saved, no other
    job starts, and the error is raised. Raises UserError if something kills a process.
    """
    # A card is shared by processes that ask for its memory as they need it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    waiting, started, ended = dict(jobs), dict[futures.Future[bool], str](), set[str]()
    with stopping.stop_requests(), _pool(count) as pool:
        try:
            while waiting or started:
                ready = [name for name, job in waiting.items() if ended.issuperset(job.needs)]
                for name in ready[: count - len(started)]:  # no more, or they would start after the others are stopped
                    started[pool.submit(_work, waiting.pop(name).work)] = name
                if not started:
                    raise ValueError(f"jobs that wait for none that there is: {', '.join(waiting)}")
                found, _ = futures.wait(started, _TURN, futures.FIRST_COMPLETED)
                stopping.stop_if_asked()
                for future in found:
                    name = started.pop(future)
                    if not future.result():
                        raise stopping.Interrupted("stopped; the same command continues there", True)
                    ended.add(name)
                    yield name
        except process.BrokenProcessPool as error:
            raise UserError(
                "the process of a job was killed, perhaps for want of memory; the same command continues, with a lower "
                "--jobs if need be"
            ) from error
        finally:
            for child in multiprocessing.active_children() if waiting or started else ():
                child.terminate()


def _pool(count: int) -> futures.ProcessPoolExecutor:
    """Every job has a new process, whose memory is its own."""
    context = multiprocessing.get_context("spawn")
    return futures.ProcessPoolExecutor(count, context, initializer=_begin, max_tasks_per_child=1)


def _begin() -> None:
    """Of a process: Ctrl-C is the first one's to act on, and a process without work ends with it."""
    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _work(work: Callable[[], None]) -> bool:
    """Whether it came to its end, and was not asked to stop."""
    with stopping.stop_requests():
        try:
            work()
        except stopping.Interrupted:
            return False
        except UserError as error:
            raise UserError(str(error)) from None
        except Exception:  # of a type that may not survive the way between processes
            raise RuntimeError(f"in a job:\n{traceback.format_exc()}") from None
    return True
