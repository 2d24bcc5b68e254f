"""The one command for a machine with an H200: what fails or takes too long costs no other part its figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tga_jax" / "bench" / "peers"))
sys.path.insert(0, str(Path(__file__).parent))

import h200
import test_train_peer


@pytest.mark.slow  # two benches, each in a process of its own
def test_parts_are_limited_one_by_one(tmp_path, monkeypatch, capsys, processes_have_torch):
    small = ["--model=clip-emoji", "--dtype=bf16", "--batch=2", "--repeats=2"]
    shape = json.dumps(test_train_peer.SHAPE)
    peer = [sys.executable, str(h200.HERE / "train.py"), "--mode", "strong", "--shape", shape]

    def broken() -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no GPU here')"]

    parts = {
        "broken": (broken, 600),
        "slow": (lambda: [sys.executable, "-c", "print('begun')"], 1),
        "vision": (lambda: [*h200.TGA, "vision", *small], 600),
        "peer-strong": (lambda: peer, 600),
    }

    def run(*arguments, timeout=None, run_without_limit=subprocess.run, **options):
        """As if the part with a limit of a second took longer than that, and no other part longer than its own."""
        done = run_without_limit(*arguments, **options)
        if timeout == 1:
            raise subprocess.TimeoutExpired(done.args, timeout)
        return done

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(h200, "parts", lambda: parts)
    monkeypatch.setattr(h200, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["h200.py", "--minutes=100"])
    h200.main()
    out = capsys.readouterr().out
    assert "broken: failed, see broken.log" in out
    assert "slow: stopped after 1 s" in out
    assert (tmp_path / "broken.log").read_text() == "no GPU here\n"
    assert (tmp_path / "slow.log").read_text() == "begun\n"
    assert json.loads((tmp_path / "vision.json").read_text())["pictures_per_second"] > 0
    timed = json.loads((tmp_path / "peer-strong.json").read_text())
    assert len(timed["steps"]) == 10
    assert timed["samples_per_second"] == pytest.approx(2 / timed["median"])
    summary = (tmp_path / "summary.md").read_text()
    assert "| vision | clip-emoji, batch 2, bfloat16 |" in summary
    assert "| peer | strong |" in summary


def test_the_peers_step_is_the_one_that_is_timed(monkeypatch):
    command = h200.peer("default", "stage1", 32)
    shape = json.loads(command[-1])
    assert command[-4:-1] == ["--mode", "default", "--shape"]
    assert (shape["batch"], shape["length"], shape["trains_llm"]) == (32, 1280, False)


def test_its_parts_leave_room_in_ten_minutes():
    """Of those that matter most: the limits are what a part may take, not what it does."""
    limits = [limit for _, limit in h200.parts().values()]
    assert sum(limits[:5]) <= 9 * 60
