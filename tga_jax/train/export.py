"""A finished training as a checkpoint: the parts that it trained, and those that it started from."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from tga_jax import config
from tga_jax.checkpoints import families, hub, orbax_files, spec
from tga_jax.checkpoints.spec import Spec
from tga_jax.data import sources
from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.models import presets, sharding
from tga_jax.models.llava import LlavaConfig
from tga_jax.train import setup
from tga_jax.train.config import PARTS, TrainConfig
from tga_jax.workdir import AnyPath, located, read_json

_EXPECTED = "the work folder of a finished training"


def _config(run: AnyPath) -> TrainConfig:
    path = run / "config.json"
    raw = read_json(path, _EXPECTED, ("init", "model", "steps", "loss", "data"))
    # These may be any program's classes, and are not needed.
    raw["loss"] = {}
    raw["data"] = {**raw["data"], "source": {}}
    return config.build(TrainConfig, raw, str(path))


def _language_model(folder: str) -> Spec | None:
    """What the language model is that a training started from; None if from random parameters."""
    if not folder:
        return None
    place = located(folder)
    if isinstance(place, Path) and (place / spec.FILE).exists():
        return spec.read(place)
    if (place / "params").exists():  # another training's
        return _language_model(_config(place).init["llm"])
    return hub.open_hub(Path(folder))[0]


def _describe(c: TrainConfig, model: LlavaConfig, tokenizer: Any) -> Spec:
    parts = set(c.init)
    if parts == {"clip"}:
        return Spec(kind="clip", config=model.clip)
    if parts not in ({"llm"}, set(PARTS)):
        raise UserError(
            f"{c.name}: trained with {', '.join(sorted(parts))}, expected clip, projector and llm, or clip or llm alone"
        )
    origin = _language_model(c.init["llm"])
    if origin is None:
        fields: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        family = families.of(model.llm)
    else:
        fields, family = origin.hub_fields, origin.family
    if parts == {"llm"}:
        return Spec(kind="llm", config=model.llm, family=family, hub_fields=fields)
    known = tokenizer.get_vocab().get(IMAGE, model.llm.vocab_size)
    return Spec(
        kind="llava",
        config=model,
        family=family,
        image_token_id=known,
        hub_fields=fields,
        image_mode=c.data.image_mode,
    )


def save(run: AnyPath, folder: Path, dtype: str) -> None:
    """Writes a checkpoint of ours, whole, from a finished training's work folder; dtype: of its parameters.

    What the training left as it was is read again from where the training had it. Raises UserError for a folder that
    is no finished training; then nothing is left at `folder`.
    """
    c = _config(run)
    if not orbax_files.has_params(run):
        raise UserError(f"{run}: not finished, expected {_EXPECTED}")
    trained = dict.fromkeys(orbax_files.trained_parts(run), str(run))
    words = sources.vocabulary(c.data)
    described = hub.with_dtype(_describe(c, presets.get(c.model, words.size), words.tokenizer), dtype)
    optimizer = dataclasses.replace(c.optim, schedule=((".*", 1.0),), param_dtype=dtype)
    # Without LoRA, which a training merges into what it leaves.
    whole = dataclasses.replace(c, init={**c.init, **trained}, optim=optimizer, lora=None)
    mesh = sharding.make_mesh(-1, 1, 1, jax.local_devices()[:1])
    params = setup.init_params(whole, setup.make_model(whole, words.size), mesh)
    hub.save(folder, described, params, Path(c.data.tokenizer))
