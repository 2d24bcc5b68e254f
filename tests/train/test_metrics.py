"""How fast a training is said to be, and Weights & Biases where it is not installed."""

import sys
from types import SimpleNamespace

import pytest

from tga_jax.errors import UserError
from tga_jax.train import chips, metrics


def test_rates_leave_the_first_step_out(monkeypatch):
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now.value)
    speed = metrics.Speed(batch_size=8)
    assert "speed/samples_per_second" not in speed.read()
    now.value += 60  # it compiled
    speed.step(1e9)
    for tokens in (30.0, 50.0):
        with speed.waiting():
            now.value += 0.5
        now.value += 1.5
        speed.step(tokens)
    found = {name: value for name, value in speed.read().items() if name.startswith("speed/")}
    assert found == {
        "speed/seconds_per_step": 2.0,
        "speed/samples_per_second": 4.0,
        "speed/tokens_per_second": 20.0,
        "speed/waiting": 0.25,
    }
    assert not [name for name in speed.read() if name.startswith("speed/")]


@pytest.mark.parametrize("peak", [None, 40e12])
def test_flops_are_of_the_steps_and_the_peak_of_all_devices(monkeypatch, peak):
    now = SimpleNamespace(value=0.0)
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now.value)
    speed = metrics.Speed(1, peak)
    speed.step(1.0, 7e12)
    for flops in (10e12, 30e12):  # of batches of two lengths
        now.value += 2
        speed.step(1.0, flops)
    found = speed.read()
    assert found["speed/tflop_per_second"] == 10.0
    assert found.get("speed/mfu") == (None if peak is None else 0.25)


def test_the_peak_is_known_of_known_chips_alone():
    known, other = (SimpleNamespace(device_kind=kind) for kind in ("NVIDIA H200", "cpu"))
    assert chips.peak([known] * 8) == 8 * 989e12
    assert chips.peak([known, other]) is None


def test_wandb_is_asked_for_and_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb: is not installed, expected `pip install wandb`"):
        metrics.MetricsWriter(tmp_path, 0, wandb="project")
    assert not any(tmp_path.iterdir())


def test_wandb_gets_what_is_written(tmp_path, monkeypatch):
    said = []
    run = SimpleNamespace(log=lambda values, step: said.append((step, values)), finish=lambda: said.append("end"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **how: said.append(how["project"]) or run))
    writer = metrics.MetricsWriter(tmp_path, 0, "name", "project", {"seed": 1})
    writer.write(3, {"loss": 0.5})
    writer.close()
    assert said == ["project", (3, {"loss": 0.5}), "end"]
