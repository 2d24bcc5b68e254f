"""The training's peer in torch: its three ways compute the same step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PEER = Path(__file__).parents[2] / "tga_jax" / "bench" / "peers" / "train.py"
SHAPE = {
    "llm": {
        "vocab_size": 50,
        "hidden_size": 24,
        "num_layers": 4,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "mlp_size": 40,
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-5,
        "tie_embeddings": False,
    },
    "vision": {
        "hidden_size": 16,
        "mlp_size": 32,
        "num_layers": 3,
        "num_heads": 2,
        "image_size": 12,
        "patch_size": 4,
    },
    "feature_layer": -2,
    "batch": 2,
    "length": 33,
    "caption": 7,
    "labels": 5,
    "guide_layers": (1, 3),
    "trains_llm": True,
    "dtype": "float32",
    "remat": False,
}

pytestmark = pytest.mark.usefixtures("processes_have_torch")


def loss(mode: str, **changed) -> float:
    """Of the third step, after two updates."""
    command = [sys.executable, PEER, "--mode", mode, "--shape", json.dumps({**SHAPE, **changed})]
    done = subprocess.run(command, input="\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ready, seconds = done.stdout.splitlines()
    assert float(seconds) > 0
    return float(ready.removeprefix("ready, loss "))


@pytest.mark.slow
def test_its_three_ways_compute_the_same():
    strong, default, faithful = (loss(mode) for mode in ("strong", "default", "faithful"))
    assert default == pytest.approx(strong, rel=1e-5)
    assert faithful == pytest.approx(strong, rel=1e-5)
    assert loss("strong", guide_layers=(2,)) != pytest.approx(strong, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed", [{"trains_llm": False}, {"remat": True}, {"dtype": "bfloat16", "labels": None}], ids=str
)
def test_other_steps(changed):
    assert loss("strong", **changed) == pytest.approx(loss("default", **changed), rel=0.02)
