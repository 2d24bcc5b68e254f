"""Checkpoints that a training's config names by the hub or in a bucket: on this machine before it starts.

What the hub has is downloaded once for all processes. Where they do not share the hub's cache, the first process puts
it beside the work folder, which all of them see, and the others read it there.
"""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.console
from jax.experimental import multihost_utils

from tga_jax.checkpoints import download, orbax_files
from tga_jax.data import bucket
from tga_jax.errors import UserError
from tga_jax.train.config import ModelConfig, TrainConfig
from tga_jax.workdir import AnyPath, disk_errors, is_remote, located, read_json, reading, write_json

_WHOLE = "staged.json"  # written last


def fetched(config: TrainConfig, console: rich.console.Console, workdir: AnyPath) -> TrainConfig:
    """The config with folders of this machine in place of the hub's names and of a bucket's folders in `init`, `model`
    and `data.tokenizer`, each said on the console. A training's work folder in a bucket stays: Orbax reads it there.

    Raises UserError as `download.local` does, and for a folder of a bucket that cannot be read.
    """
    fields = {f"init.{part}": name for part, name in config.init.items()} | {"data.tokenizer": config.data.tokenizer}
    model = config.model if isinstance(config.model, ModelConfig) else None
    fields |= {} if model is None else {"model.llm": model.llm, "model.vision": model.vision}
    weights = set(config.init.values())  # the same folder for all: only what is loaded needs weights
    names = {field: name for field, name in fields.items() if name and download.is_name(name)}
    places = _of_hub(names, weights, console, workdir) if names else {}
    for field, name in fields.items():
        if name.startswith("gs://") and not _is_training(located(name)):
            console.print(f"{field}: {name}, copied to this machine", highlight=False, soft_wrap=True)
            places[field] = _copied(located(name))
    if not places:
        return config
    tokenizer = places.pop("data.tokenizer", None)
    sizes: dict[str, Any] = {
        name: str(places.pop(f"model.{name}")) for name in ("llm", "vision") if f"model.{name}" in places
    }
    init = dict(config.init) | {field.removeprefix("init."): str(place) for field, place in places.items()}
    data = dataclasses.replace(config.data, tokenizer=str(tokenizer)) if tokenizer else config.data
    known = config.model if model is None else dataclasses.replace(model, **sizes)
    return dataclasses.replace(config, model=known, init=init, data=data)


def _of_hub(
    names: dict[str, str], weights: set[str], console: rich.console.Console, workdir: AnyPath
) -> dict[str, Path]:
    places: dict[str, Path] = {}
    failed: UserError | None = None
    first = jax.process_index() == 0
    if first:
        try:
            for field, name in names.items():
                console.print(f"{field}: {name}, of the hub", highlight=False)
                places[field] = download.local(name, weights=name in weights)
        except UserError as error:  # raised once the others no longer wait
            failed = error
    orbax_files.wait_for_all("checkpoints are downloaded")
    if failed:
        raise failed
    if jax.process_count() == 1:
        return places
    missing = [] if first else [name for name in names.values() if not _is_cached(name)]
    if not _anywhere(bool(missing)):
        console.print("of the hub: in a cache that all processes share", highlight=False)
        return places if first else {field: download.cached(name) for field, name in names.items()}
    shelf = workdir.parent / "weights"
    targets = {field: shelf / name.replace("/", "--").replace("@", "--") for field, name in names.items()}
    if first:
        console.print(
            f"of the hub: the processes share no cache, so all read what the first one puts into {shelf}",
            highlight=False,
            soft_wrap=True,
        )
        for field, target in targets.items():
            _stage(places[field], target)
    orbax_files.wait_for_all("checkpoints are staged")
    return places if first else {field: _copied(target) for field, target in targets.items()}


def _is_cached(name: str) -> bool:
    try:
        return bool(download.cached(name))
    except UserError:
        return False


def _anywhere(own: bool) -> bool:
    """Whether it is so in any process."""
    return bool(np.any(multihost_utils.process_allgather(np.array(own))))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _stage(place: Path, target: AnyPath) -> None:
    """Copies a folder of the hub's cache, unless the same revision is there."""
    with disk_errors(target):
        files = {path.relative_to(place).as_posix(): path for path in _files(place)}
        marker = target / _WHOLE
        described = {"revision": place.name, "files": sorted(files)}
        if marker.exists() and read_json(marker, "what an earlier training staged") == described:
            return
        for name, path in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as read, (target / name).open("wb") as written:
                shutil.copyfileobj(read, written, 1 << 24)
        write_json(marker, described)


def _is_training(place: AnyPath) -> bool:
    with reading(place):
        return (place / "params").exists() or (place / "checkpoints").exists()


def _copied(place: AnyPath) -> Path:
    """A folder of a hub's checkpoint as one of this machine."""
    if not is_remote(place):
        return Path(os.fspath(place))
    names = [name for name in bucket.below(place) if name != _WHOLE]
    if not names:
        raise UserError(f"{place}: no such folder, expected a checkpoint or a tokenizer")
    return bucket.mirrored(place, names)
