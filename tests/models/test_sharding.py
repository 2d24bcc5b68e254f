"""Placement: the rules fit every preset, and a step on eight devices computes what one device computes."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from tga_jax.errors import UserError
from tga_jax.models import layers, llava, presets, sharding

EIGHT = """
import dataclasses, json, sys
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from flax.traverse_util import flatten_dict, unflatten_dict
from tga_jax.models import sharding
from tga_jax.train import optim, step
from tga_jax.data.batch import Batch
from tga_jax.guides import Instruction, Paper, Released, Tiled, Transport
from tga_jax.models import clip, layers, llama, llava, quantization

model = llava.LlavaConfig(
    clip=clip.ClipConfig(
        vision=clip.VisionConfig(8, 1, 2, 16, image_size=8, patch_size=4),
        text=clip.TextConfig(8, 1, 2, 16, vocab_size=40, context_length=12, eos_token_id=2),
        embed_size=8,
    ),
    llm=llama.LlamaConfig(40, 16, 3, 4, 2, 8, 24, 1e4, 1e-5, None, False),
    feature_layer=-1,
)
rng = np.random.default_rng(0)
stage, meshes = sys.argv[1], json.loads(sys.argv[2])
B, T, C = 16 if stage == "packed" else 8, 12, 5
place, valid = np.arange(T), np.arange(T) < rng.integers(9, T + 1, (B, 1))
image = ((place >= 3) & (place < 7)) & (np.arange(B) != 2)[:, None]
batch = Batch(
    tokens=rng.integers(0, 40, (B, T), dtype=np.int32),
    valid=valid,
    targets=valid & (place >= 8),
    image_mask=image,
    retrieved_mask=np.broadcast_to((place >= 1) & (place < 3), (B, T)),
    caption_tokens=rng.integers(0, 40, (B, C), dtype=np.int32),
    caption_mask=np.broadcast_to(np.arange(C) >= 1, (B, C)),
    images=rng.integers(0, 256, (B, 1, 8, 8, 3), dtype=np.uint8),
)
if stage == "packed":  # two samples a row
    lengths = valid.sum(1).reshape(-1, 2)
    rows = [np.concatenate([k * T + np.arange(n) for k, n in enumerate(row)]) for row in lengths]
    batch = batch._replace(rows=np.stack([np.pad(row, (0, 24 - len(row)), constant_values=-1) for row in rows]))
    batch = batch._replace(rows=batch.rows.astype(np.int32))
    model = dataclasses.replace(model, llm=dataclasses.replace(model.llm, attention="blocks"))
with_lora = stage == "lora" or stage in quantization.KINDS
trained = ("projector/.*", "llm/.*")
if stage == "stage1" or with_lora:
    trained = ("projector/.*", ".*_lora/.*")[:1 + with_lora]
if with_lora:
    lora = layers.LoraConfig(rank=3, alpha=6.0)
    model = dataclasses.replace(model, llm=dataclasses.replace(model.llm, lora=lora))
if stage == "mixed":  # blocks with a window and without, by turns; norms of whole queries, and behind the layers
    own = dict(sliding_window=3, window_pattern=(True, False), local_rope_theta=50.0, norms="sandwich", qk_norm=True)
    own |= dict(whole_qk_norm=True, scaled_embeddings=True, attention_cap=2.0, attention="blocks", remat="names")
    model = dataclasses.replace(model, llm=dataclasses.replace(model.llm, **own))
optimizer = optim.OptimConfig(
    1e-3, (*((pattern, 1.0) for pattern in trained), (".*", 0.0)), warmup=0.0, weight_decay=0.1,
    accumulate=2 if stage == "accumulate" else 1,
)
guide = {
    "paper": Paper(),
    "tiled": Tiled(layers=(1, 2), vocab_weight=0.5),
    "instruction": Instruction(layers=(0, 2)),
    "packed": Instruction(layers=(0, 2)),
    "transport": Transport(layers=(0, 2), masses="rarity"),
}.get(stage, Released(layers=(1, 2)))
loss = step.LossConfig(guide=guide, embedding_noise=0.0 if stage == "accumulate" else 1.0)
params = jax.jit(lambda: llava.init(model, jax.random.key(0)))()
first = flatten_dict(params, sep="/")
if stage in quantization.KINDS:
    frozen = {p: quantization.quantize(p, x, stage) for p, x in first.items() if quantization.applies(p)}
    assert len(frozen) == 7
    params = unflatten_dict(first | frozen, sep="/")
report = {"devices": jax.device_count(), "meshes": []}
whole = None
for sizes in (None, *meshes):
    if sizes is None:
        mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
        one = dataclasses.replace(optimizer, accumulate=1)
    else:
        # Slices lie as two machines would: a mesh's first half is one of them.
        mesh, one = sharding.make_mesh(*sizes, num_slices=2 if sizes[0] == 2 else 1), optimizer
    state = step.init_state(jax.tree.map(jnp.copy, params), one, 4)
    run = partial(step.train_step, model, loss, one, 4)
    if sizes is None:
        run, placed = jax.jit(run), batch
    else:
        placement = sharding.shardings(state, mesh)
        state = jax.device_put(state, placement)
        run, placed = jax.jit(run, out_shardings=(placement, None)), sharding.place_batch(batch, mesh)
        report["batch"] = str(placed.tokens.sharding.spec)
    history = []
    with jax.set_mesh(mesh):
        for _ in range(3):
            state, metrics = run(state, placed, jax.random.key(1))
            history.append({k: float(v) for k, v in metrics.items()})
    if sizes == [2, 2, 2]:
        moments = state.opt_state[1].mu
        report["specs"] = {
            p: str(jax.tree.leaves(v)[0].sharding.spec) for p, v in {**state.trainable, **state.frozen}.items()
        }
        report["moments"] = {p: str(v.sharding.spec) for p, v in moments.items()}
        report["shards"] = {p: (v.shape, v.addressable_shards[0].data.shape) for p, v in state.trainable.items()}
    found = jax.tree.map(np.asarray, state.trainable), history
    if whole is None:
        whole = found
        report["moved"] = max(float(np.max(np.abs(found[0][p] - first[p]))) for p in found[0])
        continue
    pairs = list(zip(whole[1], history, strict=True))
    apart = ("cos_mismatched",) if stage == "accumulate" else ()  # it compares rows of one part
    report["meshes"].append({
        "sizes": sizes,
        "params": max(float(np.max(np.abs(whole[0][p] - x))) for p, x in found[0].items()),
        "metrics": max(abs(a[k] - b[k]) / max(1.0, abs(a[k])) for a, b in pairs for k in a if k not in apart),
        "losses": [b["loss"] for _, b in pairs],
    })
print(json.dumps(report))
"""

MESHES = [(a, b, 8 // a // b) for a in (1, 2, 4, 8) for b in (1, 2, 4, 8) if a * b <= 8]
SOME = [(2, 2, 2), (1, 8, 1)]


def run_eight(stage: str, meshes: list[tuple[int, int, int]]) -> dict:
    """Three steps on each mesh (data, fsdp, tensor) of eight devices, and on one device."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-c", EIGHT, stage, json.dumps(meshes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["devices"] == 8
    assert [tuple(found["sizes"]) for found in report["meshes"]] == meshes
    return report


@pytest.fixture(scope="module")
def eight() -> dict:
    return run_eight("stage2", SOME)


def assert_the_same(report: dict) -> None:
    assert report["moved"] > 1e-3
    for found in report["meshes"]:
        assert found["params"] < 1e-5, found
        assert found["metrics"] < 1e-5, found


def test_eight_devices_compute_what_one_computes(eight):
    assert_the_same(eight)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["lora", "accumulate", "mixed"])
def test_so_do_they_with_lora_and_accumulation_and_blocks_of_two_kinds(stage):
    assert_the_same(run_eight(stage, SOME[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["int8", "int4", "nf4"])
def test_so_do_they_with_quantized_kernels(stage):
    report = run_eight(stage, SOME)
    assert_the_same(report)
    assert report["specs"]["llm/blocks/down/kernel"] == str(P(None, "tensor", "fsdp"))


@pytest.mark.slow
def test_so_do_they_with_samples_that_share_rows():
    assert_the_same(run_eight("packed", SOME))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage1", "stage2", "lora", "paper", "tiled", "instruction", "transport"])
def test_every_mesh_of_eight_computes_what_one_computes(stage):
    assert len(MESHES) == 10
    assert_the_same(run_eight(stage, MESHES))


def test_parameters_and_moments_really_lie_apart(eight):
    expected = {
        "llm/blocks/query/kernel": P(None, "fsdp", "tensor", None, None),
        "llm/blocks/key/kernel": P(None, "fsdp", "tensor", None),
        "llm/blocks/down/kernel": P(None, "tensor", "fsdp"),
        "llm/lm_head/kernel": P("fsdp", "tensor"),
        "llm/embed/embedding": P(None, "fsdp"),
        "projector/linear_1/kernel": P("fsdp", None),
    }
    for name, spec in expected.items():
        assert eight["specs"][name] == str(spec), name
        assert eight["moments"][name] == str(spec), name
    whole, part = eight["shards"]["llm/blocks/query/kernel"]
    assert np.prod(whole) == 4 * np.prod(part)
    assert "fsdp" in eight["specs"]["clip/vision/blocks/query/kernel"]
    assert eight["batch"] == str(P(("data", "fsdp")))


@pytest.mark.parametrize("name", presets.LLAVA)
def test_every_preset_has_fitting_rules(name):
    """Every spec divides its array, and on a mesh of 8 all but small parameters are split."""
    params = jax.eval_shape(lambda: llava.init(presets.get(name), jax.random.key(0)))
    mesh = AbstractMesh((2, 2, 2), sharding.AXES)
    found = flatten_dict(sharding.shardings(params, mesh), sep="/")
    arrays = flatten_dict(params, sep="/")
    whole = 0
    for path, x in arrays.items():
        spec = found[path].spec
        assert len(spec) <= x.ndim, path
        for axis, size in zip(spec, x.shape, strict=False):
            assert axis is None or size % mesh.shape[axis] == 0, path
        if all(axis is None for axis in spec):
            whole += x.size
            # Norms, biases, and CLIP's small tables only.
            assert not ("blocks" in path and path.endswith("kernel")), path
            assert not path.startswith(("llm/embed", "llm/lm_head")), path
    total = sum(x.size for x in arrays.values())
    assert whole < (0.02 if total > 1e9 else 0.2) * total


def test_no_rule_is_there_for_nothing():
    lora = layers.LoraConfig(2, 4.0)
    models = [presets.get(name) for name in presets.LLAVA]
    models += [dataclasses.replace(m, llm=dataclasses.replace(m.llm, lora=lora)) for m in models[:1]]
    paths = {
        path
        for model in models
        for path in flatten_dict(jax.eval_shape(lambda m=model: llava.init(m, jax.random.key(0))), sep="/")
    }
    used = {next(pattern for pattern, _ in sharding.RULES if re.fullmatch(pattern, path)) for path in paths}
    assert used == {pattern for pattern, _ in sharding.RULES}


def test_a_parameter_without_a_rule_is_named():
    tree = {"llm": {"router": {"kernel": jax.ShapeDtypeStruct((3, 3), np.float32)}}}
    with pytest.raises(UserError, match="llm/router/kernel: no rule"):
        sharding.shardings(tree, AbstractMesh((1, 2, 2), sharding.AXES))


def test_axes_that_do_not_divide_are_dropped():
    tree = {"llm": {"blocks": {"key": {"kernel": jax.ShapeDtypeStruct((3, 16, 1, 8), np.float32)}}}}
    mesh = AbstractMesh((1, 2, 2), sharding.AXES)
    assert sharding.shardings(tree, mesh)["llm"]["blocks"]["key"]["kernel"].spec == P(None, "fsdp", None, None)


@pytest.mark.parametrize("sizes", [{"tensor": 3}, {"data": -1, "fsdp": -1}, {"data": 0}, {"fsdp": 0}, {"tensor": -2}])
def test_a_mesh_that_does_not_fit_is_refused(sizes, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [None] * 8)
    with pytest.raises(UserError, match=r"mesh: data=.* does not fit 8 device"):
        sharding.make_mesh(**sizes)


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of a device that is not there."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "gpu"
    device_kind: str = "made up"


def test_slices_divide_the_data_axis_as_jax_divides_it():
    devices = [Device(i, i // 8, i // 4) for i in range(24)]
    mesh = sharding.make_mesh(-1, 2, 2, num_slices=3, devices=devices[::-1])
    assert dict(mesh.shape) == {"data": 6, "fsdp": 2, "tensor": 2}
    hybrid = mesh_utils.create_hybrid_device_mesh((2, 2, 2), (3, 1, 1), devices[::-1])
    assert (mesh.devices == hybrid).all()
    assert [{d.slice_index for d in mesh.devices[i : i + 2].flat} for i in (0, 2, 4)] == [{0}, {1}, {2}]


@pytest.mark.parametrize(
    ("sizes", "platform", "said"),
    [
        ({"data": 3, "fsdp": 8, "num_slices": 2}, "gpu", "mesh: data=3, expected a multiple of num_slices=2"),
        ({"num_slices": 0}, "gpu", "mesh: data=24, expected a multiple of num_slices=0"),
        ({}, "tpu", "mesh.num_slices: 1, expected the TPU's number of slices, 3"),
        ({"num_slices": 2}, "tpu", "mesh.num_slices: 2, expected the TPU's number of slices, 3"),
    ],
)
def test_slices_that_do_not_fit_are_refused(sizes, platform, said):
    devices = [Device(i, i // 8, platform=platform) for i in range(24)]
    with pytest.raises(UserError) as raised:
        sharding.make_mesh(**sizes, devices=devices)
    assert str(raised.value) == said


def test_machines_with_gpus_need_no_slices():
    devices = [Device(i, i // 8) for i in range(16)]
    mesh = sharding.make_mesh(1, -1, 1, devices=devices)
    assert [d.id for d in mesh.devices.flat] == list(range(16))


def test_the_free_axis_takes_what_the_others_leave():
    mesh = sharding.make_mesh()
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1, "tensor": 1}
