"""The door for Python: a checkpoint as one object to run, to ask and to look into.

Dimension letters: B batch, T positions, N pictures, I image size, L layers, D hidden size, V vocabulary, E embedding.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from tga_jax.checkpoints import convert, download, hub, spec
from tga_jax.checkpoints.spec import Spec
from tga_jax.data.batch import Batch
from tga_jax.data.processor import Picture, Processor
from tga_jax.data.prompt import Prompt
from tga_jax.data.tiles import Places, placed
from tga_jax.errors import UserError
from tga_jax.inference import embed
from tga_jax.inference.decode import Decoding, generate_all, language_model, stream
from tga_jax.inference.sampling import Sampling
from tga_jax.models import clip, llama, llava, quantization

Array = jax.Array


# Arguments of transformers' `generate`, and what stands for them here.
_THEIRS = {
    "max_new_tokens": "transformers' max_new_tokens is new_tokens here",
    "max_length": "transformers' max_length is new_tokens here, without the prompt's",
    "do_sample": "here a temperature above 0 samples",
    "num_beams": "there is no beam search here",
    "stop_strings": "transformers' stop_strings is stop here",
}


class Output(NamedTuple):
    logits: Array  # float32 [B, T, V]
    # [L+1, B, T, D]: 0 is the input embeddings, i the output of block i, the last one before the final norm.
    hidden_states: Array


@partial(jax.jit, static_argnames="config")
def _forward(
    config,
    params: dict,
    tokens: Array,
    valid: Array,
    image_mask: Array,
    pixels: Array | None,
    places: Places | None,
) -> Output:
    decoder = llama.bound(language_model(config), params["llm"], emit_states=True)
    if pixels is None:
        x = decoder(tokens, method="embed")
    else:
        features = clip.vision_features(
            config.clip.vision, params["clip"]["vision"], pixels, config.feature_layer, config.feature_select
        )
        # All rows as one: the pictures fill the marked positions in order, however many a row has.
        flat = tokens.reshape(1, -1), image_mask.reshape(1, -1)
        own: Any = places  # traced
        x = llava.embed(config, params, *flat, features[None], own).reshape(*tokens.shape, -1)
    out = decoder(x, llama.positions(valid, left=True), valid)
    return Output(decoder(out.hidden, method="logits"), out.states)


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded checkpoint: LLaVA, a language model alone, or CLIP.

    params: nested by part ("clip", "projector", "llm"); spec: what the hub's config said. The decoder's blocks
    are separate (`llama.separate_blocks`), or stacked as in training if `load` was told so.
    """

    spec: Spec
    params: dict[str, Any]
    processor: Processor

    def __repr__(self) -> str:
        """One line a part: sizes, and how many numbers of which type its parameters are."""
        lines = []
        for part, tree in self.params.items():
            leaves = jax.tree.leaves(tree)
            count, types = sum(x.size for x in leaves), ", ".join(sorted({x.dtype.name for x in leaves}))
            lines.append(f"  {part}: {count:,} parameters in {types}\n")
        family = f" of the family {self.spec.family}" if self.spec.family else ""
        image = self.processor.image
        each = " a tile" if image and image.grids else ""
        seen = f"  pictures: {image.size} pixels, {image.tokens} tokens{each}, mode {image.mode}\n" if image else ""
        words = f"  vocabulary: {self.spec.llm.vocab_size:,}\n" if self.spec.llm else ""
        return f"Model({self.spec.kind}{family}\n{''.join(lines)}{words}{seen})"

    @property
    def config(self) -> llava.LlavaConfig | llama.LlamaConfig | clip.ClipConfig:
        return self.spec.config

    @property
    def context(self) -> int | None:
        """Tokens of a prompt and its answer, at most; None if the checkpoint does not say."""
        return self.spec.hub_fields.get("max_position_embeddings")

    def language_config(self) -> Any:
        """Of a model that answers. Raises UserError for a CLIP."""
        if isinstance(self.config, clip.ClipConfig):
            raise UserError("this checkpoint is a CLIP, expected one with a language model")
        return self.config

    def _towers(self) -> clip.ClipConfig:
        if not isinstance(self.config, clip.ClipConfig) or self.config.text is None:
            raise UserError("embedding needs both towers, expected a CLIP checkpoint")
        return self.config

    def forward(
        self, input_ids: Any, attention_mask: Any = None, pixel_values: Any = None, image_sizes: Any = None
    ) -> Output:
        """Logits and all hidden states, as transformers' models take their input.

        input_ids: int [B, T], with the checkpoint's image token at each position of a picture; attention_mask: 0 on
        padding, on either side; pixel_values: float [N, 3, I, I], normalised; of a model with tiles float
        [N, tiles, 3, I, I], those of a picture first, and image_sizes: int [N, 2], the pictures' (height, width).
        Raises UserError if the image tokens do not match the pictures, and for a token that the table has no row for.
        """
        config = self.language_config()
        tokens = np.asarray(input_ids, np.int32)
        if tokens.ndim != 2:
            raise UserError(f"input_ids: of shape {list(tokens.shape)}, expected [rows, positions]")
        valid = np.ones(tokens.shape, bool) if attention_mask is None else np.asarray(attention_mask).astype(bool)
        mask, pixels, places = np.zeros(tokens.shape, bool), None, None
        if isinstance(config, llava.LlavaConfig):
            mask = (tokens == self.spec.image_token_id) & valid
            pixels, places = self._pictures(mask, pixel_values, image_sizes)
        elif pixel_values is not None:
            raise UserError("this checkpoint has no vision tower, expected input without pixel_values")
        self.processor.vocabulary.check(tokens[valid & ~mask])
        tokens = np.where(valid & ~mask, tokens, self.processor.pad_id)  # of a row that is there: NaN would spread
        return _forward(config, self.params, tokens, valid, mask, pixels, places)

    def _pictures(
        self, mask: np.ndarray, pixel_values: Any, image_sizes: Any
    ) -> tuple[np.ndarray | None, Places | None]:
        """(pixels [N, I, I, 3], of a model with tiles the places of the image tokens, all rows as one). Raises
        UserError as `forward` does."""
        assert self.processor.image is not None
        expected, grids = self.processor.image.tokens, self.processor.image.grids
        count = 0 if pixel_values is None else len(pixel_values)
        if (image_sizes is None) == bool(count and grids):
            raise UserError(f"image_sizes: {image_sizes}, expected the pictures' sizes for a model with tiles, only")
        if grids is None or pixel_values is None:
            if mask.sum() != count * expected:
                raise UserError(f"{mask.sum()} image tokens and {count} pictures, expected {expected} a picture")
            pixels = None if pixel_values is None else np.asarray(pixel_values, np.float32)
            return None if pixels is None else pixels.transpose(0, 2, 3, 1), None
        sizes = [(int(height), int(width)) for height, width in np.asarray(image_sizes)]
        found = [(grids.places(each), grids.tiles(each)) for each in sizes]
        if len(sizes) != count or mask.sum() != (wanted := sum(len(places.index) for places, _ in found)):
            raise UserError(f"{mask.sum()} image tokens and {count} pictures, expected {wanted} for sizes {sizes}")
        own = [np.asarray(of, np.float32)[:n] for of, (_, n) in zip(pixel_values, found, strict=True)]
        return np.concatenate(own).transpose(0, 2, 3, 1), placed(mask.reshape(1, -1), [found], grids)

    def prompt_batch(
        self,
        prompts: Sequence[str | Prompt],
        images: Sequence[Sequence[Picture]] | None,
        new_tokens: int,
        multiple: int = 1,
    ) -> Batch:
        """Raises UserError for what `Processor.batch` refuses, and for what is longer than the model's context."""
        batch = self.processor.batch(prompts, images, multiple)
        longest = int(batch.valid.sum(1).max())
        if self.context is not None and longest + new_tokens > self.context:
            raise UserError(f"a prompt of {longest} tokens and {new_tokens} new ones, expected at most {self.context}")
        return batch

    def generate(
        self,
        prompts: Sequence[str | Prompt],
        images: Sequence[Sequence[Picture]] | None = None,
        *,
        new_tokens: int = 256,
        stop: Sequence[str] = (),
        seed: int = 0,
        batch_size: int | None = None,
        multiple: int = 1,
        numbers: Sequence[int] | None = None,
        **sampling: Any,
    ) -> list[str]:
        """Answers to whole prompts; `.processor.chat` makes one of a conversation.

        prompts: in a string, every special token is one; in a `Prompt`, those that the template wrote;
        images: for every prompt, the pictures of its `<image>`; stop: texts at which an answer is cut; batch_size: how
        many are answered at once, 16 or all if fewer by default, filled up if there are fewer; multiple: of which the
        padded length is one; sampling: the fields of `Sampling`, greedy by default; numbers: of the prompts, from which
        sampling's keys come. A row's answer does not depend on the others.
        """
        if isinstance(prompts, str | Prompt):
            raise UserError("prompts: a string, expected a list of prompts")
        how = self.decoding(sampling)
        config, batch = self.language_config(), self.prompt_batch(prompts, images, new_tokens, multiple)
        batch_size = min(16, len(prompts)) if batch_size is None else batch_size
        if stop:  # then the host has to look at the text every now and then
            texts = [""] * len(prompts)
            for ids in stream(config, self.params, batch, how, new_tokens=new_tokens, seed=seed, every=16):
                texts = [self.answer_text(row) for row in ids]
                if all(any(s in text for s in stop) for text in texts):
                    break
            return [_cut(text, stop) for text in texts]
        sizes = {"new_tokens": new_tokens, "batch_size": batch_size}
        ids = generate_all(config, self.params, batch, how, **sizes, seed=seed, numbers=numbers)
        return [self.answer_text(row) for row in ids]

    def ask(self, picture: Picture | None, question: str, **how: Any) -> str:
        """The answer to one question about one picture, or about none, in the checkpoint's chat template; how: as of
        `generate`."""
        shown = [] if picture is None else [picture]
        content = [*({"type": "image"} for _ in shown), {"type": "text", "text": question}]
        return self.generate([self.processor.chat([{"role": "user", "content": content}])], [shown], **how)[0]

    def decoding(self, sampling: dict[str, Any]) -> Decoding:
        """Raises UserError for a name that `Sampling` has not, and for a value that it cannot have."""
        known = [field.name for field in dataclasses.fields(Sampling)]
        for name in sampling:
            if name not in known:
                meant = f"; {_THEIRS[name]}" if name in _THEIRS else ""
                raise UserError(f"{name}: unknown, expected one of {', '.join(known)}{meant}")
        try:
            return Decoding(self.processor.stop_ids, self.processor.pad_id, Sampling(**sampling))
        except (ValueError, TypeError) as error:
            raise UserError(str(error)) from error

    def answer_text(self, ids: np.ndarray) -> str:
        """Up to the first stop token: padding may be a word of its own."""
        ends = np.flatnonzero(np.isin(ids, self.processor.stop_ids))
        return self.processor.decode((ids[: ends[0]] if len(ends) else ids).tolist())

    def stream(
        self,
        prompt: str | Prompt,
        images: Sequence[Picture] = (),
        *,
        new_tokens: int = 256,
        stop: Sequence[str] = (),
        seed: int = 0,
        **sampling: Any,
    ) -> Iterator[str]:
        """The answer in pieces, as they come. Together they are what `generate` gives."""
        if not isinstance(prompt, str | Prompt):
            raise UserError(f"prompt: {type(prompt).__name__}, expected a string")
        how = self.decoding(sampling)
        batch = self.prompt_batch([prompt], [images], new_tokens)
        written = Written(self, tuple(stop))
        for ids in stream(self.language_config(), self.params, batch, how, new_tokens=new_tokens, seed=seed):
            if piece := written.more(ids[0]):
                yield piece
            if written.stopped:
                return
        if piece := written.rest():
            yield piece

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit CLIP embeddings float32 [N, E]; texts are cut at the tower's context, the end token kept. Special tokens
        in them are plain text, or an embedding would be of what stands before an end token there.

        Raises UserError naming a text with a token that the table has no row for, a text that the tokenizer does not
        end where the tower reads it, and an embedding that is NaN.
        """
        towers = self._towers()
        assert towers.text is not None
        tokens = embed.text_tokens(towers.text, self.processor.vocabulary, texts)
        return _finite(embed.embed_texts(towers, self.params["clip"], tokens), "text")

    def embed_images(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Unit CLIP embeddings float32 [N, E]. Raises UserError for one that is NaN."""
        pixels = self.processor.pixels(pictures)
        return _finite(embed.embed_images(self._towers(), self.params["clip"], pixels), "picture")


@dataclasses.dataclass
class Written:
    """The text of one answer while its tokens come. stop: texts at which it is cut; stopped: at one of them."""

    model: Model
    stop: tuple[str, ...] = ()
    stopped: bool = False
    _told: str = ""
    _text: str = ""

    def more(self, ids: np.ndarray) -> str:
        """What is new; ids: all tokens so far. Half a character, and what may become a stop text, are held back."""
        text = self.model.answer_text(ids)
        self.stopped = any(s in text for s in self.stop)
        self._text = _cut(text, self.stop)
        safe = len(self._text) if self.stopped else len(self._text) - _held(self._text, self.stop)
        if safe <= len(self._told) or not self._text.startswith(self._told):
            return ""
        piece, self._told = self._text[len(self._told) : safe], self._text[:safe]
        return piece

    def rest(self) -> str:
        """What was held back, once there are no more tokens."""
        return "" if self._text == self._told else self._text[len(self._told) :]


def _finite(embeddings: np.ndarray, what: str) -> np.ndarray:
    wrong = np.flatnonzero(~np.isfinite(embeddings).all(-1))
    if len(wrong):
        raise UserError(
            f"{what} {wrong[0]}: its embedding is NaN, expected numbers; the checkpoint's weights are damaged, or "
            "overflow in this dtype"
        )
    return embeddings


def _cut(text: str, stop: Sequence[str]) -> str:
    found = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(found)] if found else text


def _held(text: str, stop: Sequence[str]) -> int:
    """How many last characters may still change: of an unfinished character, or of the start of a stop text."""
    if text.endswith("\N{REPLACEMENT CHARACTER}"):
        return 1
    return max((n for s in stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)


def load(folder: str | Path, dtype: str | None = None, mesh: Mesh | None = None, *, stacked: bool = False) -> Model:
    """A hub folder or its name, such as `org/name` or `org/name@revision`, or a checkpoint of ours, as a Model.

    dtype: "float32" or "bfloat16", or "fp32" or "bf16", of parameters and computation; None: bfloat16 for a hub folder,
    as stored for ours; "int8", "int4" or "nf4": as None, with the kernels of the decoder's blocks in these bits, as
    `models.quantization` makes them. mesh: where parameters lie; None: on one device. stacked: the decoder's blocks as
    one array for each parameter, as training and patching take them, which compiles faster and generates slower. Raises
    UserError naming what is missing or does not fit.
    """
    path, dtype = download.local(folder), convert.SHORT.get(dtype or "", dtype)
    known = (*convert.DTYPES, *quantization.KINDS)
    if dtype not in (None, *known):
        raise UserError(f"dtype: {dtype!r}, expected one of {', '.join(known)}")
    kind, dtype = (dtype, None) if dtype in quantization.KINDS else (None, dtype)
    ours = (path / spec.FILE).exists()
    model, found = (spec.read(path), {}) if ours else hub.open_hub(path)
    if dtype is not None or not ours:
        model = hub.with_dtype(model, dtype or "bfloat16")
    if kind is not None and model.llm is None:
        raise UserError(f"dtype: {kind!r} is of a decoder's kernels, and {path} is a CLIP")
    if kind is not None:
        params = hub.load_in_bits(path, model, kind, mesh)
    elif ours:
        params = hub.load_params(path, model, mesh)
    else:
        params = convert.load(model, found, str(path), dtype or "bfloat16", mesh, stacked)
    if "llm" in params and not stacked and not llama.are_separate(params["llm"]):
        params["llm"] = llama.separate_blocks(params["llm"], free=True)
    return Model(model, params, hub.processor(path / spec.HUB if ours else path, model))
