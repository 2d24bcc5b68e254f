"""What `tga doctor` finds, and what it calls wrong."""

import importlib.metadata
import json
from pathlib import Path

import jax
import pytest

from tga_jax import cli
from tga_jax.bench import doctor


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(doctor.train, "matmul_rate", lambda dtype: 1.5e12)
    monkeypatch.setattr(doctor.decode, "read_bandwidth", lambda: 2e10)


def found() -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.findings()}


def test_this_environment_is_well(tmp_path, capsys):
    assert cli.run(["doctor", f"--json={tmp_path / 'found.json'}"]) == 0
    out = capsys.readouterr().out
    assert out.rstrip().endswith("all is well")
    assert len(out.splitlines()) < 25
    written = {f["what"]: f["found"] for f in json.loads((tmp_path / "found.json").read_text())["findings"]}
    assert f"jax {jax.__version__}" in written["packages"]
    assert written["matrix product"] == "1.5 TFLOP/s in float32, one device"
    assert written["memory read"] == "20 GB/s"


def test_a_package_outside_its_range_would_fail(monkeypatch, capsys):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "optax" else real(name))
    assert "optax 0.1, expected >=" in found()["packages"].wrong
    assert cli.run(["doctor"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "would fail: optax 0.1, expected >=" in out
    assert out.endswith("1 would fail")


def test_a_missing_package_would_fail(monkeypatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "grain":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "grain missing, expected >=" in found()["packages"].wrong


@pytest.mark.parametrize(("device", "extra"), [("nvidia0", "cuda13"), ("accel0", "tpu")])
def test_a_device_that_jax_does_not_see(monkeypatch, device, extra):
    monkeypatch.setattr(Path, "exists", lambda self: self.name == device)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [self / device] if pattern[:5] == device[:5] else [])
    assert found()["devices"].wrong.endswith(f"JAX does not see it: bash launch/local.sh install {extra}")


def test_fusions_that_miscompile(monkeypatch):
    monkeypatch.setattr(doctor.xla_flags, "is_broken", lambda jaxlib: True)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")
    assert found()["XLA's CPU fusions"].wrong == ""
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=-reduce")
    assert "miscompiles" in found()["XLA's CPU fusions"].wrong
    monkeypatch.setattr(doctor.xla_flags, "is_broken", lambda jaxlib: False)
    assert "XLA's CPU fusions" not in found()
    monkeypatch.setattr(doctor, "_miscompiles", lambda: True)  # a jaxlib of which nothing is known
    assert "sums come out wrong" in found()["XLA's CPU fusions"].wrong


def test_too_little_room(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1e9}))
    assert found()["disk, in this folder"] == doctor.Finding(
        "disk, in this folder", "1 GB free", "expected at least 2 GB"
    )


def test_missing_extras_are_named(monkeypatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("gradio", "openai"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    extras = found()["extras that are not installed"]
    assert "serve (the web page and the API), judge (judges at an endpoint)" in extras.found
    assert extras.wrong == ""
