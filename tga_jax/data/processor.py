"""What stands between people and a checkpoint: its tokenizer, its chat template, its image preprocessing."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image

from tga_jax.data import images
from tga_jax.data.batch import Batch
from tga_jax.data.templates import IMAGE
from tga_jax.data.tokens import Vocabulary, collate, prompt_tokens
from tga_jax.errors import UserError

Picture = Image.Image | np.ndarray | str | Path


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    size: int  # I
    tokens: int  # Q: positions that an image takes; 0 for CLIP alone
    mode: str  # one of `images.MODES`


@dataclasses.dataclass(frozen=True)
class Processor:
    """tokenizer: a fast tokenizer of transformers; image: None for a language model alone; rows: of the table that its
    ids index, None if not known."""

    tokenizer: Any
    image: ImageSpec | None = None
    stop_ids: tuple[int, ...] = ()
    rows: int | None = None

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tokenizer, self.rows)

    @property
    def pad_id(self) -> int:
        return self.vocabulary.pad_id

    @property
    def image_tokens(self) -> int:
        return self.image.tokens if self.image is not None else 0

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

    def batch(
        self, prompts: Sequence[str], pictures: Sequence[Sequence[Picture]] | None = None, multiple: int = 1
    ) -> Batch:
        """Prompts as a right-padded Batch; pictures: those of every prompt, in the order of its `<image>`; multiple: of
        which the Batch's length is one, so that few programs are compiled.

        The tokenizer's begin token is put first unless a prompt starts with it. Raises UserError where a prompt's
        `<image>` and pictures differ in number, and for a token that the model's table has no row for.
        """
        shown = pictures or [()] * len(prompts)
        if len(shown) != len(prompts):
            raise UserError(f"{len(prompts)} prompts and pictures of {len(shown)}, expected as many")
        for i, (prompt, own) in enumerate(zip(prompts, shown, strict=True)):
            count = prompt.count(IMAGE) if self.image_tokens else 0
            if count != len(own):
                raise UserError(f"prompt {i}: {count} times {IMAGE} and {len(own)} pictures, expected as many")
        rows = []
        for i, prompt in enumerate(prompts):
            try:
                rows.append(prompt_tokens(prompt, self.vocabulary, self.image_tokens))
            except UserError as error:
                raise UserError(f"prompt {i}: {error}") from error
        media = [list(self.pixels(own)) if own else [] for own in shown]
        length = -(-max(len(row.tokens) for row in rows) // multiple) * multiple
        return collate(rows, media, self.vocabulary, length, captions=1)

    def decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder. Raises UserError if there is none."""
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many types for a folder without, or with a broken, tokenizer
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{folder}: no tokenizer that transformers can read ({reason})") from error
