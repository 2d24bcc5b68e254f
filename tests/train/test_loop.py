"""Whole trainings on a tiny model: stopped, killed, resumed, repeated, and everything that can go wrong on the way."""

import dataclasses
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import train_support
from flax.traverse_util import flatten_dict

from tga_jax.checkpoints import orbax_files
from tga_jax.data import pipeline, sources
from tga_jax.errors import UserError
from tga_jax.guides import Instruction, Paper, Released, Tiled
from tga_jax.models import llava, presets, sharding
from tga_jax.train import flops, loop, setup, step, stopping
from tga_jax.train.config import MeshConfig, TrainConfig
from tga_jax.train.optim import OptimConfig


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(presets.LLAVA, "tiny", train_support.model)
    monkeypatch.setattr(sharding, "place_batch", sharding.place_batch)  # restored after each test


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "samples"
    train_support.write_data(folder)
    return folder


def run(config: TrainConfig, workdir: Path) -> None:
    loop.run(config, workdir, rich.console.Console(file=io.StringIO()))


def lines(workdir: Path) -> list[dict]:
    """The metrics, without how fast it was."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("speed/", "memory/"))} for line in found]


def steps_kept(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def assert_same_run(workdir: Path, other: Path, config: TrainConfig) -> None:
    """Bit for bit: parameters and metrics."""
    assert lines(workdir) == lines(other)
    one, two = train_support.trained(workdir, config), train_support.trained(other, config)
    assert one.keys() == two.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], two[path], err_msg=path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data) -> Path:
    """The work folder of a training that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.LLAVA, "tiny", train_support.model)
        run(train_support.config(data), workdir)
    return workdir


def test_a_training_leaves_metrics_and_the_parts_it_trained(whole, data):
    config = train_support.config(data)
    found = lines(whole)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    expected = {"loss", "lm", "accuracy", "guide", "cos_image_caption", "cos_mismatched", "grad_norm"}
    assert all(line.keys() >= expected for line in found)
    assert all(np.isfinite(value) for line in found for value in line.values())
    params = train_support.trained(whole, config)
    assert {path.split("/")[0] for path in params} == {"projector", "llm"}
    model = presets.get("tiny", sources.vocabulary(config.data).size)
    before = flatten_dict(jax.jit(lambda: llava.init(model, jax.random.key(config.seed)))(), sep="/")
    assert all(np.any(value != before[path]) for path, value in params.items())
    assert any((whole / "tensorboard").iterdir())


def test_its_rate_is_that_of_the_flops_of_its_batches(whole, data):
    config = train_support.config(data)
    model = setup.make_model(config, sources.vocabulary(config.data).size)
    mesh = setup.make_mesh(config, jax.devices()[:1])
    state = setup.abstract_state(config, model, mesh)
    possible = []
    for bucket in range(len(config.data.lengths)):
        for pictures in (0, 1):
            batch = setup.abstract_batch(config, model, mesh, bucket, pictures)
            work = setup.work(config, model, state, batch)
            assert work is not None
            possible.append(flops.step(model, work).model)
    found = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    for line in found[1:]:
        counted = line["speed/tflop_per_second"] * 1e12 * line["speed/seconds_per_step"]
        assert any(counted == pytest.approx(value) for value in possible)


def test_one_program_is_compiled_for_every_shape_of_a_batch(data, tmp_path, monkeypatch):
    """Rows of two lengths, and of text alone: the second run may trace the step once for each shape of the first."""
    config = train_support.config(data, steps=16, log_every=16, checkpoint_every=16)
    lengths = sorted({len(row.tokens) for row in train_support.rows(config)})
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, lengths=(lengths[-2], lengths[-1])))
    shapes = []
    place = sharding.place_batch

    def placed(batch, mesh):
        shapes.append(tuple(np.shape(x) for x in batch))
        return place(batch, mesh)

    monkeypatch.setattr(sharding, "place_batch", placed)
    run(config, tmp_path / "first")
    assert len({tokens for tokens, *_ in shapes}) == 2
    assert len(shapes) == 16 > 2 * len(set(shapes))
    chex.clear_trace_counter()
    monkeypatch.setattr(step, "train_step", chex.assert_max_traces(step.train_step, len(set(shapes))))
    run(config, tmp_path / "second")


def test_the_same_config_again_returns_at_once(whole, data, monkeypatch):
    def not_reached(*_):
        raise AssertionError("the training began again")

    monkeypatch.setattr(sources, "vocabulary", not_reached)
    run(train_support.config(data), whole)


def test_another_config_is_refused_by_field(whole, data):
    config = train_support.config(data)
    with pytest.raises(UserError, match=r"config\.batch_size is 2 there and 3 now"):
        run(dataclasses.replace(config, batch_size=3), whole)
    other = dataclasses.replace(config, loss=step.LossConfig(guide=Released(layers=(1, 2), pair_weight=0.5)))
    with pytest.raises(UserError, match=r"config\.loss\.(embedding_noise|guide\.pair_weight) is"):
        run(other, whole)


def replaced(data: Path, place: Path) -> tuple[TrainConfig, dict]:
    """(a training on a copy of the data, for each of its inputs what puts something else in its place)."""
    data = Path(shutil.copytree(data, place))
    samples = (data / "samples.json").read_text()

    def other_weights():
        orbax_files.save_params(data / "clip", {"clip": jax.tree.map(lambda x: x + 1, like["clip"])})

    config = train_support.config(data)
    model = presets.get("tiny", sources.vocabulary(config.data).size)
    like = jax.jit(lambda: llava.init(model, jax.random.key(5)))()
    orbax_files.save_params(data / "clip", {"clip": like["clip"]})
    config = dataclasses.replace(config, init={**config.init, "clip": str(data / "clip")})
    return config, {
        "data.source.own.path": lambda: (data / "samples.json").write_text(samples.replace("cat", "dog")),
        "data.source.own.images": lambda: shutil.copy(data / "images" / "1.png", data / "images" / "2.png"),
        "data.tokenizer": lambda: (data / "tokenizer" / "tokenizer_config.json").write_text("{}"),
        "init.clip": other_weights,
    }


def test_a_training_does_not_go_on_with_replaced_inputs(data, tmp_path):
    place, workdir = tmp_path / "data", tmp_path / "run"
    config, changes = replaced(data, place)
    train_support.at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(stopping.Interrupted):
        run(config, workdir)
    before = (workdir / "metrics.jsonl").read_text()
    shutil.copytree(place, tmp_path / "kept")
    for field, change in changes.items():
        change()
        said = rf"^{workdir}: {field}, {place}.*, is not what this run began with: .*; put that back, or choose another"
        with pytest.raises(UserError, match=said + " --workdir; to go on with it all the same, remove `inputs` from"):
            run(config, workdir)
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "kept", place)
    assert (workdir / "metrics.jsonl").read_text() == before
    assert steps_kept(workdir) == [2]
    run(config, workdir)
    assert orbax_files.has_params(workdir)


def test_a_finished_training_says_so_too_and_data_that_are_gone_are_no_matter(data, tmp_path):
    config, changes = replaced(data, tmp_path / "data")
    run(config, tmp_path / "run")
    run(config, tmp_path / "run")
    changes["data.source.own.path"]()
    with pytest.raises(UserError, match=r"data.source.own.path, .*samples.json, is not what this run began with: "):
        run(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "data")
    run(config, tmp_path / "run")


def test_inputs_may_be_moved(whole, data, tmp_path):
    moved = Path(shutil.copytree(data, tmp_path / "elsewhere"))
    train_support.at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(stopping.Interrupted):
        run(train_support.config(data), tmp_path / "run")
    run(train_support.config(moved), tmp_path / "run")
    assert_same_run(tmp_path / "run", whole, train_support.config(moved))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["tokenizer"] == str(moved / "tokenizer")
    other = dataclasses.replace(train_support.config(moved), name="other")
    with pytest.raises(UserError, match=r"holds another run: config.name is \"tiny\" there and \"other\" now; choose"):
        run(other, tmp_path / "run")


def test_a_preset_that_was_changed_is_found(data, tmp_path, monkeypatch):
    """Shapes would fit, and the training would go on with another base of the rotary embedding."""
    train_support.at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(stopping.Interrupted):
        run(train_support.config(data), tmp_path / "run")
    old = train_support.model()
    changed = dataclasses.replace(old, llm=dataclasses.replace(old.llm, rope_theta=1e6))
    monkeypatch.setitem(presets.LLAVA, "tiny", lambda: changed)
    said = r"config.architecture.model.llm.rope_theta is 10000.0 there and 1000000.0 now; choose another --workdir"
    with pytest.raises(UserError, match=said):
        run(train_support.config(data), tmp_path / "run")


STOPS = [
    (2, signal.SIGINT),
    pytest.param(3, signal.SIGTERM, marks=pytest.mark.slow),  # with a checkpoint that was due anyway
    pytest.param(4, signal.SIGINT, marks=pytest.mark.slow),  # in the last step
]


@pytest.mark.parametrize(("number", "which"), STOPS)
def test_a_stopped_training_continues_bit_for_bit(whole, data, tmp_path, number, which):
    config, workdir = train_support.config(data), tmp_path / "run"
    before = signal.getsignal(which)
    train_support.at_step(number, lambda: os.kill(os.getpid(), which))
    with pytest.raises(stopping.Interrupted, match=f"step {number} of tiny"):
        run(config, workdir)
    assert signal.getsignal(which) is before
    assert steps_kept(workdir)[-1] == number
    assert [line["step"] for line in lines(workdir)] == list(range(1, number + 1))
    assert not orbax_files.has_params(workdir)
    run(config, workdir)
    assert_same_run(workdir, whole, config)


@pytest.mark.slow
def test_so_does_one_whose_samples_share_rows(data, tmp_path):
    plain = train_support.config(data, steps=3, checkpoint_every=100)
    config = dataclasses.replace(plain, data=dataclasses.replace(plain.data, lengths=(48, 60, 80), pack=2))
    run(config, tmp_path / "whole")
    train_support.at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(stopping.Interrupted):
        run(config, tmp_path / "run")
    run(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole", config)
    assert all(line["padding"] < 0.3 for line in lines(tmp_path / "run"))


@pytest.mark.parametrize("within_a_save", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_killed_training_continues_bit_for_bit(whole, data, tmp_path, within_a_save):
    """Killed after, or while, step 3's checkpoint is written; half-written params and metrics lie about as well."""
    config, workdir = train_support.config(data), tmp_path / "run"
    command = [sys.executable, train_support.__file__, str(data), str(workdir), "3", str(int(not within_a_save))]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
    kept = steps_kept(workdir)
    assert kept in ([1, 2], [1, 2, 3], [2, 3]) if within_a_save else kept == [2, 3]
    (workdir / "params" / "llm").mkdir(parents=True)
    assert not orbax_files.has_params(workdir)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 9.0}\n{"step": 5, "lo')
    run(config, workdir)
    assert_same_run(workdir, whole, config)


def spoil(monkeypatch, name: str, at: int) -> None:
    """Makes the metric `name` NaN at step `at`."""
    original = step.train_step

    def train_step(*args):
        state, metrics = original(*args)
        return state, {**metrics, name: jnp.where(state.step == at, jnp.nan, metrics[name])}

    monkeypatch.setattr(step, "train_step", train_step)


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_nan_ends_the_training_and_keeps_the_checkpoints(data, tmp_path, monkeypatch, name):
    config, workdir = train_support.config(data, checkpoint_every=1), tmp_path / "run"
    spoil(monkeypatch, name, 3)
    with pytest.raises(UserError, match=f"{name} is nan at step 3; the checkpoint of step 2 is kept"):
        run(config, workdir)
    assert steps_kept(workdir) == [1, 2]
    assert [line["step"] for line in lines(workdir)] == [1, 2]
    assert not orbax_files.has_params(workdir)


def test_a_nan_is_found_between_checkpoints_too(data, tmp_path, monkeypatch):
    spoil(monkeypatch, "loss", 1)
    with pytest.raises(UserError, match="loss is nan at step 1; no checkpoint was written yet"):
        run(train_support.config(data, checkpoint_every=100), tmp_path / "run")


def test_a_learning_rate_far_too_high_is_named(data, tmp_path):
    optimizer = dataclasses.replace(train_support.config(data).optim, learning_rate=1e30)
    with pytest.raises(UserError, match=r"is (nan|inf) at step \d.*lower optim.learning_rate"):
        run(train_support.config(data, optim=optimizer), tmp_path / "run")


def test_a_full_disk_is_named_and_the_training_continues_after_it(whole, data, tmp_path, monkeypatch):
    config, workdir = train_support.config(data), tmp_path / "run"
    manager = orbax_files.ocp.CheckpointManager
    original = manager.save

    def save(self, number, *args, **kwargs):
        if number == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, number, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(manager, "save", save)
        with pytest.raises(UserError, match="checkpoints: no space left"):
            run(config, workdir)
    assert steps_kept(workdir) == [3]
    run(config, workdir)
    assert_same_run(workdir, whole, config)


def test_a_damaged_checkpoint_is_named(whole, data, tmp_path):
    config, workdir = train_support.config(data), tmp_path / "run"
    train_support.at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(stopping.Interrupted):
        run(config, workdir)
    folder = workdir / "checkpoints" / "2"
    for path in (folder / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match=f"{folder}: cannot be restored"):
        run(config, workdir)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": "huge"}, "model: unknown preset 'huge'"),
        ({"init": {"clip": "", "projector": "/nowhere", "llm": ""}}, "/nowhere/params/projector: no such folder"),
        (
            {"loss": step.LossConfig(guide=Released(layers=(1, 4)))},
            r"loss.guide.layers: \(1, 4\), expected at most 3",
        ),
        ({"mesh": MeshConfig(tensor=16)}, "mesh: data=-1 fsdp=1 tensor=16 does not fit"),
        ({"optim": OptimConfig(1e-3, ((r"llm/.*", 1.0),))}, "no pattern covers parameter 'clip/"),
        ({"optim": OptimConfig(1e-3, ((r".*", 1.0),), decay="never")}, "optim.decay: 'never'"),
    ],
)
def test_a_bad_config_is_a_user_error(data, tmp_path, fields, named):
    with pytest.raises(UserError, match=named):
        run(train_support.config(data, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()  # so that the corrected config finds no other run there


def test_bad_data_is_a_user_error(data, tmp_path):
    good = train_support.config(data).data
    source = good.source["own"]
    for fields, named in (
        ({"tokenizer": str(tmp_path / "none")}, "none: no tokenizer that transformers can read"),
        ({"lengths": (12,)}, "tokens, expected at most 12"),
        ({"caption_length": 2}, "caption of 6 tokens, expected under 2"),
        ({"source": {"own": dataclasses.replace(source, images=str(tmp_path))}}, "has no file"),
        ({"source": {"own": dataclasses.replace(source, images="")}}, "expected data.source.images"),
        ({"source": {"own": dataclasses.replace(source, path="none.json")}}, "none.json: cannot be read"),
    ):
        config = train_support.config(data, data=dataclasses.replace(good, **fields))
        with pytest.raises(UserError, match=named):
            run(config, tmp_path / next(iter(fields)))


def test_a_guide_without_captions_to_act_on_is_a_user_error(data, tmp_path, capsys):
    samples = json.loads((data / "samples.json").read_text())
    for sample in samples:
        sample.pop("image_caption", None)
    (tmp_path / "bare.json").write_text(json.dumps(samples))
    config = train_support.config(data)
    source = dataclasses.replace(config.data.source["own"], path=str(tmp_path / "bare.json"))
    bare = dataclasses.replace(config, data=dataclasses.replace(config.data, source={"own": source}))
    for guide in (Released(layers=(1, 2)), Paper(), Tiled(), Instruction()):
        guided = dataclasses.replace(bare, loss=step.LossConfig(guide=guide))
        with pytest.raises(UserError, match=r"^loss.guide: acts on none of the 8 samples of the training, expected"):
            run(guided, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(dataclasses.replace(bare, loss=step.LossConfig()), tmp_path / "unguided")


def test_the_samples_counted_are_those_that_the_training_reads(data):
    """Sixteen batches are sorted by length together and permuted: the first batch is not the first records."""
    config = train_support.config(data, steps=1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, lengths=(30, 40)))
    records = sources.records(config.data, sources.Pictures(8), config.seed)
    made = pipeline.Batches(records, sources.vocabulary(config.data), config.data.shape(4), 2, config.seed)
    batch = made[0]
    pairs = int((batch.image_mask.any(1) & batch.caption_mask.any(1)).sum())
    assert pairs
    assert f"of the first 2 samples the guide acts on: pairs {pairs}, " in setup.guided(config, made, print)


def test_the_first_lines_say_on_how_many_samples_the_guide_acts(data, tmp_path, capsys):
    """Four steps of two: of the file's seven samples one is text alone and one has no R."""
    loop.run(train_support.config(data), tmp_path / "run", verbose=True)
    out = capsys.readouterr().out.splitlines()
    assert f"config: {tmp_path / 'run' / 'config.json'}" in out
    assert "compiling the first step ..." in out
    ended = f"{tmp_path / 'run' / 'params'}; next: tga convert --from-run={tmp_path / 'run'} --to=DIR, a checkpoint"
    assert any(line.startswith(f"trained: {ended}") for line in out)
    loop.run(train_support.config(data), tmp_path / "run", verbose=True)
    assert capsys.readouterr().out.startswith(f"nothing left to do: {ended}")
    said = [line for line in out if "the guide acts on:" in line]
    made = sources.records(train_support.config(data).data, sources.Pictures(8), 3)
    read = [made[i] for i in range(8)]
    pairs = sum(bool(r.images and r.caption) for r in read)
    hinges = sum(bool(r.images and r.caption and r.retrieved_in_prompt) for r in read)
    assert 0 < hinges <= pairs < 8
    assert said == [f"of the first 8 samples the guide acts on: pairs {pairs}, hinges {hinges}"]


def test_a_later_training_starts_from_the_parts_of_an_earlier_one(whole, data, tmp_path):
    """At learning rate 0 nothing moves, so what is saved is what was loaded."""
    init = {"clip": "", "projector": str(whole), "llm": str(whole)}
    optimizer = dataclasses.replace(train_support.config(data).optim, learning_rate=0.0)
    config = train_support.config(data, init=init, optim=optimizer, steps=1)
    run(config, tmp_path / "next")
    one, two = train_support.trained(whole, config), train_support.trained(tmp_path / "next", config)
    for path in one:
        np.testing.assert_array_equal(one[path], two[path], err_msg=path)
