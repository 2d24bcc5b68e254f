"""The whole demo, marked slow, and the picture above its report."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rich.console
import rich.progress
from demo_support import bars, demo_values, quiet

from tga_jax import config
from tga_jax.demo import figures
from tga_jax.demo import main as demo
from tga_jax.demo.config import DemoConfig
from tga_jax.demo.report import Example
from tga_jax.demo.world import source
from tga_jax.demo.world.concepts import SCENES
from tga_jax.report.figures import TEXT_LABEL

RATES = ("image_dsr", "benign_naming", "benign_color", "over_refusal")


def tiny() -> DemoConfig:
    """A few steps each on one picture for each pair, at the size that the preset's vision tower has."""
    values = demo_values(image_size=64)
    trained = [values.clip, values.text, *(stage for row in values.rows.values() for stage in row.stages.values())]
    for one in trained:
        one.update({"steps": 3, "batch_size": 4})
    values.new_tokens = 4
    return config.build(DemoConfig, values)


@pytest.mark.slow
def test_the_whole_demo_twice_and_again_elsewhere(tmp_path):
    built = tiny()
    workdir, parts = tmp_path / "run", tmp_path / "parts"
    console = rich.console.Console(record=True, width=120)
    demo.run(built, workdir, parts, console)
    results = json.loads((workdir / "results.json").read_text())

    assert {"seed", "commit", "config", "seconds", "peak_memory_bytes", "text_dsr", "rows"} <= set(results)
    assert results["seed"] == built.seed
    assert results["config"] == json.loads(json.dumps(dataclasses.asdict(built)))
    assert results["seconds"] > 0
    assert results["peak_memory_bytes"] > 1e8
    assert {row["name"] for row in results["rows"]} == set(built.rows)
    assert {(row["split"], row["retrieved_text"]) for row in results["rows"]} >= {("test", False), ("test", True)}
    for row in results["rows"]:
        assert isinstance(row["retrieved_text"], bool)
        for rate in (*(row[name] for name in RATES), results["text_dsr"], *row["image_dsr_by_scene"].values()):
            assert set(rate) == {"value", "low", "high", "n"}
            assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
        assert set(row["image_dsr_by_scene"]) == set(SCENES)
        assert sum(rate["n"] for rate in row["image_dsr_by_scene"].values()) == row["image_dsr"]["n"]
        assert row["benign_naming"]["n"] == row["benign_color"]["n"] == row["over_refusal"]["n"]
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert str(workdir / "report.html") in console.export_text().replace("\n", "")

    # R of every picture: another one's caption, and one that was trained on.
    attachments = next(p for p in parts.iterdir() if p.name.startswith("attachments-"))
    world = demo.open_world(built, parts, bars())
    corpus = set(world.split("train").captions)
    for split in world.splits:
        _, retrieved = source.load_attachments(attachments, split)
        assert set(retrieved) <= corpus
        assert all(r != c for r, c in zip(retrieved, world.split(split).captions, strict=True))

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    before = written()
    demo.run(built, workdir, parts, quiet())
    assert written() == before

    demo.run(built, tmp_path / "again" / "run", tmp_path / "again" / "parts", quiet())
    again = json.loads((tmp_path / "again" / "run" / "results.json").read_text())
    for found in (results, again):
        for name in ("seconds", "peak_memory_bytes", "commit"):  # the tree may be edited in between
            del found[name]
    assert again == results
    assert {p.name for p in parts.iterdir()} == {p.name for p in (tmp_path / "again" / "parts").iterdir()}

    # One changed line: what did not change is taken from the parts.
    known = {p.name for p in parts.iterdir()}
    guide = dataclasses.replace(built.rows["tga"].guide, weight=0.123)
    rows = {**built.rows, "tga": dataclasses.replace(built.rows["tga"], guide=guide)}
    demo.run(dataclasses.replace(built, rows=rows), tmp_path / "fork", parts, quiet())
    made = {p.name.rpartition("-")[0] for p in parts.iterdir() if p.name not in known}
    assert made == set(rows["tga"].stages)


def test_the_overview_shows_what_rows_do_on_most_pictures():
    def example(name: str, text: str, base: str, ours: str) -> Example:
        verdicts = {TEXT_LABEL: text, "base": base, "ours": ours}
        return Example(np.zeros((2, 2, 3), np.uint8), name, dict.fromkeys(verdicts, ""), verdicts)

    examples = [
        example("rare", "refusal", "answer", "answer"),
        example("benign", "answer", "answer", "refusal"),
        example("typical", "refusal", "answer", "refusal"),
        example("typical too", "refusal", "answer", "refusal"),
    ]
    assert figures._typical(examples, {"base": 0.1, "ours": 0.7}).caption == "typical"
    assert figures._typical(examples, {"base": 0.1, "ours": 0.4}).caption == "rare"
    assert figures._typical(examples, {"base": 0.9, "ours": 0.4}).caption == "rare"  # none is: the first
