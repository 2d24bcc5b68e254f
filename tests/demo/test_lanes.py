"""Several parts of a demo at once: results, errors and signals."""

import os
import signal
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tga_jax.checkpoints import orbax_files
from tga_jax.demo import lanes
from tga_jax.errors import UserError
from tga_jax.train import stopping

SOON = 60.0  # seconds that a thread waits for another before the test fails


def test_results_come_by_name_and_jobs_run_at_once():
    """Each waits for the other one, so that one after the other would end in a time-out."""
    meeting = threading.Barrier(2)
    jobs = {name: lambda name=name: (meeting.wait(SOON), name.upper())[1] for name in ("a", "b")}
    assert lanes.run(jobs, 2) == {"a": "A", "b": "B"}
    assert lanes.run({}, 2) == {}


def test_one_lane_runs_jobs_in_their_order():
    order = []
    lanes.run({name: lambda name=name: order.append(name) for name in "cab"}, 1)
    assert order == ["c", "a", "b"]


def training(stopped: list[str], name: str, begun: threading.Barrier) -> None:
    """As `loop.run` does: until somebody asks to stop."""
    with stopping.stop_requests() as received:
        begun.wait(SOON)
        never = threading.Event()
        for _ in range(int(SOON / 0.01)):
            if received:
                stopped.append(name)
                raise stopping.Interrupted(f"stopped {name}", received[0] == signal.SIGTERM)
            never.wait(0.01)
    raise AssertionError("was never asked to stop")


def test_an_error_stops_the_others_and_is_raised():
    stopped, begun, started = [], threading.Barrier(2), []

    def fails() -> None:
        begun.wait(SOON)
        raise UserError("loss is nan")

    jobs = {"a": lambda: training(stopped, "a", begun), "b": fails, "c": lambda: started.append("c")}
    with pytest.raises(UserError, match="loss is nan"):
        lanes.run(jobs, 2)
    assert stopped == ["a"]
    assert not started
    with stopping.stop_requests() as received:  # nothing is left of it
        assert received == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_trainings_in_all_lanes(number):
    stopped, begun, started = [], threading.Barrier(3), []
    jobs = {name: partial(training, stopped, name, begun) for name in ("a", "b")}
    jobs["c"] = partial(started.append, "c")

    def send():
        begun.wait(SOON)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    before = signal.getsignal(number)
    sender.start()
    with pytest.raises(stopping.Interrupted) as raised:
        lanes.run(jobs, 2)
    sender.join()
    assert raised.value.preempted == (number == signal.SIGTERM)
    assert sorted(stopped) == ["a", "b"]
    assert not started
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(
    ("platforms", "cores", "wanted"),
    [
        (["cpu"], 1, 2),
        (["cpu"], 2, 3),
        (["cpu"], 64, 3),
        (["cpu"], None, 2),
        (["cpu"] * 8, 8, 1),
        (["gpu"], 8, 1),
        (["tpu"] * 4, 8, 1),
    ],
)
def test_lanes_are_for_one_cpu(platforms, cores, wanted, monkeypatch):
    class Device:
        def __init__(self, platform: str):
            self.platform = platform

    monkeypatch.setattr(jax, "devices", lambda: [Device(platform) for platform in platforms])
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert lanes.count() == wanted


def test_parameters_are_saved_and_read_in_several_lanes_at_once(tmp_path):
    """Orbax alone confuses the saves of two threads."""

    def save_and_read(number: int) -> list[np.ndarray]:
        folder, params = (
            tmp_path / str(number),
            {"llm": {f"w{i}": jnp.full((3, 5), 10.0 * number + i) for i in range(9)}},
        )
        orbax_files.save_params(folder, params)
        return jax.tree.leaves(orbax_files.load_params(folder, "llm", params["llm"]))

    found = lanes.run({str(n): partial(save_and_read, n) for n in range(12)}, 3)
    for number in range(12):
        for i, value in enumerate(found[str(number)]):
            np.testing.assert_array_equal(value, np.full((3, 5), 10.0 * number + i, np.float32))
