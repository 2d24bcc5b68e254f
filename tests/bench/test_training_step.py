"""`tga bench aot`, `plan`, `train`, `report`: a training's step compiled, planned and timed, from the command line."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tga_jax import cli, config
from tga_jax.bench import aot, lengths, plan, prepared, report, targets, train
from tga_jax.errors import UserError
from tga_jax.train import flops
from tga_jax.train.chips import CHIPS
from tga_jax.train.config import PARTS, TrainConfig

ROOT = Path(__file__).parents[2]
SMALL = ("--config=configs/bench_small.py", "--config.batch_size=8", "--config.mesh.data=1", "--config.mesh.fsdp=8")


def tga(*arguments: str) -> subprocess.CompletedProcess:
    """A process of its own: JAX's environment is set before it is imported."""
    code = "import sys; from tga_jax import cli; sys.exit(cli.run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def small(**changed) -> TrainConfig:
    sys.path.append(str(ROOT))
    from configs import bench_small

    made = bench_small.get_config()
    made.update(changed)
    return config.build(TrainConfig, made)


# --- aot --------------------------------------------------------------------------------------------------------------


def test_aot_gathers_what_the_formula_says_and_nothing_else_of_size(tmp_path):
    target = tmp_path / "aot.json"
    done = tga("bench", "aot", *SMALL, "--target=8xcpu", f"--json={target}")
    assert done.returncode == 0, done.stderr
    found = json.loads(target.read_text())
    assert found["gathered"] == pytest.approx(found["gathered_formula"], rel=0.05)
    activations = sum(sums["activations"] for sums in found["collectives"].values())
    assert activations < 0.02 * found["gathered"] + 8 * 704 * 256 * 4 * 4  # embeddings' rows come from other devices
    assert found["warnings"] == []
    assert found["fits"] is None  # nothing is known of such a chip
    assert "parameters gathered" in done.stdout


def test_what_does_not_fit_is_one_line(monkeypatch):
    """As the TPU's compiler says it."""

    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM: 18G exceed 16G.\nMore")

    monkeypatch.setattr(prepared.Setup, "lower", lambda self: Lowered())
    made = small(batch_size=8, mesh={"data": 1, "fsdp": 1})
    with pytest.raises(UserError, match=r"^\S+ does not fit 1xcpu: Ran out of memory on HBM: 18G exceed 16G.$"):
        aot.compile_for(made, targets.parse("1xcpu"))


@pytest.mark.slow
def test_samples_that_share_rows_stay_on_their_devices(tmp_path):
    """What is taken from rows and put back crosses no device: no more activations are sent than without."""
    packed = ("--config.batch_size=16", "--config.data.pack=2", "--config.data.lengths=(1408,)")
    target = tmp_path / "aot.json"
    done = tga("bench", "aot", *SMALL, *packed, "--config.data.labels=(128,)", "--target=8xcpu", f"--json={target}")
    assert done.returncode == 0, done.stderr
    found = json.loads(target.read_text())
    assert found["rows"] == 8
    activations = sum(sums["activations"] for sums in found["collectives"].values())
    assert activations < 0.02 * found["gathered"] + 16 * 704 * 256 * 4 * 4  # embeddings' rows, as above
    assert found["warnings"] == []


@pytest.mark.parametrize("target", ["8xH200", pytest.param("v5e-8", marks=pytest.mark.slow)])
def test_aot_for_real_machines(target, tmp_path):
    file = f"--json={tmp_path / 'aot.json'}"
    done = tga("bench", "aot", *SMALL, "--config.dtype=bfloat16", f"--target={target}", file)
    if "install it" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "aot.json").read_text())
    assert found["fits"]
    assert found["gathered"] == pytest.approx(found["gathered_formula"], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "batch", "fsdp"), [("1xH200", 8, 1), ("8xH200", 64, 8), ("v5p-128", 512, 64), ("v5e-256", 1024, 256)]
)
def test_stage_2_of_a_7b_model_fits(target, batch, fsdp, tmp_path):
    """With Adam in float32, rows of 1280. Parameters are gathered; on GPUs gradients are summed and scattered at once,
    on TPUs each device still gets the whole sum, of which it keeps a part."""
    mesh = ("--config.mesh.data=1", f"--config.mesh.fsdp={fsdp}", f"--config.batch_size={batch}", "--config.remat=full")
    file = f"--json={tmp_path / 'aot.json'}"
    done = tga("bench", "aot", "--config=configs/mistral_7b.py:stage2", *mesh, f"--target={target}", file)
    if "install it" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "aot.json").read_text())
    assert found["fits"]
    assert found["warnings"] == []  # of "involuntary full rematerialization"
    if fsdp > 1:
        assert found["gathered"] == pytest.approx(found["gathered_formula"], rel=0.1)
        if target == "8xH200":
            assert found["collectives"]["all-reduce"]["parameters"] == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "--target: missing"),
        (("--target=3xV100",), "such as 8xH200"),
        (("--target=8xcpu", "--pictures=-1"), "expected at least 0"),
        (("--target=4xcpu",), "does not fit 4 device(s)"),
    ],
)
def test_aot_says_what_is_wrong(arguments, expected):
    done = tga("bench", "aot", *SMALL, *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_setup_says_what_does_not_fit():
    with pytest.raises(UserError, match=r"--length: 700, expected one of data\.lengths, 704"):
        prepared.prepare(small(), length=700)
    with pytest.raises(UserError, match=r"length 704: 2 picture\(s\) take 1152 tokens"):
        prepared.prepare(small(), pictures=2)


# --- plan -------------------------------------------------------------------------------------------------------------


def test_plan_from_the_command_line(tmp_path):
    target = tmp_path / "plan.json"
    done = tga("bench", "plan", *SMALL, "--target=8xH200", "--mfu=0.4", f"--json={target}")
    assert done.returncode == 0, done.stderr
    found = json.loads(target.read_text())
    seconds = found["model_tflop"] * 1e12 / (8 * 989e12 * 0.4)
    assert found["step_seconds"] == pytest.approx(seconds)
    assert found["hours"]["100 million"] == pytest.approx(1e8 / (8 / seconds) / 3600)
    assert found["gathered"] / 450e9 * 7 / 8 < found["sending_seconds"]
    assert "fits" in done.stdout


def test_plan_counts_every_byte_of_the_state():
    """On one chip: fp32 parameters, gradients and two moments of what trains, and what is frozen."""
    made = prepared.prepare(small())
    sizes = dict.fromkeys(PARTS, 0)
    for path, x in {**made.state.trainable, **made.state.frozen}.items():
        sizes[path.split("/")[0]] += x.size
    found = plan.make(small(), targets.Target("1xH200", CHIPS["H200"], 1), 0.5)
    trained = sizes["projector"] + sizes["llm"]
    assert found.gradients == 4 * trained
    assert found.parameters == pytest.approx(12 * trained + 4 * sizes["clip"], rel=1e-6)  # and counters
    assert found.gathered == found.reduced == found.sending_seconds == 0


PLANS = """
import dataclasses, json, sys
from tga_jax import config
from tga_jax.bench import plan, targets
from tga_jax.errors import UserError
from tga_jax.train.config import TrainConfig
from configs import bench_small

for name, mesh in json.loads(sys.argv[1]):
    made = bench_small.get_config()
    made.update({"batch_size": 32, "mesh": mesh})
    try:
        print(json.dumps(dataclasses.asdict(plan.make(config.build(TrainConfig, made), targets.parse(name), 0.5))))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def test_plan_of_machines_and_of_slices():
    """Parameters gathered within a machine or slice cost the network nothing; what crosses it, once for all devices."""
    asked = [
        ("8xH200", {"data": 1, "fsdp": 8}),
        ("32xH200", {"data": 4, "fsdp": 8, "num_slices": 4}),
        ("32xH200", {"data": 1, "fsdp": 32}),
        ("2xv5e-16", {"data": 4, "fsdp": 8, "num_slices": 2}),
        ("2xv5e-16", {"data": 4, "fsdp": 8}),
    ]
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=32", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PLANS, json.dumps(asked)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    within, by_data, by_fsdp, slices, refused = map(json.loads, done.stdout.splitlines())
    elements = by_data["gradients"] // 4
    assert within["between_slices"] == 0
    assert by_data["between_slices"] == pytest.approx(2 * 4 * elements * 3 / 4)  # an all-reduce among four
    moved = by_fsdp["gathered"] + by_fsdp["reduced"]
    assert by_fsdp["between_slices"] == pytest.approx(moved * 3 / 32)
    assert by_fsdp["sending_seconds"] == pytest.approx(moved * (28 / 32 / 450e9 + 3 / 32 / 50e9))
    assert slices["between_slices"] == pytest.approx(2 * 4 * elements / 4)  # half of the data axis in each
    assert refused == "mesh.num_slices: 1, expected 2 on 2xv5e-16"


def test_plan_knows_which_attention_writes_its_scores():
    """Of "xla" the whole square of scores is computed and, for a while, kept."""
    target = targets.Target("1xH200", CHIPS["H200"], 1)
    found = {a: plan.make(small(dtype="bfloat16", attention=a), target, 0.5) for a in ("auto", "cudnn", "xla")}
    assert found["auto"] == found["cudnn"]
    assert found["xla"].hardware_tflop > found["auto"].hardware_tflop
    assert found["xla"].activations - found["auto"].activations > 2 * 8 * 704 * 704 * 10
    assert found["xla"].model_tflop == found["auto"].model_tflop


def test_plan_needs_a_data_sheet():
    with pytest.raises(UserError, match="has no data sheet"):
        plan.make(small(), targets.parse("1xcpu"), 0.5)


# --- train ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_work_says_what_trains(stage):
    sys.path.append(str(ROOT))
    from configs import bench_small

    made = prepared.prepare(config.build(TrainConfig, bench_small.get_config(stage)))
    assert made.work.trains == ({"projector"} if stage == "stage1" else {"projector", "llm"})
    assert made.work.caption_blocks == 11
    assert made.work.blocks == 20


def test_the_contrastive_training_has_no_such_step():
    made = prepared.prepare(small())
    other = dataclasses.replace(made.config, loss=dataclasses.replace(made.config.loss, contrastive=1.0))
    with pytest.raises(UserError, match="trains CLIP"):
        dataclasses.replace(made, config=other).work  # noqa: B018


@pytest.mark.parametrize("labels", [(), (40,), (8,)])
@pytest.mark.parametrize("fill", [1.0, 0.9])
def test_random_rows_are_such_as_the_pipeline_makes(labels, fill):
    made = prepared.prepare(small(data={"labels": labels}))
    batch = train.random_batch(made, train.equal_samples(made, fill))
    like = jax.tree.map(lambda x: (x.shape, x.dtype), made.batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == like
    assert batch.valid.sum() == 2 * round(fill * 704)
    assert (batch.image_mask.sum(1) == 576).all()
    apart = np.stack([batch.targets, batch.image_mask, batch.retrieved_mask, ~batch.valid])
    assert apart.sum(0).max() == 1  # no position is two of them
    if labels:
        for places, targets_ in zip(batch.label_positions, batch.targets, strict=True):
            np.testing.assert_array_equal(places[places >= 0] + 1, np.flatnonzero(targets_))


def test_random_samples_share_rows_as_the_pipeline_has_it():
    made = prepared.prepare(
        small(batch_size=4, data={"pack": 2, "lengths": (1420, 1440), "labels": (64, 64)}), length=1420
    )
    drawn = lengths.Samples(np.array([720, 700, 60, 710]), np.array([True, True, False, True]))
    batch = train.random_batch(made, drawn)
    like = jax.tree.map(lambda x: (x.shape, x.dtype), made.batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == like
    assert (batch.rows >= 0).sum(1).tolist() == [1420, 770]
    assert (batch.image_mask.sum(1) == [576, 576, 0, 576]).all()
    assert (batch.label_positions >= 0).sum(1).max() <= 64
    with pytest.raises(UserError, match="--fill: 568 of 710 tokens, expected more than the 576"):
        train.equal_samples(made, 0.8)


def test_batches_of_drawn_lengths():
    """Those of the longest rows are in the least length that holds them; a window's samples are all there."""
    made = small(batch_size=4, data={"pack": 2, "lengths": (1408, 1536, 1664, 2560), "labels": ()})
    found = lengths.batches(made, 576, "llava", windows=2)
    assert len(found) == 32
    assert len({length for length, _ in found}) > 1
    for length, samples in found:
        rows = samples.lengths.reshape(2, 2).sum(1)
        assert length == min(n for n in made.data.lengths if n >= rows.max())
        assert samples.lengths.max() <= 1280


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--lengths=other",), "--lengths: 'other', expected one of llava"),
        (("--lengths=llava", "--fill=0.9"), "expected no --length, --fill, --peer"),
        (("--peer=strong", "--config.data.pack=2", "--config.data.lengths=(1408,)"), "data.pack is 2, expected 1"),
    ],
)
def test_drawn_lengths_alone(flags, said, capsys):
    assert cli.run(["bench", "train", "--config=configs/bench_small.py", *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_fill_that_leaves_no_text_is_said():
    with pytest.raises(UserError, match="--fill: 563 of 704 tokens, expected more than the 576"):
        train.equal_samples(prepared.prepare(small()), 0.8)


@pytest.mark.slow
def test_train_and_its_report(tmp_path, capsys, processes_have_torch):
    target = tmp_path / "train.json"
    flags = ("--config.batch_size=1", "--steps=3", "--warmup=1", "--peer=strong", "--pairs=1")
    assert cli.run(["bench", "train", "--config=configs/bench_small.py", *flags, f"--json={target}"]) == 0
    found = json.loads(target.read_text())
    step = flops.step(prepared.prepare(small(batch_size=1)).model, prepared.prepare(small(batch_size=1)).work)
    assert found["model_tflop"] == pytest.approx(step.model / 1e12)
    assert found["samples_per_second"] == pytest.approx(1 / np.median(found["steps"]))
    assert found["mfu"] is None
    assert np.isfinite(found["loss"])
    assert found["peer"]["ratios"] == [
        b / a for a, b in zip(found["peer"]["ours"], found["peer"]["theirs"], strict=True)
    ]
    capsys.readouterr()
    assert cli.run(["bench", "report", str(target)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| train | bench-small-stage2, 1 x 704, float32, remat none |")
    assert "x strong peer" in lines[2]


def test_report_of_what_it_does_not_know(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"bench": "other"}')
    with pytest.raises(UserError, match=r"x.json: a measurement 'other', expected one of peer, train"):
        report.table([file])
    file.write_text("{}")
    with pytest.raises(UserError, match="lacks bench"):
        report.table([file])
