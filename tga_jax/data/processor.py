"""What stands between people and a checkpoint: its tokenizer, its chat template, its image preprocessing."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image

from tga_jax.data import images
from tga_jax.data.batch import Batch, prompt_batch
from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError

Picture = Image.Image | np.ndarray | str | Path


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    size: int  # I
    tokens: int  # Q: positions that an image takes; 0 for CLIP alone
    mode: str  # "pad" or "crop"


@dataclasses.dataclass(frozen=True)
class Processor:
    """tokenizer: a transformers tokenizer; image: None for a language model alone."""

    tokenizer: Any
    image: ImageSpec | None = None
    stop_ids: tuple[int, ...] = ()

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else pad  # what stands on padding is never read

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt of a conversation, [{"role": "user", "content": "..."}, ...], up to where the answer starts."""
        if self.tokenizer.chat_template is None:
            raise UserError("this checkpoint has no chat template; give the whole prompt instead")
        return self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)

    def pixels(self, pictures: Sequence[Picture]) -> np.ndarray:
        """uint8 [N, I, I, 3]. Raises UserError for a file that is no image, or a checkpoint without a vision tower."""
        if self.image is None:
            raise UserError("this checkpoint has no vision tower, expected prompts without images")
        size, mode = self.image.size, self.image.mode
        made = []
        for picture in pictures:
            if isinstance(picture, str | Path):
                made.append(images.load(Path(picture), size, mode))
            else:
                image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
                made.append(images.preprocess(image, size, mode))
        return np.stack(made) if made else np.zeros((0, size, size, 3), np.uint8)

    def token_ids(self, prompt: str, special: bool = True) -> list[int | None]:
        """Token ids, None for every position of an image. Texts around `<image>` are tokenised apart, as LLaVA does.

        special: begin with the tokenizer's begin token, if it has one and the prompt does not start with it.
        """
        parts = prompt.split(IMAGE) if self.image is not None and self.image.tokens else [prompt]
        begin = self.tokenizer.bos_token
        special = special and not (begin and prompt.startswith(begin))
        ids: list[int | None] = []
        for i, part in enumerate(parts):
            if i:
                assert self.image is not None
                ids += [None] * self.image.tokens
            if part or i == 0:
                ids += self.tokenizer(part, add_special_tokens=special and i == 0)["input_ids"]
        return ids

    def batch(self, prompts: Sequence[str], pictures: Sequence[Sequence[Picture]] | None = None) -> Batch:
        """Prompts as a right-padded Batch; pictures: those of every prompt, in the order of its `<image>`.

        Raises UserError where a prompt's `<image>` and pictures differ in number.
        """
        shown = pictures or [()] * len(prompts)
        if len(shown) != len(prompts):
            raise UserError(f"{len(prompts)} prompts and pictures of {len(shown)}, expected as many")
        counts = [p.count(IMAGE) if self.image and self.image.tokens else 0 for p in prompts]
        for i, (count, own) in enumerate(zip(counts, shown, strict=True)):
            if count != len(own):
                raise UserError(f"prompt {i}: {count} times {IMAGE} and {len(own)} pictures, expected as many")
        rows = [self.token_ids(prompt) for prompt in prompts]
        length = max(len(row) for row in rows)
        tokens = np.full((len(rows), length), self.pad_id, np.int32)
        valid, mask = np.zeros((2, len(rows), length), bool)
        for i, row in enumerate(rows):
            valid[i, : len(row)] = True
            mask[i, : len(row)] = [t is None for t in row]
            tokens[i, : len(row)] = [self.pad_id if t is None else t for t in row]
        media = None
        if any(counts):
            assert self.image is not None
            size = self.image.size
            media = np.zeros((len(rows), max(counts), size, size, 3), np.uint8)
            for i, own in enumerate(shown):
                media[i, : len(own)] = self.pixels(own)
        return prompt_batch(tokens, valid, mask, media)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder. Raises UserError if there is none."""
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many types for a folder without, or with a broken, tokenizer
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{folder}: no tokenizer that transformers can read ({reason})") from error
