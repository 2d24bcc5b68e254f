"""What stands between people and a checkpoint: its tokenizer, its chat template, its image preprocessing."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image

from tga_jax.data import chat_template, images
from tga_jax.data.batch import Batch
from tga_jax.data.prompt import IMAGE, Piece, Prompt
from tga_jax.data.tiles import Grids, placed
from tga_jax.data.tokens import ImageTokens, Tokens, Vocabulary, collate, images_in, prompt_tokens
from tga_jax.errors import UserError
from tga_jax.workdir import read_json

Picture = Image.Image | np.ndarray | str | Path


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    size: int  # I
    tokens: int  # Q: positions that an image, or a tile, takes; 0 for CLIP alone
    mode: str  # one of `images.MODES`
    resample: str = "bicubic"  # this and `color` as in `images.preprocess`
    color: images.Color = images.CLIP_COLOR
    grids: Grids | None = None  # of a model with tiles, whose number of positions differs from picture to picture


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

    def chat(self, messages: Sequence[Mapping[str, Any]], special_tokens: bool = False) -> Prompt:
        """The prompt of a conversation, [{"role": "user", "content": "..."}, ...], up to where the answer starts.

        content: a string, in which `<image>` of a user is a picture, or a list of {"type": "text", "text": "..."} and
        {"type": "image"}. special_tokens: special tokens in what was said, such as `</s>`, are tokens; otherwise they
        are plain text. Raises UserError where the template refuses the messages or leaves out a part of them.
        """
        if not self.tokenizer.chat_template:
            raise UserError("this checkpoint has no chat template; give the whole prompt instead")
        return chat_template.prompt(self.tokenizer, messages, bool(self.image_tokens), special_tokens)

    def pixels(self, pictures: Sequence[Picture]) -> np.ndarray:
        """uint8 [N, I, I, 3]. Raises UserError for a file that is no image, a checkpoint without a vision tower, and
        one that cuts pictures into tiles."""
        if self.image is None:
            raise UserError("this checkpoint has no vision tower, expected prompts without images")
        if self.image.grids is not None:
            raise UserError("this checkpoint cuts pictures into tiles, expected one that takes each as a whole here")
        size, how = self.image.size, {"resample": self.image.resample, "color": self.image.color}
        made = []
        for picture in pictures:
            if isinstance(picture, str | Path):
                made.append(images.load(Path(picture), size, self.image.mode, **how))
            else:
                image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
                made.append(images.preprocess(image, size, self.image.mode, **how))
        return np.stack(made) if made else np.zeros((0, size, size, 3), np.uint8)

    def kept(self, picture: Picture) -> np.ndarray:
        """uint8 [height, width, 3]: what `batch` takes in the picture's place, however often. Raises UserError for a
        file that is no image, and a checkpoint without a vision tower."""
        if self.image is None or self.image.grids is None:
            return self.pixels([picture])[0]
        return np.asarray(_opened(picture))

    def positions(self, pictures: Sequence[np.ndarray]) -> ImageTokens:
        """Of pictures, as `kept` gives them, the number of each one's image tokens, or one number for all; 0 without a
        vision tower."""
        if self.image is None or self.image.grids is None:
            return self.image_tokens
        return tuple(self.image.grids.tokens((len(picture), picture.shape[1])) for picture in pictures)

    def collated(
        self, rows: Sequence[Tokens], pictures: Sequence[Sequence[np.ndarray]], length: int, captions: int = 1
    ) -> Batch:
        """Tokenised prompts and the pictures of each, as `kept` gives them, as a Batch of so many positions."""
        if self.image is None or self.image.grids is None:
            return collate(rows, pictures, self.vocabulary, length, captions)
        grids, resample = self.image.grids, self.image.resample
        cut = [[grids.cut(Image.fromarray(picture), resample) for picture in own] for own in pictures]
        media = [[tile for tiles in own for tile in tiles] for own in cut]
        most = max(map(len, media))
        if not most:
            return collate(rows, media, self.vocabulary, length, captions)
        blank = np.zeros((grids.side, grids.side, 3), np.uint8)
        media[0] += [blank] * (grids.slots(most) - len(media[0]))
        batch = collate(rows, media, self.vocabulary, length, captions)
        sizes = [[(len(picture), picture.shape[1]) for picture in own] for own in pictures]
        sizes = [[(grids.places(size), grids.tiles(size)) for size in own] for own in sizes]
        return batch._replace(image_places=tuple(placed(batch.image_mask, sizes, grids)))

    def batch(
        self, prompts: Sequence[str | Prompt], pictures: Sequence[Sequence[Picture]] | None = None, multiple: int = 1
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
            if isinstance(own, str | Path | Image.Image):
                raise UserError(f"images: {str(own)!r:.80} for prompt {i}, expected a list of its pictures")
            found = prompt.pieces if isinstance(prompt, Prompt) else (Piece(prompt),)
            count = images_in(found) if self.image_tokens else 0
            if count != len(own):
                raise UserError(f"prompt {i}: {count} times {IMAGE} and {len(own)} pictures, expected as many")
        grids = None if self.image is None else self.image.grids
        if grids is not None and grids.most is not None and (several := [i for i, own in enumerate(shown) if own[1:]]):
            raise UserError(f"prompt {several[0]}: {len(shown[several[0]])} pictures, expected one for this checkpoint")
        kept = [[self.kept(picture) for picture in own] for own in shown]
        rows = []
        for i, prompt in enumerate(prompts):
            try:
                rows.append(prompt_tokens(prompt, self.vocabulary, self.positions(kept[i])))
            except UserError as error:
                raise UserError(f"prompt {i}: {error}") from error
        length = -(-max(len(row.tokens) for row in rows) // multiple) * multiple
        return self.collated(rows, kept, length)

    def decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids)


def _opened(picture: Picture) -> Image.Image:
    """RGB. Raises UserError naming the file."""
    if isinstance(picture, str | Path):
        return images.open_file(Path(picture))
    return images.to_rgb(Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture)


def _processor_template(folder: Path) -> str | None:
    """The chat template of transformers' processor, where it is not the tokenizer's. Raises UserError."""
    config, legacy = folder / "processor_config.json", folder / "chat_template.json"
    path = config
    found = read_json(config, "a processor").get("chat_template") if config.exists() else None
    if found is None and legacy.exists():
        path, found = legacy, read_json(legacy, "a chat template", ("chat_template",))["chat_template"]
        if any((folder / "chat_templates").glob("*.jinja")):
            raise UserError(f"{legacy}: beside chat_templates/, expected one of them")
    if not isinstance(found, str | None):
        raise UserError(f"{path}: {found!r:.80} as chat_template, expected a string")
    return found


_IDS = 2**24
_PROBE = "A text: 12 words, ünïcödé, 日本\n"


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, with the chat template that a processor there has. Raises UserError if there is
    none, or if it is code of the folder, which is never run."""
    path = folder / "tokenizer_config.json"
    versions = read_json(path, "a tokenizer's settings").get("fast_tokenizer_files", []) if path.exists() else []
    if not isinstance(versions, list) or not all(isinstance(x, str) and x == Path(x).name for x in versions):
        raise UserError(f"{path}: {versions!r:.80} as fast_tokenizer_files, expected names of files in this folder")
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        tokenizer.decode(tokenizer(_PROBE)["input_ids"])  # some settings are used unchecked, and only then
        if (largest := max(tokenizer.get_vocab().values(), default=0)) >= _IDS:
            raise ValueError(f"a token has the id {largest}, expected ids below {_IDS}")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # of many types; a panic in tokenizers, which is written in Rust, is no Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if "custom code" in reason:
            said = "its tokenizer is code of the folder (auto_map), which is not run; expected a tokenizer.json"
            raise UserError(f"{folder}: {said}") from error
        raise UserError(f"{folder}: no tokenizer that transformers can read ({reason})") from error
    if (template := _processor_template(folder)) is not None:
        tokenizer.chat_template = template
    return tokenizer
