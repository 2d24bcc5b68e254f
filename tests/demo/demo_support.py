"""The demo's configs at a small size, and its trainings without training."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import rich.console
from ml_collections import ConfigDict

from tga_jax import config
from tga_jax.demo import trainings
from tga_jax.demo.config import DemoConfig, World
from tga_jax.demo.world import source
from tga_jax.report.progress import Progress
from tga_jax.train import loop
from tga_jax.train.config import TrainConfig

ROOT = Path(__file__).parents[2]


def demo_values(image_size: int, name: str = "emoji") -> ConfigDict:
    """configs/<name>.py on one picture for each pair."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(ROOT))
        values = importlib.import_module(f"configs.{name}").get_config()
    small = {name: min(n, 1) for name, n in values.scenes.items() if isinstance(n, int)}
    values.scenes.update(small | {"image_size": image_size})
    return values


def build(changes: dict | None = None, name: str = "emoji") -> DemoConfig:
    values = demo_values(image_size=16, name=name)
    values.update_from_flattened_dict(changes or {})
    return config.build(DemoConfig, values)


def quiet() -> rich.console.Console:
    return rich.console.Console(quiet=True)


def bars() -> Progress:
    return Progress(quiet())


def stand_in_attachments(world: World, clip_dir: Path) -> Path:
    """What `trainings.attach` leaves behind, with the row's number as the picture's features."""
    model = world.model()
    folder = world.folder("attachments", [str(clip_dir), model.feature_layer, model.feature_select], model.clip)
    captions = [str(c) for c in world.split("train").captions]
    number = np.arange(len(captions))
    features = np.stack([number // 1000, number % 1000], axis=-1)[:, None]
    source.attach(folder, "train", features, captions[7:] + captions[:7])
    return folder


def recorded(world: World, monkeypatch) -> tuple[dict[str, TrainConfig], dict[str, Path]]:
    """The trainings that the demo makes and their folders, by row and name, without training."""
    configs, folders = {}, {}
    prefix = ""

    def record(built, workdir, bars, title):
        name = prefix + built.name
        assert name not in configs
        configs[name], folders[name] = built, workdir

    monkeypatch.setattr(loop, "run", record)
    clip_dir, text_dir = trainings.train_clip(world), trainings.train_text(world)
    attachments = stand_in_attachments(world, clip_dir)
    for name, row in world.config.rows.items():
        prefix = f"{name}-"
        last = trainings.train_row(world, name, text_dir, attachments)
        assert last["projector"] == last["llm"] == folders[f"{name}-{max(row.stages)}"]
    return configs, folders
