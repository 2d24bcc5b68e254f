"""The demo's models as checkpoints of their own, to measure, to talk to, to look into and to convert."""

import tempfile
from pathlib import Path
from typing import Any

import jax

from tga_jax.checkpoints import hub, orbax_files
from tga_jax.checkpoints.spec import Spec
from tga_jax.demo.config import World
from tga_jax.models import llava


def save(world: World, folder: Path, parts: dict[str, Path]) -> Path:
    """Writes `folder` unless it is there. parts: "clip", "projector" and "llm", or "llm" alone, each with the work
    folder of the training that it comes from."""
    if folder.exists():
        return folder
    like = jax.eval_shape(lambda: llava.init(world.model, jax.random.key(0), tuple(parts)))
    params: dict[str, Any] = {part: orbax_files.load_params(path, part, like[part]) for part, path in parts.items()}
    tokenizer = world.vocabulary.tokenizer
    # The end token, or the newline of the `plain` template, ends an answer.
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("\n")]
    hub_fields = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": stops}
    if "clip" in parts:
        model = Spec(
            kind="llava",
            config=world.model,
            family="llama",
            image_token_id=world.model.llm.vocab_size,
            hub_fields=hub_fields,
            image_mode="pad",
        )
    else:
        model = Spec(kind="llm", config=world.model.llm, family="llama", hub_fields=hub_fields)
    with tempfile.TemporaryDirectory() as companions:
        tokenizer.save_pretrained(companions)
        hub.save(folder, model, params, Path(companions))
    return folder
