"""A finished training as a checkpoint: the parts that it trained, and those that it started from."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from tga_jax import config
from tga_jax.checkpoints import hub, orbax_files
from tga_jax.checkpoints.spec import Spec
from tga_jax.data import sources
from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.models import sharding
from tga_jax.models.llava import LlavaConfig
from tga_jax.train import origin, setup
from tga_jax.train.config import PARTS, TrainConfig
from tga_jax.workdir import AnyPath, Content, check_inputs, read_json

_EXPECTED = "the work folder of a finished training"


def _config(run: AnyPath) -> tuple[TrainConfig, dict[str, Content]]:
    """And what the training's inputs held."""
    path = run / "config.json"
    raw = read_json(path, _EXPECTED, ("init", "model", "steps", "loss", "data"))
    inputs = raw.pop("inputs", {})
    raw.pop("architecture", None)
    # These may be any program's classes, and are not needed.
    raw["loss"] = {}
    raw["data"] = {**raw["data"], "source": {}}
    return config.build(TrainConfig, raw, str(path)), inputs


def _describe(c: TrainConfig, model: LlavaConfig, tokenizer: Any, origin: Spec | None) -> Spec:
    """origin: of the language model that the training started from; None if from random parameters."""
    parts = set(c.init)
    if parts == {"clip"}:
        return Spec(kind="clip", config=model.clip)
    if parts not in ({"llm"}, set(PARTS)):
        raise UserError(
            f"{c.name}: trained with {', '.join(sorted(parts))}, expected clip, projector and llm, or clip or llm alone"
        )
    fields: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    family, refusals = None, ()
    if origin is not None:
        fields, family, refusals = origin.hub_fields or fields, origin.family, origin.refusals
    if parts == {"llm"}:
        return Spec(kind="llm", config=model.llm, family=family, hub_fields=fields, refusals=refusals)
    known = tokenizer.get_vocab().get(IMAGE, model.llm.vocab_size)
    return Spec(
        kind="llava",
        config=model,
        family=family,
        image_token_id=known,
        hub_fields=fields,
        image_mode=c.data.image_mode,
        refusals=refusals,
    )


def save(run: AnyPath, folder: Path, dtype: str) -> None:
    """Writes a checkpoint of ours, whole, from a finished training's work folder; dtype: of its parameters.

    What the training left as it was is read again from where the training had it. Raises UserError for a folder that
    is no finished training, or if what is read again is not what the training began with; then nothing is left at
    `folder`.
    """
    c, inputs = _config(run)
    if not orbax_files.has_params(run):
        raise UserError(f"{run}: not finished, expected {_EXPECTED}")
    trained = dict.fromkeys(orbax_files.trained_parts(run), str(run))
    again = {name: given for name, given in setup.inputs(c).items() if name.rpartition(".")[2] not in trained}
    check_inputs(inputs, again, str(run), "train again")
    words = sources.vocabulary(c.data)
    known = origin.of_run(run)
    if known is None:  # of an earlier version
        model = origin.model_of(c, words.size)
        begun = origin.of_folder(c.init["llm"]) if c.init.get("llm") else None
    else:
        model, begun = known.config, known
    assert isinstance(model, LlavaConfig)
    described = hub.with_dtype(_describe(c, model, words.tokenizer, begun), dtype)
    optimizer = dataclasses.replace(c.optim, schedule=((".*", 1.0),), param_dtype=dtype)
    # Without LoRA, which a training merges into what it leaves, and with kernels as they were before it quantized them.
    whole = dataclasses.replace(c, init={**c.init, **trained}, optim=optimizer, lora=None, quantize=None)
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    params = setup.init_params(whole, setup.make_model(whole, model), mesh)
    hub.save(folder, described, params, Path(c.data.tokenizer))
