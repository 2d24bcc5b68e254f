"""The demo's trained rows as checkpoints of their own, to talk to, to look into and to convert."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import transformers

from tga_jax import checkpoints
from tga_jax.demo.world import World
from tga_jax.models import llava
from tga_jax.weights import checkpoint
from tga_jax.weights.hub_config import HubModel

# The same text that `mistral_instruct` of data/templates.py makes, piece by piece, of a record.
_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST] "
    "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)


def tokenizer(world: World) -> Any:
    v = world.vocabulary
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=v.tokenizer,
        bos_token=v.begin,
        eos_token=v.end,
        pad_token=v.pad,
        chat_template=_CHAT,
        clean_up_tokenization_spaces=False,
    )


def save(world: World, folder: Path, params: dict[str, Any], clip_dir: Path) -> None:
    """Writes `folder` unless it is there. params: projector and llm of a row."""
    if folder.exists():
        return
    like = jax.eval_shape(lambda: llava.init(world.model, jax.random.key(0), ("clip",)))["clip"]
    parts = {"clip": checkpoints.load_params(clip_dir, "clip", like), **params}
    hub_fields = {"bos_token_id": world.vocabulary.begin_id, "eos_token_id": list(world.vocabulary.stop_ids)}
    with tempfile.TemporaryDirectory() as companions:
        tokenizer(world).save_pretrained(companions)
        model = HubModel("llava", world.model, "llama", world.model.llm.vocab_size, hub_fields, "pad")
        checkpoint.save(folder, model, parts, Path(companions))
