"""What the folders hold that a training starts from, and whether the training's model is of that architecture."""

import dataclasses
from pathlib import Path
from typing import Any

from tga_jax.checkpoints import hub, spec
from tga_jax.checkpoints.spec import Spec
from tga_jax.errors import UserError
from tga_jax.models import presets
from tga_jax.models.clip import ClipConfig, TextConfig, blocks_below
from tga_jax.models.llava import LlavaConfig, Tiles
from tga_jax.train.config import ModelConfig, TrainConfig
from tga_jax.workdir import AnyPath, is_remote, located, read_json

# How a model is computed, not what, and the words, of which tables may have more: any may differ from the folder's.
_FREE = ("dtype", "remat", "attention", "lora", "vocab_size")


def describe(model: LlavaConfig, init: dict[str, str]) -> dict[str, Any]:
    """What a training's config.json keeps beside the config, so that `of_run` knows what was trained wherever presets
    and the folders of `init` have gone; JSON."""
    origin = of_folder(init["llm"]) if init.get("llm") else None
    family, fields, refusals = (None, {}, ()) if origin is None else (origin.family, origin.hub_fields, origin.refusals)
    return {"model": dataclasses.asdict(model), "family": family, "hub_fields": fields, "refusals": list(refusals)}


def of_run(run: AnyPath) -> Spec | None:
    """The model of a training's work folder, whichever of its parts were trained; None if an earlier version of this
    project wrote it. Raises UserError for a damaged config.json."""
    path = run / "config.json"
    found = read_json(path, "the config of a training", ("init",)).get("architecture")
    if found is None:
        return None
    if not isinstance(found, dict) or not {"model", "family", "hub_fields"} <= found.keys():
        raise UserError(f"{path}: architecture is {found!r:.60}, expected model, family and hub_fields")
    raw = {"kind": "llava", "config": found["model"], **{k: v for k, v in found.items() if k != "model"}}
    return spec.build(raw, f"{path}: architecture", run)


def of_folder(folder: str) -> Spec | None:
    """What a training's `init` names: a checkpoint of ours, of the hub, or a training's work folder. None if that is of
    an earlier version. Raises UserError if it is none of these."""
    place = located(folder)
    if isinstance(place, Path) and (place / spec.FILE).exists():
        return spec.read(place)
    has_config = (place / "config.json").exists()
    if (place / "params").exists():
        return of_run(place) if has_config else None
    if is_remote(place) or not (place.suffix == ".gguf" or has_config):
        return None  # loading it says what is missing
    return hub.open_hub(Path(folder))[0]


def model_of(config: TrainConfig, words: int | None = None) -> LlavaConfig:
    """The model of a training: the preset, for a tokenizer of so many words, or what the checkpoints say. Raises
    UserError for an unknown preset, and for a checkpoint without the part."""
    if isinstance(config.model, str):
        return presets.get(config.model, words)
    c = config.model
    llm, clip = _of(c, "llm").llm, _of(c, "vision").clip
    if llm is None:
        raise UserError(f"model.llm: {c.llm} holds no decoder, expected a language model or a LLaVA")
    if clip is None:
        raise UserError(f"model.vision: {c.vision} holds no vision tower, expected a CLIP or a LLaVA")
    try:
        blocks_below(clip.vision, c.feature_layer)
        c.projector.on(llm.hidden_size)
    except ValueError as error:
        raise UserError(f"model.{error}") from error
    tower = ClipConfig(clip.vision, None, None)
    made = LlavaConfig(tower, llm, c.projector, c.feature_layer, c.feature_select, c.tiles)
    if c.tiles is not None:
        _check_tiles(made, c.tiles)
    return made


def _check_tiles(model: LlavaConfig, tiles: Tiles) -> None:
    side, patches = model.clip.vision.image_size, model.clip.vision.num_patches
    if not tiles.pinpoints or any(edge < 1 or edge % side for grid in tiles.pinpoints for edge in grid):
        said = f"pairs of multiples of {side}, the tower's image size"
        raise UserError(f"model.tiles.pinpoints: {tiles.pinpoints}, expected {said}")
    if model.features != patches or model.image_tokens != patches:
        said = "an image token for each patch, in the patches' order"
        raise UserError(
            f"model.feature_select, projector: {model.image_tokens} image tokens, expected with tiles {said}"
        )


def _of(config: ModelConfig, field: str) -> Spec:
    folder = getattr(config, field)
    found = of_folder(folder)
    if found is None:
        raise UserError(f"model.{field}: {folder} does not say its sizes, expected a checkpoint or a training's folder")
    return found


def _with_end(text: TextConfig) -> TextConfig:
    """The largest id of a text is the table's last one in the files that mean the end token by it."""
    return text if text.eos_token_id is not None else dataclasses.replace(text, eos_token_id=text.vocab_size - 1)


def _parts(model: Any, part: str) -> dict[str, Any]:
    """The fields, by dotted names, on which a part's computation depends; {} if the model lacks it."""
    if part == "llm":
        found = {"llm": model.llm}
    elif part == "clip":
        clip = model.clip
        found = {} if clip is None else {"vision": clip.vision, "text": clip.text and _with_end(clip.text)}
    elif isinstance(model.config, LlavaConfig):
        c = model.config
        found = {"projector": c.projector.on(c.llm.hidden_size)}
        found |= {"feature_layer": c.feature_layer, "feature_select": c.feature_select}
        found["tiles"] = "none" if c.tiles is None else str(dataclasses.asdict(c.tiles))
    else:
        found = {}
    fields = {}
    for name, value in found.items():
        if dataclasses.is_dataclass(value):
            own = {k: v for k, v in vars(value).items() if k not in _FREE}
            fields |= {f"{name}.{k}": v for k, v in own.items()}
        elif value is not None:
            fields[name] = value
    return fields


def check(init: dict[str, str], model: LlavaConfig, name: str, whose: str = "the preset") -> None:
    """Raises UserError for a folder of another architecture than `model`, which `name` names: weights may fit by their
    shapes and yet compute something else, as with another base of the rotary embedding."""
    mine = Spec(kind="llava", config=model)
    for part, folder in init.items():
        theirs = of_folder(folder) if folder else None
        if theirs is None:
            continue
        there, here = _parts(theirs, part), _parts(mine, part)
        if not there:
            raise UserError(f"init.{part}: {folder} holds no {part}, expected one as in model {name!r}")
        # A LLaVA's own tower comes without a text tower, and is enough where the model has none either.
        if wrong := [key for key in here if key in there and there[key] != here[key]]:
            said = ", ".join(f"{key} is {there[key]} there and {here[key]} in {whose}" for key in wrong)
            raise UserError(f"init.{part}: {folder} does not fit model {name!r}: {said}")
