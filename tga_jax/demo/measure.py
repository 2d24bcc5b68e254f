"""The demo's measurements: every row's answers and rates, and the hidden states behind them."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import tga_jax
from tga_jax.analysis.hidden_states import CHANGES, Ranking, RefusalLayers, cosine_curves, probe, refusal_layers
from tga_jax.analysis.instruments import modality_probe, norm_ratio, retrieval_accuracy, token_states, word_share
from tga_jax.analysis.patching import refusal_curves, text_twins
from tga_jax.data.batch import Batch
from tga_jax.data.prompt import Prompt
from tga_jax.data.templates import Piece, Record, pieces
from tga_jax.data.tokens import collate, tokenize
from tga_jax.demo import rates
from tga_jax.demo.config import World
from tga_jax.demo.rates import Answer, Item
from tga_jax.demo.world import source, tasks
from tga_jax.demo.world.pictures import EmojiSplit
from tga_jax.inference.model import Model
from tga_jax.models import llava
from tga_jax.train import stopping
from tga_jax.workdir import read_json, write_json

# (split, retrieved text in the prompt, questions that no training has)
MEASURED = (
    ("test", False, False),
    ("test", False, True),
    ("test", True, False),
    ("test_pairs", False, False),
    ("test_hand", False, False),
    ("test_two", False, False),
)
SEEN = ("test", "test_hand", "test_two")  # splits that are asked about with the answer begun, too
_TOGETHER = 64  # prompts at most that are answered at once
_LENGTHS = 16  # tokens; prompts are padded to a multiple of it
PATCHED = 28  # harmful captions, about, that are looked at by patching


def load(folder: Path) -> Model:
    """A model that the demo trained, in the form that can be looked into."""
    return tga_jax.load(folder, stacked=True)


def _asked(pictures: EmojiSplit, most: int) -> list[int]:
    """Rows of a split, in its order: all, or at most `most` of each kind, evenly spaced."""
    if not most:
        return list(range(len(pictures)))
    harmful, alike = pictures.harmful, pictures.look_alike
    chosen: list[int] = []
    for kind in (harmful, alike & ~harmful, ~harmful & ~alike):
        rows = np.flatnonzero(kind)
        count = min(most, len(rows))
        chosen += [int(rows[i * len(rows) // count]) for i in range(count)]
    return sorted(chosen)


def items(world: World, split: str, attachments: Path | None = None, most: int | None = None) -> list[Item]:
    """The pictures of a split that rows are asked about; their retrieved texts are in `attachments`, without it empty.

    most: of each kind, the config's by default.
    """
    pictures = world.split(split)
    scenes = source.scenes_of(pictures)
    retrieved = source.load_attachments(attachments, split)[1] if attachments else [""] * len(scenes)
    return [
        Item(
            scenes[i],
            str(pictures.scenes[i]),
            bool(pictures.look_alike[i]),
            partial(pictures.images.__getitem__, i),
            retrieved[i],
        )
        for i in _asked(pictures, world.config.asked if most is None else most)
    ]


def measured(world: World) -> tuple[tuple[str, bool, bool], ...]:
    """Those of MEASURED that this world has."""
    return tuple(m for m in MEASURED if m[0] in world.splits and (world.language.new_describe or not m[2]))


def key(split: str, retrieved_text: bool, new: bool) -> str:
    """Such as "test", "test+retrieved", "test+new"."""
    return split + ("+retrieved" if retrieved_text else "") + ("+new" if new else "")


def generator(model: Model, new_tokens: int, begun: str = "") -> rates.Generate:
    """begun: what each answer begins with, which the model has to go on from and does not return."""

    def generate(records: Sequence[Record]) -> list[str]:
        stopping.stop_if_asked()
        made = [pieces(record, model.processor.tokenizer, prompt_only=True) for record in records]
        prompts = [Prompt((*found, *([Piece(begun)] if begun else []))) for found in made]
        images = [[image() for image in record.images] for record in records]
        # The last batch is filled up, so all are about as large; each padded length is compiled, so there are few.
        size = math.ceil(len(records) / max(1, math.ceil(len(records) / _TOGETHER)))
        return model.generate(prompts, images, new_tokens=new_tokens, batch_size=size, multiple=_LENGTHS)

    return generate


@dataclasses.dataclass(frozen=True)
class Measured:
    """Rates of one model, and the raw answers behind them by what was asked."""

    rows: list[dict[str, Any]]
    answers: dict[str, list[Answer]]  # "text", and the keys of `key`


def measure_row(world: World, name: str, model: Path, folder: Path, attachments: Path) -> Measured:
    """Evaluates a row's model, or reads what an earlier run stored in `folder`, where its last stage was trained."""
    speech, asked = world.language, measured(world)
    stored_as = world.folder(
        f"evaluation-{name}", [str(folder), str(attachments), world.config.new_tokens, world.config.asked]
    ).name
    path = folder / f"{stored_as}.json"
    if path.exists():
        stored = read_json(path, "the answers of an earlier run", ("rows", "answers"))
        answers = {key: [Answer(**answer) for answer in rows] for key, rows in stored["answers"].items()}
        return Measured(stored["rows"], answers)
    generate = generator(load(model), world.config.new_tokens)
    held_out = {split: items(world, split, attachments) for split in dict.fromkeys(split for split, *_ in asked)}
    answers = {"text": rates.ask_text(speech, generate, [item for found in held_out.values() for item in found])}
    text = rates.text_rates(answers["text"])
    rows = []
    for split, retrieved_text, new in asked:
        found = rates.ask(speech, generate, held_out[split], retrieved_text, new)
        answers[key(split, retrieved_text, new)] = found
        row = {"name": name, "retrieved_text": retrieved_text, "split": split, "new_questions": new}
        rows.append({**row, **rates.image_rates(speech, found), "text_dsr": text["text_dsr"]})
    stored = {key: [dataclasses.asdict(answer) for answer in found] for key, found in answers.items()}
    write_json(path, {"rows": rows, "answers": stored})
    return Measured(rows, answers)


def measure_text(world: World, model: Path) -> tuple[dict[str, Any], list[Answer]]:
    """The text model itself, before any picture, on all captions."""
    scenes = [item for split in dict.fromkeys(m[0] for m in measured(world)) for item in items(world, split)]
    answers = rates.ask_text(world.language, generator(load(model), world.config.new_tokens), scenes)
    return rates.text_rates(answers), answers


@dataclasses.dataclass(frozen=True)
class Inside:
    """What the hidden states of one model show on harmful held-out scenes."""

    refusal: RefusalLayers
    by_difference: RefusalLayers  # as the released code ranks the layers' changes
    # Of pictures only; each list is [L+1].
    cosine: dict[str, dict[str, list[float]]] | None = None  # "raw" and "centred" -> matched, mismatched
    wordlike: dict[str, list[float]] | None = None  # instrument -> its value by layer
    # What is taken over from the text twin -> share refused, by the block from which on, and without any.
    patching: dict[str, list[float]] | None = None
    patched_at: list[int] | None = None  # blocks


def prompts(model: Model, records: Sequence[Record]) -> Batch:
    """Prompts with their captions."""
    vocabulary = model.processor.vocabulary
    rows = [tokenize(record, vocabulary, model.processor.image_tokens, prompt_only=True) for record in records]
    media = [[image() for image in record.images] for record in records]
    length, captions = (max(len(getattr(row, name)) for row in rows) for name in ("tokens", "caption"))
    return collate(rows, media, vocabulary, length, captions)


def inside(
    world: World, model: Model, held_out: Sequence[Item], most: int | None = None, every: int = 1, few: int = PATCHED
) -> Inside:
    """Logit lens over one picture of each harmful caption, or, of a language model alone, over the captions as text; of
    pictures also how like words their tokens are, and patching.

    most: of these captions, evenly spaced; every: how many blocks lie between those that are patched; few: captions,
    about, that are patched.
    """
    stopping.stop_if_asked()
    speech = world.language
    config, params, vocabulary = model.config, model.params, model.processor.vocabulary
    with_image = isinstance(config, llava.LlavaConfig)
    chosen = list({speech.caption(item.scene): item for item in held_out if item.kind}.values())
    chosen = chosen[:: max(1, len(chosen) // most)] if most else chosen
    question = speech.describe[0]
    records = [tasks.question_record(speech, i.scene, i.image if with_image else None, question) for i in chosen]
    batch = prompts(model, records)
    found = jax.tree.map(np.asarray, probe(config, params, batch))
    refusal_ids = sorted({vocabulary.encode(phrase)[0] for phrase in speech.refusals})
    refusal, by_difference = (refusal_layers(found["lens"], refusal_ids, Ranking(change)) for change in CHANGES)
    if not with_image:
        return Inside(refusal, by_difference)
    twins, where = text_twins(batch), batch.image_mask
    image, text = (
        np.asarray(token_states(config, params, b, where, count=model.processor.image_tokens)) for b in (batch, twins)
    )
    harmful = [{w for name in i.scene.names for w in vocabulary.encode(f" {name}")} for i in chosen]
    words = [tokens[at] for tokens, at in zip(twins.tokens, where, strict=True)]
    is_harmful = np.array([[w in names for w in row] for row, names in zip(words, harmful, strict=True)])
    retrieval = retrieval_accuracy(image, text)
    wordlike = {
        "own caption found, pooled": retrieval["pooled"],
        "own caption found, by token": retrieval["token"],
        "tokens nearest to the harmful word": word_share(image, text, is_harmful),
        "picture told from text by a linear probe": modality_probe(image, text, world.config.seed),
        "norm, pictures over words": norm_ratio(image, text),
    }
    rows = np.arange(0, len(chosen), max(1, len(chosen) // few))
    patched, donors = (jax.tree.map(lambda x: x[rows], b) for b in (batch, twins))
    at = list(range(0, config.llm.num_layers, every))
    patching = refusal_curves(config, params, patched, donors, refusal_ids, at)
    # Captions of one thing follow each other, one a colour: half the list away is another thing.
    cosine = cosine_curves(found["image"], found["caption"], shift=len(chosen) // 2)
    return Inside(refusal, by_difference, cosine, wordlike, patching, at)
