"""The demo's trainings: CLIP, the text model, and the stages of every row.

Every training is a folder in `<parts>`, named by a hash of its config and of what it starts from, so that a run with
one line changed repeats only what depends on that line.
"""

from pathlib import Path
from typing import Any

import jax

from tga_jax.checkpoints import orbax_files
from tga_jax.data import sources
from tga_jax.data.templates import Record
from tga_jax.data.tokens import padded, tokenize
from tga_jax.demo.config import TRAINS, Row, Training, World
from tga_jax.demo.world import source, tasks
from tga_jax.demo.world.plan import SPLITS
from tga_jax.inference import embed
from tga_jax.models import llava
from tga_jax.retrieval import captions
from tga_jax.train import optim, step
from tga_jax.train.config import TrainConfig


def slots(world: World, retrieved: bool, text_only: bool, answers: bool) -> int:
    """T of a sequence: begin token, `[INST]`, R, picture, newline, the longest question, `[/INST]`, answer."""
    v, words = world.vocabulary, world.caption_length() - 1
    described = max(words, world.config.text.mix.tile_words) if text_only else world.model.image_tokens
    prefix = len(v.encode("Retrieved Text: ")) + words + 1 if retrieved else 0
    answer = max(words, *(len(v.encode(r)) for r in tasks.REFUSALS)) + 1 if answers else 0
    question = max(
        len(v.encode(tasks.COLOR)) + (len(v.encode(tasks.REFUSALS[0])) + 1 if answers and text_only else 2),
        len(v.encode(tasks.DESCRIBE)) + answer,
    )
    return 2 + prefix + described + 1 + question + 1


def _data(world: World, task: str, length: int, **fields: Any) -> sources.DataConfig:
    return sources.DataConfig(
        tokenizer=str(world.tokenizer),
        lengths=(length,),
        caption_length=world.caption_length(),
        source={"scenes": source.EmojiSource(str(world.data), task, world.scenes, **fields)},
    )


def _optimizer(c: Training, schedule: tuple[tuple[str, float], ...], warmup: float = 0.03) -> optim.OptimConfig:
    return optim.OptimConfig(
        c.learning_rate,
        schedule,
        warmup,
        weight_decay=c.weight_decay,
        kind=c.optimizer,
        newton_schulz=c.newton_schulz,
        preconditioning=c.preconditioning,
    )


def train_clip(world: World) -> Path:
    c = world.config
    return world.train(
        TrainConfig(
            name="clip",
            seed=c.seed,
            model=c.model,
            init={"clip": ""},
            steps=c.clip.steps,
            batch_size=c.clip.batch_size,
            loss=step.LossConfig(lm=0.0, contrastive=1.0),
            optim=_optimizer(c.clip, ((".*", 1.0),), warmup=0.05),
            data=_data(world, "clip", world.caption_length() + 1),
        ),
        "clip",
    )


def train_text(world: World) -> Path:
    c = world.config
    length = slots(world, c.text.mix.retrieved > 0, text_only=True, answers=True)
    return world.train(
        TrainConfig(
            name="text",
            seed=c.seed,
            model=c.model,
            init={"llm": ""},
            steps=c.text.steps,
            batch_size=c.text.batch_size,
            loss=step.LossConfig(embedding_noise=c.text.embedding_noise),
            optim=_optimizer(c.text, ((".*", 1.0),), warmup=0.05),
            data=_data(world, "text", length, mix=c.text.mix),
        ),
        "text",
    )


def attach(world: World, clip_dir: Path) -> Path:
    """Vision features and retrieved captions of every split, by the trained CLIP. Corpus: the training captions."""
    folder = world.folder("attachments", [str(clip_dir)])
    if all((folder / f"{split}.npy").exists() for split in SPLITS):
        return folder
    like = jax.eval_shape(lambda: llava.init(world.model, jax.random.key(0), ("clip",)))["clip"]
    params = orbax_files.load_params(clip_dir, "clip", like)
    corpus = sorted({str(caption) for caption in world.split("train").captions})
    rows = [tokenize(Record(c, (("", c),), template="clip"), world.vocabulary, 0).tokens for c in corpus]
    tokens = padded(rows, world.caption_length() + 1, world.vocabulary.pad_id)
    index = captions.CaptionIndex(corpus, embed.embed_texts(world.model.clip, params, tokens))
    for name in SPLITS:
        split = world.split(name)
        with world.shows(f"vision features, {name}"):
            features, embeddings = embed.features_and_embeddings(world.model, params, split.images)
            nearest = index.nearest(embeddings, [str(c) for c in split.captions])
            source.attach(folder, name, features, [corpus[row] for row in nearest])
    return folder


def train_row(world: World, name: str, row: Row, text_dir: Path, attachments: Path) -> Path:
    """All stages of a row; the folder of its last one. Rows whose first stages agree share them."""
    init = {"projector": "", "llm": str(text_dir)}
    folder = text_dir
    for stage_name, stage in sorted(row.stages.items()):
        length = 1 + world.model.image_tokens + world.caption_length()
        if stage.task != "caption":
            lengths = [slots(world, stage.retrieved_share > 0, text_only=False, answers=True)]
            if stage.text_share:
                lengths.append(slots(world, world.config.text.mix.retrieved > 0, text_only=True, answers=True))
            length = max(lengths)
        folder = world.train(
            TrainConfig(
                name=stage_name,
                seed=world.config.seed,
                model=world.config.model,
                init=dict(init),
                steps=stage.steps,
                batch_size=stage.batch_size,
                loss=step.LossConfig(lm=stage.lm, guide=row.guide if stage.guide else None),
                optim=_optimizer(stage, TRAINS[stage.trains]),
                data=_data(
                    world,
                    stage.task,
                    length,
                    attachments=str(attachments),
                    guided=stage.guided,
                    text_share=stage.text_share,
                    retrieved_share=stage.retrieved_share,
                    mix=world.config.text.mix,
                ),
            ),
            f"{name} {stage_name}",
        )
        init["projector"] = str(folder)
        if stage.trains == "projector_and_llm":
            init["llm"] = str(folder)
    return folder
