"""The demo's models as checkpoints of their own, to measure, to talk to, to look into and to convert."""

from pathlib import Path
from typing import Any

import jax

from tga_jax.checkpoints import hub, orbax_files
from tga_jax.checkpoints.spec import Spec
from tga_jax.demo.config import World
from tga_jax.inference.model import Model
from tga_jax.models import llava


def described(world: World, row: str, pictures: bool) -> Spec:
    """row: whose model it is; pictures: whether it is one that sees, or the language model alone."""
    config, tokenizer = world.model(row), world.vocabulary.tokenizer
    # The end token ends an answer, and in the demo's own language the newline of the `plain` template.
    stops = [tokenizer.eos_token_id]
    if not world.language.free:
        stops.append(tokenizer.convert_tokens_to_ids("\n"))
    refusals = world.language.refusals
    hub_fields = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": stops}
    if not pictures:
        return Spec(kind="llm", config=config.llm, family="llama", hub_fields=hub_fields, refusals=refusals)
    return Spec(
        kind="llava",
        config=config,
        family="llama",
        image_token_id=config.llm.vocab_size,
        hub_fields=hub_fields,
        image_mode="pad",
        refusals=refusals,
    )


def assemble(world: World, row: str, parts: dict[str, Path]) -> tuple[Spec, dict[str, Any]]:
    """(description, parameters). row: whose model it is, "" for the text model's; parts: "clip", "projector" and "llm",
    or "llm" alone, each with the work folder of the training that it comes from."""
    config = world.model(row)
    like = jax.eval_shape(lambda: llava.init(config, jax.random.key(0), tuple(parts)))
    params: dict[str, Any] = {part: orbax_files.load_params(path, part, like[part]) for part, path in parts.items()}
    return described(world, row, "clip" in parts), params


def load(world: World, row: str, parts: dict[str, Path]) -> Model:
    """`assemble` as a model to run, in the form that can be looked into."""
    spec, params = assemble(world, row, parts)
    return Model(spec, params, hub.processor(world.tokens.folder, spec))


def save(world: World, row: str, folder: Path, parts: dict[str, Path]) -> Path:
    """Writes `assemble`'s as a checkpoint to `folder` unless that is there."""
    if not folder.exists():
        spec, params = assemble(world, row, parts)
        hub.save(folder, spec, params, world.tokens.folder)
    return folder
