"""Jobs in processes of their own: their order, and the others when one fails, one is killed, or all are to stop."""

import json
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from tga_jax.demo import jobs
from tga_jax.demo.jobs import Job
from tga_jax.errors import UserError
from tga_jax.train import stopping


def write(path: Path, needed: tuple[Path, ...] = ()) -> None:
    assert all(other.exists() for other in needed)
    path.write_text(str(os.getpid()))


def fail(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)
    raise UserError("no such thing")


class Odd(UserError):
    """Does not survive pickling: its message alone does not make another."""

    def __init__(self, thing: str, wanted: str):
        super().__init__(f"{thing}, expected {wanted}")


def fail_oddly() -> None:
    raise Odd("a", "b")


def fail_unforeseen() -> None:
    raise json.JSONDecodeError("no JSON", "", 0)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(begun: Path, saved: Path) -> None:
    """Until it is asked to stop; then it saves, as a training does."""
    begun.touch()
    try:
        while True:
            stopping.stop_if_asked()
            time.sleep(0.05)
    except stopping.Interrupted:
        saved.touch()
        raise


def test_what_a_job_needs_has_ended_and_each_has_a_process_of_its_own(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    grid = {"c": Job(partial(write, c, (a, b)), ("a", "b")), "a": Job(partial(write, a)), "b": Job(partial(write, b))}
    ended = list(jobs.run(grid, 2))
    assert sorted(ended) == ["a", "b", "c"]
    assert ended[-1] == "c"
    assert len({path.read_text() for path in (a, b, c)} | {str(os.getpid())}) == 4


def test_a_job_that_waits_for_none_that_there_is_raises(tmp_path):
    with pytest.raises(ValueError, match="jobs that wait for none that there is: b"):
        list(jobs.run({"b": Job(partial(write, tmp_path / "b"), ("a",))}, 2))


def test_after_an_error_the_others_stop_with_their_state_saved(tmp_path):
    begun, saved, never = (tmp_path / name for name in ("begun", "saved", "never"))
    grid = {
        "training": Job(partial(train, begun, saved)),
        "wrong": Job(partial(fail, begun)),
        "later": Job(partial(write, never), ("wrong",)),
    }
    with pytest.raises(UserError, match="no such thing"):
        list(jobs.run(grid, 2))
    assert saved.exists()
    assert not never.exists()


def test_errors_arrive_whatever_their_type():
    with pytest.raises(UserError, match=r"^a, expected b$"):
        list(jobs.run({"a": Job(fail_oddly)}, 1))
    with pytest.raises(RuntimeError, match=r"(?s)in a job:.*fail_unforeseen.*no JSON"):
        list(jobs.run({"a": Job(fail_unforeseen)}, 1))


def test_a_signal_reaches_every_job_once(tmp_path):
    places = [(tmp_path / f"begun{i}", tmp_path / f"saved{i}") for i in range(2)]

    def stop() -> None:
        while not all(begun.exists() for begun, _ in places):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    grid = {f"training{i}": Job(partial(train, *place)) for i, place in enumerate(places)}
    with stopping.stop_requests():  # before the signal can come
        threading.Thread(target=stop, daemon=True).start()  # if no job begins, it waits for ever
        with pytest.raises(stopping.Interrupted):
            list(jobs.run(grid, 2))
    assert all(saved.exists() for _, saved in places)


def test_a_process_that_is_killed_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"process of a job was killed.*lower --jobs"):
        list(jobs.run({"a": Job(die)}, 2))
