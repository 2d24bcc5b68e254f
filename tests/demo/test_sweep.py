"""The sweep: its table from hand-made results, and which runs it makes."""

import dataclasses
import json

import pytest
import rich.console

from tga_jax import cli
from tga_jax.cli.flags import ROOT
from tga_jax.demo import main, sweep
from tga_jax.demo.report import RATE_FIELDS
from tga_jax.errors import UserError
from tga_jax.workdir import write_json


def result(seed: int, dsr: dict[str, float | None]) -> dict:
    """Rows whose DSR on `test` without retrieved text is given and whose other rates there are 0.5."""

    def row(name: str, split: str, retrieved: bool, value: float | None) -> dict:
        rates = {field: {"value": 0.5} for field in RATE_FIELDS}
        asked = {"split": split, "retrieved_text": retrieved, "new_questions": False}
        return {"name": name, **asked, **rates, "image_dsr": {"value": value}}

    rows = []
    for name, value in dsr.items():
        rows += [row(name, "test", False, value), row(name, "test", True, 0.99)]
        rows += [row(name, "test_pairs", False, 0.25), row(name, "test_hand", False, None)]
    return {"seed": seed, "rows": rows, "config": {"rows": dict.fromkeys(dsr)}}


def test_the_table_has_mean_lowest_and_highest_over_the_seeds():
    found = sweep.table([result(0, {"base": 0.1, "tga": None}), result(4, {"base": 0.4, "tga": 0.8})])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]
    assert lines[0][:3] == ["row", "image DSR", "benign naming"]
    assert lines[0][-2:] == ["image DSR, test_pairs", "image DSR, test_hand"]
    assert [line[0] for line in lines[2:]] == ["`base`", "`tga`"]
    assert lines[2][1:3] == ["0.25 (0.10 to 0.40)", "0.50 (0.50 to 0.50)"]
    assert lines[3][1] == "0.80 (0.80 to 0.80)"  # a seed without any case does not count as 0
    assert lines[2][-2:] == ["0.25 (0.25 to 0.25)", "n/a"]
    assert len({len(line) for line in lines}) == 1


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int


def quiet() -> rich.console.Console:
    return rich.console.Console(quiet=True)


def test_every_seed_has_its_folder_and_the_table_grows_with_them(tmp_path, monkeypatch):
    made = []

    def run(config, workdir, parts, console):
        made.append((config.seed, workdir, parts))
        write_json(workdir / "results.json", result(config.seed, {"base": config.seed / 10}))
        if config.seed == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(main, "run", run)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(Config(0), [2, 4, 7], tmp_path, tmp_path / "parts", quiet())
    assert made == [(seed, tmp_path / f"seed{seed}", tmp_path / "parts") for seed in (2, 4, 7)]
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("Seeds 2, 4: ")
    assert "| `base` | 0.30 (0.20 to 0.40) |" in text
    assert json.loads((tmp_path / "seed4" / "results.json").read_text())["seed"] == 4


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_differ(tmp_path, seeds):
    with pytest.raises(UserError, match="--seeds"):
        sweep.run(Config(0), seeds, tmp_path / "w", tmp_path, quiet())
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--config: missing"),
        (["--config=CONFIG"], "--workdir: missing"),
        (["--config=CONFIG", "--workdir=w", "--seeds=0,x"], "--seeds: '0,x'"),
        (["--config=CONFIG", "--workdir=w", "--seeds="], "--seeds: ''"),
        (["--config=CONFIG", "--workdir=w", "--config.rows.tga_benign.nonsense=1"], "'nonsense'"),
    ],
)
def test_bad_flags_give_one_line(tmp_path, monkeypatch, capsys, arguments, named):
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / "configs" / "emoji_ablation.py")
    assert cli.run(["sweep", *(a.replace("CONFIG", config) for a in arguments)]) == 2
    line = capsys.readouterr().err
    assert named in line
    assert line.count("\n") == 1
    assert not list(tmp_path.iterdir())
