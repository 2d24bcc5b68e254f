"""Straight to the mesh, and a tensor at a time: what a load needs beside the model itself."""

import json
import os
import subprocess
import sys

import hub_support
import pytest

EIGHT = """
import sys, jax, numpy as np
import tga_jax
from tga_jax.models import sharding
assert jax.device_count() == 8
mesh = sharding.make_mesh(data=1, fsdp=2, tensor=4)
alone = tga_jax.load(sys.argv[1], "float32")
for stacked in (True, False):
    placed = tga_jax.load(sys.argv[1], "float32", mesh, stacked=stacked)
    like = tga_jax.load(sys.argv[1], "float32", stacked=stacked)
    jax.tree.map(np.testing.assert_array_equal, placed.params, like.params)
    blocks = placed.params["llm"]["blocks"]
    gate = blocks["gate"]["kernel"] if stacked else blocks["2"]["gate"]["kernel"]
    print(gate.shape, gate.addressable_shards[0].data.shape, gate.sharding.spec)
placed_bits, bits = (tga_jax.load(sys.argv[1], "int8", m).params for m in (mesh, None))
jax.tree.map(np.testing.assert_array_equal, placed_bits, bits)
gate = placed_bits["llm"]["blocks"]["2"]["gate"]["kernel"].qvalue
print(gate.dtype, gate.shape, gate.addressable_shards[0].data.shape)
ids = np.array([[1, 5, 6, 7, 8]])
with jax.default_matmul_precision("highest"):
    np.testing.assert_allclose(placed.forward(ids).logits, alone.forward(ids).logits, rtol=1e-4, atol=1e-5)
"""


def test_each_parameter_lies_where_the_rules_put_it(tmp_path):
    folder = hub_support.save(hub_support.model("llava"), tmp_path / "hub")
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", EIGHT, folder], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    stacked, separate, bits = done.stdout.splitlines()[-3:]
    assert stacked.startswith("(3, 24, 40) (3, 12, 10)")
    assert separate.startswith("(24, 40) (12, 10)")
    assert bits == "int8 (24, 40) (12, 10)"


MEMORY = """
import json, resource, sys
import jax, numpy as np
import ml_dtypes
from pathlib import Path
from tga_jax.models import llama
from tga_jax.checkpoints import convert, folder
from tga_jax.checkpoints.spec import Spec

layers, width = int(sys.argv[2]), 1024
config = llama.LlamaConfig(2000, width, layers, 8, 8, 128, 4 * width, 1e4, 1e-5, None, False, "bfloat16")
model = Spec(kind="llm", config=config, family="llama")
path = Path(sys.argv[1])
like = jax.tree.map(lambda s: np.lib.stride_tricks.as_strided(
    np.ones(1, ml_dtypes.bfloat16), s.shape, (0,) * len(s.shape)), convert.shapes(model))
if not any(path.iterdir()):
    convert.write_safetensors(path, convert.hub_tensors(model, like), 2**27)
size = sum(x.size * 2 for x in jax.tree.leaves(like))
del like
jax.devices()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
if sys.argv[3] != "write":
    params = convert.load(model, folder.tensors(path), "here", "bfloat16", stacked=sys.argv[3] == "stacked")
    jax.block_until_ready(params)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"size": size, "before": before, "peak": peak}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["stacked", "separate"])
def test_memory_beyond_the_model_does_not_grow_with_it(tmp_path, layout):
    """Shapes of a 7B model's proportions: twice the layers, the same memory beside the parameters."""
    beside = {}
    for layers in (16, 32):
        target = tmp_path / str(layers)
        target.mkdir()
        found = {}
        for mode in ("write", layout):
            command = [sys.executable, "-c", MEMORY, target, str(layers), mode]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
            found = json.loads(done.stdout.splitlines()[-1])
        beside[layers] = found["peak"] - found["before"] - found["size"]
    print({layers: f"{size / 2**20:.0f} MiB" for layers, size in beside.items()})
    assert found["size"] > 8e8
    assert beside[32] < beside[16] + 2**27
    assert beside[32] < 2**29
