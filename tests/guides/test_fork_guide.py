"""configs/fork_guide.py: a guide in one file, trained by the real command, and its value against its equation."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train_support
from guides_support import HINGE, PAIR, batch_of, cos, normal, seen

from tga_jax import cli, config
from tga_jax.guides import Guide

CONFIG = Path(__file__).parents[2] / "configs" / "fork_guide.py"
MARGIN = config.find_class(f"{CONFIG}:Margin", Guide, {})[1]


def test_against_float64():
    """Of `batch_of`'s rows: x is the state at position 3, y that at 4. The first row has two pictures instead."""
    guide = MARGIN(layers=(0, 2), weight=3.0, margin=0.2)
    batch = batch_of(PAIR, HINGE)
    two = batch.image_mask.at[0].set(jnp.array([False, True, False, False, True, False]))  # pictures at 1 and 4
    batch = batch._replace(image_mask=two)
    segments = np.asarray(guide.student(batch).segments)
    places = {0: [4, 5], 2: [3, 4], 3: [3, 4]}
    for row, expected in places.items():
        assert [list(np.flatnonzero(segment)) for segment in segments[row]] == [[place] for place in expected]
    states, caption = jnp.asarray(normal(1, 2, 4, 6, 5)), jnp.asarray(normal(2, 2, 4, 1, 5))
    student = jnp.einsum("bst,jbtd->jbsd", segments.astype(np.float32), states)
    value, metrics = guide.loss(seen(guide, batch, student, caption, 0.5))
    terms, near = [], []
    for b in np.flatnonzero(PAIR):
        cosines = [[cos(states[j, b, t], caption[j, b, 0]) for t in places[b]] for j in range(2)]
        terms.append(np.mean([sum(max(0.0, 0.2 - c) for c in row) for row in cosines]))
        near.append(np.mean(cosines))
    np.testing.assert_allclose(value, 3 * np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(metrics["cos_at_positions"], np.mean(near), rtol=1e-5)
    grads = jax.grad(lambda x: guide.loss(seen(guide, batch, x, caption, 0.5))[0])(student)
    assert np.any(grads[:, 0])
    assert not np.any(grads[:, 1])


@pytest.fixture(name="folder")
def fixture_folder(tmp_path, monkeypatch) -> Path:
    """Pictures and their file, and a copy of the config: the only file that its guide needs."""
    train_support.write_data(tmp_path / "data")
    shutil.copy(CONFIG, tmp_path / "my_guide.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(workdir: str, *more: str) -> list[str]:
    own = "--config.data.source.own"
    data = (f"{own}.path=data/samples.json", f"{own}.images=data/images", "--config.data.tokenizer=data/tokenizer")
    return ["train", "--config=my_guide.py", f"--workdir={workdir}", *data, "--config.batch_size=2", *more]


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_it_trains_by_the_real_command_and_continues(folder):
    assert cli.run(arguments("run", "--config.steps=3")) == 0
    rows = metrics(folder / "run")
    assert [row["step"] for row in rows] == [3]
    for row in rows:
        assert row["loss"] == pytest.approx(row["lm"] + row["guide"], rel=1e-5)
        assert 0 < row["guide"] <= 0.5 * 2 * 1.8
        assert -1 <= row["cos_at_positions"] <= 1
    kept = json.loads((folder / "run" / "config.json").read_text())["loss"]["guide"]
    assert kept == {"kind": "my_guide.py:Margin", "layers": [1, 2], "weight": 0.5, "margin": 0.8}
    assert cli.run(arguments("run", "--config.steps=3")) == 0  # it is done
    assert metrics(folder / "run") == rows
    train_support.at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert cli.run(arguments("stopped", "--config.steps=3")) == 130
    assert not (folder / "stopped" / "params").exists()
    assert cli.run(arguments("stopped", "--config.steps=3")) == 0
    stopped, whole = (metrics(folder / name) for name in ("stopped", "run"))
    assert [(row["loss"], row["guide"]) for row in stopped] == [(row["loss"], row["guide"]) for row in whole]


def test_its_fields_are_checked_as_those_of_any_guide(folder, capsys):
    assert cli.run(arguments("run", "--config.loss.guide.margin=0.1", "--config.loss.guide.layers=(9,)")) == 2
    assert "guide.layers: (9,), expected at most 4" in capsys.readouterr().err
    (folder / "my_guide.py").write_text(CONFIG.read_text().replace('"margin": 0.8', '"margins": 0.8'))
    assert cli.run(arguments("run")) == 2
    assert (
        "config.loss.guide: unknown field margins; Margin has kind, layers, weight, margin" in capsys.readouterr().err
    )
    assert not (folder / "run").exists()


def test_a_class_of_another_file_is_named_by_its_path(folder):
    built = config.build(Guide, {"kind": "my_guide.py:Margin", "weight": 2})
    assert dataclasses.asdict(built) == {"kind": "my_guide.py:Margin", "layers": (1,), "weight": 2.0, "margin": 0.8}
