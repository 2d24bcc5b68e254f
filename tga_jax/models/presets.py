"""Model configurations by name: the embedded demo's sizes and the shapes of public checkpoints."""

import dataclasses
from collections.abc import Callable
from functools import partial

from tga_jax.errors import UserError
from tga_jax.models.clip import ClipConfig, TextConfig, VisionConfig
from tga_jax.models.llama import LlamaConfig
from tga_jax.models.llava import LlavaConfig
from tga_jax.models.projectors import Mlp2xGelu, NormMlp2xGelu, Projector, Resampler


def _clip(image: int, patch: int, vision: tuple[int, int, int], text: tuple[int, int, int], embed: int) -> ClipConfig:
    """vision and text: (hidden, layers, heads), feed-forward 4x, as in OpenAI's CLIP."""
    (vd, vl, vh), (td, tl, th) = vision, text
    return ClipConfig(
        vision=VisionConfig(vd, vl, vh, 4 * vd, image_size=image, patch_size=patch),
        text=TextConfig(td, tl, th, 4 * td),
        embed_size=embed,
    )


CLIP = {
    "clip-vit-b-32": _clip(224, 32, (768, 12, 12), (512, 12, 8), 512),
    "clip-vit-b-16": _clip(224, 16, (768, 12, 12), (512, 12, 8), 512),
    "clip-vit-l-14": _clip(224, 14, (1024, 24, 16), (768, 12, 12), 768),
    "clip-vit-l-14-336": _clip(336, 14, (1024, 24, 16), (768, 12, 12), 768),
    "clip-emoji": ClipConfig(
        vision=VisionConfig(128, 3, 4, 256, image_size=64, patch_size=16),
        text=TextConfig(128, 1, 4, 512, vocab_size=512, context_length=16, eos_token_id=2),
        embed_size=128,
    ),
    # For pictures of several hands and of two things, in the world of a real language model.
    "clip-hands": ClipConfig(
        vision=VisionConfig(192, 4, 3, 768, image_size=80, patch_size=16),
        text=TextConfig(128, 1, 4, 512, vocab_size=2048, context_length=32, eos_token_id=2),
        embed_size=128,
    ),
}

LLM = {
    "llama-2-7b": LlamaConfig(32000, 4096, 32, 32, 32, 128, 11008, 1e4, 1e-5, None, False, dtype="bfloat16"),
    "vicuna-7b-v1.5": LlamaConfig(32000, 4096, 32, 32, 32, 128, 11008, 1e4, 1e-5, None, False, dtype="bfloat16"),
    "mistral-7b-v0.1": LlamaConfig(32000, 4096, 32, 32, 8, 128, 14336, 1e4, 1e-5, 4096, False, dtype="bfloat16"),
    "mistral-7b-v0.2": LlamaConfig(32000, 4096, 32, 32, 8, 128, 14336, 1e6, 1e-5, None, False, dtype="bfloat16"),
    "smollm2-135m": LlamaConfig(49152, 576, 30, 9, 3, 64, 1536, 1e5, 1e-5, None, True, dtype="bfloat16"),
    "llm-emoji": LlamaConfig(512, 128, 4, 4, 2, 32, 352, 1e4, 1e-5, None, True),
}


def _tower(name: str) -> ClipConfig:
    """The vision tower alone, as a LLaVA has it."""
    return ClipConfig(CLIP[name].vision, None, None)


_SMOLLM2 = dataclasses.replace(LLM["smollm2-135m"], dtype="float32")  # on a CPU bfloat16 is slower

# name -> (vision tower, language model). As LLaVA joins them, and, as `<name>-resampler`, by a projector whose every
# image token reads the whole picture.
_PUBLIC = {
    "llava-v1.5-7b": ("clip-vit-l-14-336", "vicuna-7b-v1.5"),
    "tga-mistral-7b": ("clip-vit-l-14-336", "mistral-7b-v0.2"),
    "tga-llama-2-7b": ("clip-vit-l-14-336", "llama-2-7b"),
    "tga-smollm2-135m": ("clip-vit-b-32", "smollm2-135m"),
}
_RESAMPLERS = {
    "clip-vit-l-14-336": Resampler(queries=64, num_layers=2, num_heads=16, hidden=1024),
    "clip-vit-b-32": Resampler(queries=32, num_layers=2, num_heads=8, hidden=512),
}


def _public(tower: str, llm: str, resampler: bool = False) -> LlavaConfig:
    joined = LlavaConfig(_tower(tower), LLM[llm])
    return dataclasses.replace(joined, projector=_RESAMPLERS[tower]) if resampler else joined


def _emoji(projector: Projector) -> LlavaConfig:
    return LlavaConfig(CLIP["clip-emoji"], LLM["llm-emoji"], projector, -1, "full")


def _hands(projector: Projector) -> LlavaConfig:
    return LlavaConfig(CLIP["clip-hands"], _SMOLLM2, projector, -1, "full")


LLAVA: dict[str, Callable[[], LlavaConfig]] = {
    **{name: partial(_public, *parts) for name, parts in _PUBLIC.items()},
    **{f"{name}-resampler": partial(_public, *parts, resampler=True) for name, parts in _PUBLIC.items()},
    # To time a training on a CPU: deep and narrow, with as many image tokens as the public checkpoints have.
    "bench-small": lambda: LlavaConfig(
        ClipConfig(VisionConfig(256, 4, 4, 1024, image_size=336, patch_size=14), None, None),
        LlamaConfig(8192, 256, 20, 8, 4, 32, 704, 1e4, 1e-5, None, False),
    ),
    # With CLS, and a projector that reads all patches for every image token: the patches of so small a tower know
    # little of the whole picture. As many image tokens as the longest caption has words.
    "emoji": partial(_emoji, Resampler(queries=10, num_layers=2, num_heads=4, hidden=128)),
    "emoji-mlp": partial(_emoji, Mlp2xGelu(hidden=512)),
    "smollm2-hands": partial(_hands, Resampler(queries=16, num_layers=2, num_heads=8, hidden=256)),
    "smollm2-hands-mlp": partial(_hands, Mlp2xGelu(hidden=1024)),
    "smollm2-hands-norm-mlp": partial(_hands, NormMlp2xGelu(hidden=1024)),
}
_OF_A_WORLD = ("bench-small", "emoji", "emoji-mlp")  # whose words are counted when they are known


def get(name: str, vocab_size: int | None = None) -> LlavaConfig:
    """The preset `name`.

    vocab_size: of the tokenizer. It replaces the sizes of both vocabularies where a world brings its own; those of a
    checkpoint, here or registered by a config, stay, and a token beyond them cannot be used. Raises UserError for an
    unknown name.
    """
    if name not in LLAVA:
        raise UserError(f"model: unknown preset {name!r}, expected one of {', '.join(sorted(LLAVA))}")
    config = LLAVA[name]()
    if vocab_size is None or name not in _OF_A_WORLD:
        return config
    text = None if config.clip.text is None else dataclasses.replace(config.clip.text, vocab_size=vocab_size)
    return dataclasses.replace(
        config,
        clip=dataclasses.replace(config.clip, text=text),
        llm=dataclasses.replace(config.llm, vocab_size=vocab_size),
    )
