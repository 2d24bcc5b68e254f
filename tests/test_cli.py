"""The command line: what it does for good arguments, and one line and status 2 for each kind of bad ones."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tga_jax import cli, config
from tga_jax.cli import bench as cli_bench
from tga_jax.cli import checkpoints as cli_checkpoints
from tga_jax.cli import data as cli_data
from tga_jax.cli import evaluation as cli_evaluation
from tga_jax.cli import trainings as cli_trainings
from tga_jax.cli.flags import parse_with_config, training
from tga_jax.demo import main as demo
from tga_jax.demo.config import DemoConfig
from tga_jax.errors import UserError
from tga_jax.train import loop, stopping
from tga_jax.train.config import TrainConfig
from tga_jax.workdir import claim

ROOT = Path(__file__).parents[1]
OWN_DATA = f"--config={ROOT / 'configs' / 'own_data.py'}"


TEXT_ROW = {"id": "1", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
ASKED = ("--checkpoint=a", "--data=b", "--to=c")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Another folder than the repository's, in which nothing may appear unless a command is meant to write it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> int:
    try:
        return cli.run(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)


def refused(capsys, *arguments: str) -> str:
    """The one line on stderr of a command that ends with status 2 and prints nothing else."""
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1, captured.err
    assert len(captured.err) < 400
    return captured.err


def write_config(path: Path, body: str) -> str:
    path.write_text(f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    {body}\n")
    return f"--config={path}"


# --- usage ------------------------------------------------------------------------------------------------------------


def test_without_arguments_usage_and_status_2(capsys):
    assert call() == 2
    out = capsys.readouterr().out
    assert out.startswith("usage: tga COMMAND")
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert max(map(len, out.splitlines())) < 80


@pytest.mark.parametrize("arguments", [["help"], ["--help"], ["-h"], ["help", "nothing"]])
def test_help(capsys, arguments):
    assert call(*arguments) == 0
    assert capsys.readouterr().out.startswith("usage: tga COMMAND")


@pytest.mark.parametrize("arguments", [["demo", "--help"], ["-h", "demo"], ["help", "demo"], ["demo", "--quick", "-h"]])
def test_help_of_one_command(capsys, arguments):
    assert call(*arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: tga demo [flags]")
    assert "--pictures-to=DIR" in out
    assert "--config.data" not in out
    assert out.endswith("for example:\n  tga demo --quick\n")


@pytest.mark.parametrize("arguments", [["help", "bench", "aot"], ["bench", "aot", "--help"]])
def test_help_of_one_measurement(capsys, arguments):
    assert call(*arguments) == 0
    out = capsys.readouterr().out
    assert "bench aot: " in out
    assert "bench plan: " not in out


def test_help_of_all(capsys):
    assert call("help", "all") == 0
    out = capsys.readouterr().out
    assert all(flag in out for flag in ("--pictures-to=DIR", "--target=T", "--near-duplicate=C"))


def test_every_command_has_an_example():
    assert cli.EXAMPLES.keys() == cli.COMMANDS.keys()
    assert all(example.split()[0] == name for name, example in cli.EXAMPLES.items())


def test_unknown_command(capsys):
    line = refused(capsys, "frobnicate")
    assert "'frobnicate'" in line
    assert "demo, reproduce, train" in line


def test_the_installed_program_in_a_process_of_its_own(elsewhere):
    """Here, once, the whole way: the real argv, stderr and exit status."""
    run = subprocess.run(
        [sys.executable, "-c", "from tga_jax.cli import main; main()", "demo", "--config.nonsense=1"],
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env=dict(os.environ),
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.count("\n") == 1
    assert "'nonsense'" in run.stderr
    assert "Traceback" not in run.stderr


# --- flags and config files -------------------------------------------------------------------------------------------


@pytest.mark.asks_the_hub
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["demo", "--config.nonsense=1"], "'nonsense'"),
        (["demo", "--config.clip.stepz=1"], "'stepz'"),
        (["demo", "--config.rows.tga_released.guide.pair_wieght=1"], "'pair_wieght'"),
        (["demo", "--config.rows.other.guide.pair_weight=1"], "'other'"),
        (["train", OWN_DATA, "--workdir=w", "--config.nonsense=1"], "'nonsense'"),
        (["train", OWN_DATA, "--workdir=w", "--config.data.nonsense=1"], "'nonsense'"),
        (["demo", "--config.clip.steps=many"], "--config.clip.steps=many"),
        (["demo", "--config.clip.steps=1.5"], "--config.clip.steps=1.5"),
        (["demo", "--config.clip=3"], "--config.clip=3"),
        (["demo", "--config.seed"], "--config.seed"),
        (["demo", "--config=nowhere.py"], "nowhere.py"),
        (["train", "--config=nowhere.py", "--workdir=w"], "nowhere.py"),
        (["demo", "--config=."], "'.'"),
        (["demo", "--nonsense=1"], "'nonsense'"),
        (["demo", "nonsense"], "'nonsense'"),
        (["train", "--workdir=w"], "--config: missing"),
        (["train", OWN_DATA], "--workdir: missing"),
        (["train", OWN_DATA, "--workdir="], "--workdir: missing"),
        (["train", OWN_DATA, "--workdir=w", "--config.loss.guide.kind=square"], "kind: 'square'"),
        (["demo", "--config.rows.tga.guide.decay=square"], "guide.decay: 'square'"),
        (["train", OWN_DATA, "--workdir=w", "--config.data.tokenizer=none.json"], "none.json"),
    ],
)
def test_a_bad_argument_is_named_in_one_line(capsys, arguments, named):
    line = refused(capsys, *arguments)
    assert line.startswith(f"tga {arguments[0]}: ")
    assert named in line


def test_a_typing_error_gets_a_suggestion(capsys):
    assert '"pair_weight"' in refused(capsys, "demo", "--config.rows.tga_released.guide.pair_wieght=1")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return ConfigDict({'seed': seed})", "NameError: name 'seed' is not defined"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("raise ValueError('first line\\nlast line')", "last line"),
        ("return (", "SyntaxError"),
        ("return 3", "'int' object"),
        ("return None", "--config: missing"),
    ],
)
@pytest.mark.parametrize("command", [["demo"], ["train", "--workdir=w"]])
def test_a_config_file_with_an_error_of_its_own(capsys, elsewhere, command, body, said):
    flag = write_config(elsewhere / "mine.py", body)
    line = refused(capsys, *command, flag)
    assert said in line
    assert "Traceback" not in line
    assert [p.name for p in elsewhere.iterdir() if p.name != "__pycache__"] == ["mine.py"]


def test_a_config_file_that_lacks_or_adds_fields(capsys, elsewhere):
    flag = write_config(elsewhere / "mine.py", "return ConfigDict({'name': 'x', 'seed': 0})")
    assert "model" in refused(capsys, "demo", flag)
    flag = write_config(elsewhere / "more.py", "return ConfigDict({'name': 'x', 'sede': 0})")
    assert "unknown field sede" in refused(capsys, "demo", flag)


# --- what a command gets ----------------------------------------------------------------------------------------------


@pytest.fixture
def demo_calls(monkeypatch):
    calls = []
    monkeypatch.setattr(demo, "run", lambda *arguments: calls.append(arguments))
    return calls


def test_demo_takes_the_default_config_and_changed_fields(monkeypatch, demo_calls):
    assert call("demo") == 0
    assert call("demo", "--config.seed=3", "--config.rows.tga.guide.weight=1", "--parts=p") == 0
    (default, folder, parts, _), (changed, other, other_parts, _) = demo_calls
    assert isinstance(default, DemoConfig)
    assert (default.name, default.seed, parts) == ("emoji", 0, Path("runs/parts").absolute())
    assert (changed.seed, changed.rows["tga"].guide.weight, other_parts) == (3, 1.0, Path("p").absolute())
    assert isinstance(changed.rows["tga"].guide.weight, float)
    assert folder != other
    assert other.name.startswith("emoji-seed3-")
    assert call("demo", "--workdir=w", "--config.rows.tga.guide.layers=(1, 2)") == 0
    assert demo_calls[-1][1] == Path("w")
    assert demo_calls[-1][0].rows["tga"].guide.layers == (1, 2)


def test_a_forked_config_file_may_have_fields_that_the_default_has_not(monkeypatch, demo_calls, elsewhere):
    source = (ROOT / "configs" / "emoji.py").read_text()
    (elsewhere / "mine.py").write_text(source.replace('"tga": {', '"mine": {'))
    assert call("demo", "--config=mine.py", "--config.rows.mine.guide.weight=0.5") == 0
    assert set(demo_calls[0][0].rows) == {"base", "tga_paper", "tga_released", "mine"}
    assert demo_calls[0][0].rows["mine"].guide.weight == 0.5


def test_a_stopped_command_says_so_and_ends_with_130(monkeypatch, capsys):
    def stop(*_):
        raise stopping.Interrupted("stopped at step 3 of clip; the same command continues there", False)

    monkeypatch.setattr(demo, "run", stop)
    assert call("demo") == 130
    assert capsys.readouterr().err == "tga demo: stopped at step 3 of clip; the same command continues there\n"


def test_own_data_config_builds(monkeypatch):
    calls = []
    monkeypatch.setattr(loop, "run", lambda built, workdir, verbose: calls.append((built, workdir)))
    assert call("train", OWN_DATA, "--workdir=w", "--config.data.source.own.path=x.json") == 0
    built, workdir = calls[0]
    assert isinstance(built, TrainConfig)
    assert (built.data.source["own"].path, workdir) == ("x.json", Path("w"))
    assert isinstance(built.loss.guide.layers, tuple)


def test_fields_that_a_config_file_leaves_out_can_be_changed(elsewhere, capsys):
    """Those with a default or of one value, also in a part that the file leaves out, beside those it has."""
    changes = [
        *("--config.wandb=project", "--config.keep", "5", "--config.lora.rank=4", "--config.lora.alpha=8"),
        *("--config.optim.b2=0.9", "--config.steps=7", "--config.seed=3"),
    ]
    for file in ([OWN_DATA], OWN_DATA.split("=")):
        values, flags = parse_with_config([*file, *changes, "--workdir=w"], {"workdir": ""}, None, training)
        built = config.build(TrainConfig, values)
        assert (built.wandb, built.keep, built.steps, built.seed, flags.workdir) == ("project", 5, 7, 3, "w")
        assert (built.lora.rank, built.lora.alpha, built.optim.b2) == (4, 8.0, 0.9)  # pyright: ignore
        assert built.optim.learning_rate == 2e-2
    call("train", OWN_DATA, "--workdir=w")
    before = capsys.readouterr().err
    for change, said in (
        ("--config.keep=x", "--config.keep=x"),
        ("--config.wamdb=x", "unknown field 'wamdb'"),
        ("--config.lora.nonsense=1", "unknown field"),
        ("--config.keep=0", "keep: 0, expected at least 1"),
        ("--config.lora.rank=4", "alpha"),
    ):
        line = refused(capsys, "train", OWN_DATA, "--workdir=w", change)
        assert said in line
        assert line != before


def started(*arguments: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-c", "from tga_jax.cli import main; main()", *arguments]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


@pytest.mark.parametrize("arguments", [("help",), ("evaluate", "--list"), ("validate-data", "rows.jsonl")])
def test_a_reader_that_goes_away_is_no_error(elsewhere, arguments):
    (elsewhere / "rows.jsonl").write_text(json.dumps(TEXT_ROW) + "\n")
    with started(*arguments) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() != 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize(("arguments", "status"), [("evaluate --list", 0), ("validate-data none.jsonl", 2)])
def test_a_stream_that_is_closed_from_the_start_is_no_error(elsewhere, closed, arguments, status):
    program = f"{sys.executable} -c 'from tga_jax.cli import main; main()' {arguments}"
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(["sh", "-c", f"{program} {closed}"], env=env, capture_output=True, text=True)
    assert done.returncode == status
    assert "Traceback" not in done.stdout + done.stderr


def test_a_console_of_another_encoding_gets_what_it_can_show(elsewhere):
    (elsewhere / "絵.jsonl").write_text(json.dumps({**TEXT_ROW, "id": "é漢"}) + "\n" + json.dumps({"id": "漢"}) + "\n")
    with started("validate-data", "絵.jsonl", PYTHONIOENCODING="cp1252") as process:
        out, error = process.communicate()
    assert error == b""
    assert process.returncode == 1
    assert "?.jsonl: line 2: sample '?' has nothing as `conversations`" in out.decode("cp1252")


def number_flags() -> list[tuple[tuple[str, ...], str, type]]:
    """(command, flag, type) of every flag of every command whose default is a number."""
    found = []

    def recorded(place: tuple[str, ...], command, monkeypatch: pytest.MonkeyPatch) -> None:
        def note(_, defaults, *rest, **__):
            others = rest[0] if rest and isinstance(rest[0], dict) else {}
            found.extend((place, n, type(d)) for n, d in {**defaults, **others}.items() if type(d) in (int, float))
            raise UserError("noted")

        for module in (cli_bench, cli_checkpoints, cli_data, cli_evaluation, cli_trainings):
            for name in ("parse", "parse_counts", "parse_with_config"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, note)
        with pytest.raises(UserError, match="noted"):
            command([])

    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, command in cli.COMMANDS.items():
            if name != "bench" and name != "report":
                recorded((name,), command, monkeypatch)
        for name, command in cli_bench._BENCHES.items():
            if name != "report":
                recorded(("bench", name), command, monkeypatch)
    return found


@pytest.mark.parametrize(
    ("place", "flag", "kind"), number_flags(), ids=lambda x: " ".join(x) if type(x) is tuple else None
)
def test_a_number_that_no_flag_of_its_name_may_be_is_named(capsys, place, flag, kind):
    with_config = [OWN_DATA] if place[1:] in (("train",), ("aot",), ("plan",)) else []
    for value in (-7, "nan") if kind is float else (-7,):
        line = refused(capsys, *place, *with_config, f"--{flag}={value}")
        assert f"--{flag}: {value}" in line
        assert "expected" in line


# --- a workdir that holds another run ---------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def test_demo_leaves_another_runs_workdir_as_it_is(monkeypatch, capsys, elsewhere):
    # A first run that is stopped as soon as it has taken its folder.
    monkeypatch.setattr(demo, "open_world", lambda *_: None)
    monkeypatch.setattr(demo, "_train_and_measure", lambda *_: sys.exit(0))
    assert call("demo", "--workdir=w") == 0
    capsys.readouterr()
    (elsewhere / "w" / "results.json").write_text("{}")
    before = contents(elsewhere)
    steps = json.loads(before["w/config.json"][0])["clip"]["steps"]
    line = refused(capsys, "demo", "--workdir=w", "--config.clip.steps=7")
    assert f"config.clip.steps is {steps} there and 7 now" in line
    assert "--workdir" in line
    assert contents(elsewhere) == before


def test_train_leaves_another_runs_workdir_as_it_is(monkeypatch, capsys, elsewhere):
    calls = []
    with monkeypatch.context() as patched:
        patched.setattr(loop, "run", lambda built, workdir, verbose: calls.append((built, workdir)))
        assert call("train", OWN_DATA, "--workdir=w") == 0
    claim(calls[0][1], dataclasses.asdict(calls[0][0]))
    before = contents(elsewhere)
    line = refused(capsys, "train", OWN_DATA, "--workdir=w", "--config.loss.guide.weight=0.5")
    assert "config.loss.guide.weight is 1.0 there and 0.5 now" in line
    assert contents(elsewhere) == before


def test_a_config_found_wrong_leaves_no_folder(capsys, elsewhere):
    assert "tokenizer" in refused(capsys, "train", OWN_DATA, "--workdir=w")
    for field, named in (
        ("rows.tga.stages.stage2.trains=clip", "stage.trains: 'clip', expected one of projector, projector_and_llm"),
        ("rows.tga.stages.stage2.task=sing", "stage.task: 'sing', expected one of caption, asked, visual"),
        ("clip.optimizer=sgd", "optimizer: 'sgd', expected one of adam, muon"),
        ("rows.tga.stages.stage2.guided=none", "stage.guided: 'none', expected one of all, benign"),
    ):
        assert named in refused(capsys, "demo", "--workdir=w", f"--config.{field}")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("place", ["thesis.txt", "thesis.txt/below"])
def test_a_file_in_a_folders_place_is_left_alone(capsys, elsewhere, place):
    (elsewhere / "thesis.txt").write_text("mine")
    (elsewhere / "rows.jsonl").write_text(
        '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}'
    )
    for command in (
        ["demo", f"--workdir={place}"],
        ["demo", "--workdir=w", f"--parts={place}"],
        ["train", OWN_DATA, f"--workdir={place}"],
        ["build-data", "rows.jsonl", f"--to={place}"],
        ["validate-data", "rows.jsonl", f"--json={place}/report.json"],
        ["validate-data", "rows.jsonl", f"--histogram={place}/report.png"],
    ):
        assert call(*command) == 2
        line = capsys.readouterr().err
        assert "thesis.txt" in line
        assert "is a file, or lies below one, expected a folder" in line
        assert line.count("\n") == 1
    assert (elsewhere / "thesis.txt").read_text() == "mine"
    assert {p.name for p in elsewhere.iterdir()} == {"thesis.txt", "rows.jsonl"}


def test_a_folder_of_something_else_is_left_alone(capsys, elsewhere):
    (elsewhere / "w").mkdir()
    (elsewhere / "w" / "thesis.txt").write_text("mine")
    for command in (["demo"], ["train", OWN_DATA]):
        assert "w: not empty" in refused(capsys, *command, "--workdir=w")
    assert [p.name for p in (elsewhere / "w").iterdir()] == ["thesis.txt"]


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert"], "expected --from or --from-run, and one of --to, --to-hub and --projector-to"),
        (["evaluate"], "--checkpoint: missing, expected --checkpoint, --suite, --data and --to"),
        (["evaluate", *ASKED], "--suite: missing, expected"),
        (
            ["evaluate", *ASKED, "--suite=hodd"],
            "--suite: 'hodd', expected some of safety, over-refusal, general, scenes",
        ),
        (["evaluate", *ASKED, "--suite=hod", "--batch=0"], "--batch: 0, expected at least 1"),
        (["evaluate", *ASKED, "--suite=hod", "--judge=oracle"], "--judge: 'oracle', expected one of phrases, gcg"),
        (
            ["evaluate", *ASKED, "--suite=hod", "--judge=model", "--rubric=taste"],
            "--rubric: 'taste', expected one of refusal",
        ),
        (["evaluate", *ASKED, "--suite=hod", "--rubric=safety"], "--rubric: is for --judge=model and --judge=endpoint"),
        (["evaluate", *ASKED, "--suite=hod", "--max-degenerate=nan"], "--max-degenerate: nan, expected a share"),
        (["evaluate", *ASKED, "--suite=hod", "--judge=endpoint"], "needs --judge-url and --judge-model"),
        (
            ["evaluate", *ASKED, "--suite=hod", "--defence=detector"],
            "--calibration: goes with --defence=detector|shift|steering, expected both",
        ),
        (["evaluate", *ASKED, "--suite=hod", "--judge-prices=1", "--judge=endpoint"], "needs --judge-url"),
        (["compare", "a"], "expected the folders of two evaluations"),
        (["compare", "a", "b"], "a/results.json: no such file, expected an evaluation's results"),
        (["analyze"], "--checkpoint: missing, expected --checkpoint, --data and --to"),
        (["analyze", *ASKED, "--window=-1"], "--window: -1, expected at least 0"),
        (["analyze", *ASKED, "--change=ratio"], "--change=ratio: value should be one of <log-ratio|difference>"),
        (["analyze", *ASKED, "--floor=1"], "--floor: 1.0, expected a probability from 0 to below 1"),
        (["analyze", *ASKED, "--floor=x"], "--floor: 'x', expected a number"),
        (["analyze", *ASKED, "--floor=0.1", "--change=difference"], "--floor: is for --change=log-ratio alone"),
        (["analyze", *ASKED], "b: expected a name in .json"),
        (["bench", "evaluate", "--samples=3"], "--samples: 3, expected at least two batches, 128"),
        (["convert", "--from=a", "--to=b", "--to-hub=c"], "expected --from or --from-run, and one of"),
        (["convert", "--from=a", "--from-run=b", "--to=c"], "expected --from or --from-run, and one of"),
        (["convert", "--from-run=a", "--to-hub=b"], "--from-run: expected --to alone beside it"),
        (["convert", "--from-run=nowhere", "--to=b"], "nowhere/config.json: no such file, expected the work folder"),
        (
            ["convert", "--from=a", "--to=b", "--dtype=fp8"],
            "--dtype=fp8: value should be one of <bf16|fp32|bfloat16|float32>",
        ),
        (["convert", "--from=nowhere", "--to=b"], "nowhere/config.json: no such file"),
        (["convert", "--nonsense=1"], "'nonsense'"),
        (["convert", "--from=nowhere", "--to-hub=b"], "nowhere/model.json: no such file"),
        (["chat"], "--checkpoint: missing"),
        (["chat", "--checkpoint=nowhere"], "nowhere/config.json: no such file"),
        (["chat", "--checkpoint=nowhere", "--seed=x"], "--seed=x"),
        (["bench"], "expected one of decode, data, retrieve"),
        (["bench", "decode", "--peer"], "--peer: needs --checkpoint"),
        (["bench", "decode", "--batch=many"], "--batch=many"),
        (["bench", "decode", "--batch=0"], "--batch: 0, expected at least 1"),
        (["bench", "decode", "--preset=large"], "preset: 'large', expected one of"),
    ],
)
def test_bad_arguments_of_checkpoint_commands(capsys, elsewhere, arguments, said):
    assert said in refused(capsys, *arguments)
    assert not (elsewhere / "b").exists()


def test_the_known_checkpoints(capsys):
    assert call("convert", "--known") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "llava-hf/llava-1.5-7b-hf" in out
    assert "134,515,008" in out  # parameters of SmolLM2-135M


# --- data -------------------------------------------------------------------------------------------------------------

SAMPLE = '{"id": "a", "conversations": [{"from": "human", "value": "b"}, {"from": "gpt", "value": "c"}]}\n'


def test_validate_data_ends_with_what_it_found(capsys, elsewhere):
    (elsewhere / "good.jsonl").write_text(SAMPLE)
    (elsewhere / "bad.jsonl").write_text(SAMPLE + SAMPLE.replace("gpt", "dog"))
    assert call("validate-data", "good.jsonl", "--json=report.json") == 0
    assert json.loads((elsewhere / "report.json").read_text())["counts"]["samples"] == 1
    assert call("validate-data", "--json=report.json", "bad.jsonl") == 1
    assert json.loads((elsewhere / "report.json").read_text())["problems"]["roles"]["count"] == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "bad.jsonl: line 2: sample 'a' has 'dog' as `conversations[1].from`, expected 'gpt'" in captured.out


def test_the_known_data_sets(capsys, elsewhere):
    assert call("validate-data", "--known") == 0
    assert "llava-mix665k: " in capsys.readouterr().out
    assert call("validate-data", "--known", "mmbench", ".") == 1
    assert ".: lacks mmbench_*.tsv or MMBench_*.tsv" in capsys.readouterr().out
    (elsewhere / "mmbench_dev_20230712.tsv").touch()
    assert call("validate-data", "--known", "mmbench", ".") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected a file of samples, such as data.json"),
        (["a.json", "b.json"], "expected a file of samples, such as data.json"),
        (["a.json", "b.json", "c.json"], "unknown argument 'c.json'"),
        (["none.json"], "none.json: cannot be read"),
        (["none.txt"], "none.txt: expected a name in .json"),
        (["a.json", "--length=30"], "Unknown command line flag 'length'"),
        (
            ["a.json", f"--config={ROOT}/configs/own_data.py:fit"],
            "unknown argument 'a.json', expected flags such as --config.",
        ),
        (["--config=configs/none.py"], "--config: "),
        ([f"--config={ROOT}/configs/own_data.py:fit"], "tokenizer: no tokenizer that transformers can read"),
        (["--known", "hod"], "--known: expected no argument, or a name and the folder of a download"),
        (["--known", "laion", "."], "--known: 'laion', expected one of llava-pretrain"),
    ],
)
def test_bad_arguments_of_validate_data(capsys, arguments, said):
    assert said in refused(capsys, "validate-data", *arguments)


def test_build_data_writes_shards(capsys, elsewhere):
    (elsewhere / "a.jsonl").write_text(SAMPLE * 3)
    assert call("build-data", "a.jsonl", "--to=built", "--shards=2") == 0
    assert capsys.readouterr().out.strip() == "written: built"
    assert len(list((elsewhere / "built").glob("*.array_record-*"))) == 2
    line = refused(capsys, "build-data", "a.jsonl", "--to=built", "--shards=3")
    assert line.endswith("built holds another run: config.shards is 2 there and 3 now; choose another --to\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected a file of samples, such as data.json, and --to"),
        (["a.json"], "and --to with a folder for the shards"),
        (["a.json", "b.json", "--to=b"], "unknown argument 'b.json'"),
        (["none.json", "--to=b"], "none.json: cannot be read"),
        (["a.json", "--to=b", "--shards=-1"], "--shards: -1, expected at least 1"),
    ],
)
def test_bad_arguments_of_build_data(capsys, elsewhere, arguments, said):
    assert said in refused(capsys, "build-data", *arguments)
    assert list(elsewhere.iterdir()) == []
