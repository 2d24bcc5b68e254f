"""Names of the hub in a training's config: downloaded before it starts, once for all of its processes."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import rich.console

from tga_jax.checkpoints import download, orbax_files
from tga_jax.errors import UserError
from tga_jax.train.config import ModelConfig, TrainConfig


def fetched(config: TrainConfig, console: rich.console.Console) -> TrainConfig:
    """The config with folders of the cache in place of the names in `init`, `model` and `data.tokenizer`, each said on
    the console. Of several processes the first downloads, and the others read the same cache.

    Raises UserError as `download.local` does, and where a process does not find what the first one downloaded.
    """
    fields = {f"init.{part}": name for part, name in config.init.items()} | {"data.tokenizer": config.data.tokenizer}
    model = config.model if isinstance(config.model, ModelConfig) else None
    fields |= {} if model is None else {"model.llm": model.llm, "model.vision": model.vision}
    names = {field: name for field, name in fields.items() if name and download.is_name(name)}
    if not names:
        return config
    places: dict[str, Path] = {}
    failed: UserError | None = None
    if jax.process_index() == 0:
        try:
            for field, name in names.items():
                console.print(f"{field}: {name}, of the hub", highlight=False)
                # The same folder for all: only what is loaded needs weights.
                places[field] = download.local(name, weights=name in config.init.values())
        except UserError as error:  # raised once the others no longer wait
            failed = error
    orbax_files.wait_for_all("checkpoints are downloaded")
    if failed:
        raise failed
    for field, name in names.items():
        if field not in places:
            places[field] = download.cached(name)
    tokenizer = places.pop("data.tokenizer", None)
    sizes: dict[str, Any] = {
        name: str(places.pop(f"model.{name}")) for name in ("llm", "vision") if f"model.{name}" in places
    }
    init = dict(config.init) | {field.removeprefix("init."): str(place) for field, place in places.items()}
    data = dataclasses.replace(config.data, tokenizer=str(tokenizer)) if tokenizer else config.data
    known = config.model if model is None else dataclasses.replace(model, **sizes)
    return dataclasses.replace(config, model=known, init=init, data=data)
