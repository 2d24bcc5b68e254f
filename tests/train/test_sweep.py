"""`tga sweep`: which trainings it makes, what it does when one fails or is stopped, and its table."""

import dataclasses
import io
import json
import signal
from pathlib import Path

import pytest
import rich.console
import train_support
from ml_collections import ConfigDict

from tga_jax import cli
from tga_jax.checkpoints import orbax_files
from tga_jax.cli import trainings
from tga_jax.errors import UserError
from tga_jax.models import presets
from tga_jax.train import loop, stopping, sweep

FIELDS = """
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({fields!r})
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """data/, and config.py: the training of `train_support.config`, with two steps."""
    train_support.write_data(tmp_path / "data")
    fields = dataclasses.asdict(train_support.config(tmp_path / "data", steps=2))
    fields["data"]["source"]["own"]["kind"], fields["loss"]["guide"]["kind"] = "llava", "released"
    ConfigDict(fields)  # as the file will make it
    (tmp_path / "config.py").write_text(FIELDS.format(fields=fields))
    monkeypatch.setattr(presets, "get", lambda name, vocab_size: train_support.model())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def made(monkeypatch) -> list[tuple[str, int, float]]:
    """(folder, seed, learning rate) of trainings that are not made: each leaves what its last steps would."""
    calls = []

    def train(config, workdir, console, *, verbose):
        calls.append((str(workdir), config.seed, config.optim.learning_rate))
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text("{}")
        if config.optim.learning_rate > 1 and config.seed == 1:
            raise UserError("loss is nan at step 3")
        lines = [{"step": i, "loss": 100.0, "speed/waiting": 1.0} for i in range(18)]
        lines += [{"step": 18 + i, "loss": config.seed + i, "speed/waiting": 1.0} for i in range(2)]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(loop, "run", train)
    return calls


def call(*arguments: str) -> int:
    return cli.run(["sweep", "--config=config.py", "--workdir=w", *arguments])


def test_each_is_what_train_makes_and_a_second_call_makes_none(place, capsys, monkeypatch):
    assert call("--vary.seed=3,4") == 0
    said = capsys.readouterr().out
    assert "training 2 of 2: seed=4" in said
    for seed in (3, 4):
        folder = Path("w") / f"seed={seed}"
        assert orbax_files.has_params(folder)
        assert json.loads((folder / "config.json").read_text())["seed"] == seed
    runs = json.loads(Path("w/sweep.json").read_text())["runs"]
    losses = [[json.loads(line)["loss"] for line in (Path("w") / r["name"] / "metrics.jsonl").open()] for r in runs]
    assert [r["metrics"]["loss"] for r in runs] == [loss[-1] for loss in losses]
    assert runs[0]["metrics"] != runs[1]["metrics"]
    monkeypatch.setattr(loop, "_steps", None)
    before = Path("w/sweep.json").read_bytes()
    assert call("--vary.seed=3,4") == 0
    assert capsys.readouterr().out.count("nothing left to do") == 2
    assert Path("w/sweep.json").read_bytes() == before


def test_all_combinations_in_a_table_over_seeds(place, made, capsys):
    assert call("--config.steps=7", "--vary.optim.learning_rate=1e-2,1e-3", "--vary.seed", "0,2,4") == 0
    rates = [rate for rate in ("1e-2", "1e-3") for _ in range(3)]
    expected = [(f"w/optim.learning_rate={r},seed={s}", s, float(r)) for r, s in zip(rates, [0, 2, 4] * 2, strict=True)]
    assert made == expected
    said = capsys.readouterr().out
    assert "speed" not in said
    # The last two of twenty lines: means of 0.5, 2.5 and 4.5.
    for rate in ("1e-2", "1e-3"):
        assert f" {rate}" in said
    assert said.count("2.5 (0.5 to 4.5)") == 2
    found = json.loads(Path("w/sweep.json").read_text())
    assert found["vary"] == {"optim.learning_rate": ["1e-2", "1e-3"], "seed": ["0", "2", "4"]}
    assert found["runs"][-1]["metrics"] == {"loss": 4.5}


def test_one_that_fails_on_the_way_leaves_the_others(place, made, capsys):
    assert call("--vary.optim.learning_rate=5.0,0.1", "--vary.seed=0,1") == 1
    said = capsys.readouterr()
    assert "failed: loss is nan at step 3" in said.out
    assert "1 of 2" in said.out
    assert said.err == "tga sweep: 1 of 4 trainings failed: optim.learning_rate=5.0,seed=1\n"
    assert [run.get("failed") for run in json.loads(Path("w/sweep.json").read_text())["runs"]] == [
        None, "loss is nan at step 3", None, None,
    ]  # fmt: skip


@pytest.mark.asks_the_hub
def test_one_that_fails_before_it_begins_ends_all(place, capsys):
    assert call("--config.data.tokenizer=nowhere", "--vary.seed=0,1") == 2
    assert "nowhere" in capsys.readouterr().err
    assert not Path("w").exists()


@pytest.mark.parametrize(("preempted", "status"), [(True, 0), (False, 130)])
def test_a_stop_ends_all_and_the_same_command_continues(place, made, monkeypatch, capsys, preempted, status):
    train = loop.run

    def stopped(config, *rest, **how):
        if config.seed == 1:
            raise stopping.Interrupted("stopped at step 1 of tiny; the same command continues there", preempted)
        train(config, *rest, **how)

    monkeypatch.setattr(loop, "run", stopped)
    assert call("--vary.seed=0,1,2") == status
    assert "stopped at step 1" in capsys.readouterr().err
    assert [folder for folder, *_ in made] == ["w/seed=0"]
    monkeypatch.setattr(loop, "run", train)
    assert call("--vary.seed=0,1,2") == 0
    assert Path("w/sweep.json").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--vary: missing, expected a field and its values"),
        (["--vary.seed="], "--vary.seed: '', expected values such as 0,1,2"),
        (["--vary.seed=0,,1"], "--vary.seed: '0,,1', expected values"),
        (["--vary.seed=0,0"], "--vary.seed: '0,0' has a value twice"),
        (["--vary.seed=0", "--vary.seed=1"], "--vary.seed: is there twice"),
        (["--vary.nonsense=1"], "'nonsense'"),
        (["--vary.steps=1,x"], "x"),
        (["--vary.loss.guide.kind=square"], "kind: 'square'"),
        (["--vary.name=a/b,a?b"], "two combinations have the same folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_varied_is_one_line(place, made, capsys, arguments, said):
    assert call(*arguments) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not made


def test_commas_in_brackets_belong_to_the_value():
    assert trainings._values("(0,1), (2,[3,4]),5") == ["(0,1)", "(2,[3,4])", "5"]
    assert sweep.name({"loss.guide.layers": "(0, 1)", "seed": "2"}) == "loss.guide.layers=-0,-1-,seed=2"


def test_a_table_of_seeds_alone_has_one_line():
    runs = [{"values": {"seed": str(s)}, "metrics": {"loss": s, "grad": 1}} for s in (1, 3)]
    console = rich.console.Console(file=io.StringIO(), width=80)
    console.print(sweep.table([*runs, {"values": {"seed": "5"}, "failed": "x"}]))
    assert "2 of 3" in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "2 (1 to 3)" in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
