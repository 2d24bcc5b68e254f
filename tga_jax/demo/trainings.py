"""The demo's trainings: CLIP, the text model, and the stages of every row.

Every training is a folder in `<parts>`, named by a hash of its config and of what it starts from, so that a run with
one line changed repeats only what depends on that line.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tga_jax.checkpoints import orbax_files
from tga_jax.data import sources
from tga_jax.data.templates import Record
from tga_jax.data.tokens import Tokens, padded, tokenize
from tga_jax.demo import words
from tga_jax.demo.config import LORA, TRAINS, ClipTraining, Training, World
from tga_jax.demo.world import source
from tga_jax.inference import embed
from tga_jax.models import llava
from tga_jax.retrieval import captions
from tga_jax.train import optim, step
from tga_jax.train.config import TrainConfig
from tga_jax.workdir import alone, replacing

# Records, for the lengths of the batches: of a decoder that reads pieces of words all that most trainings draw; where a
# word is a token there are few lengths.
_LOOKED_AT = {"smollm2": 16_384, "": 4096}
_READ_AHEAD = 1024  # records at most, which a training reads beyond its last
_SPARE = 2  # positions, for records that were not looked at


def _data(world: World, row: str, records: int, task: str, **fields: Any) -> sources.DataConfig:
    """What a training of so many records reads, in batches as long as these are."""
    reads = source.EmojiSource(str(world.data), task, world.scenes, language=world.config.language, **fields)
    if task != "text" and not reads.fresh:
        world.split("train")  # drawn unless they are there
    spoken = world.words if task == "clip" else world.tokens
    looked_at = min(records + _READ_AHEAD, _LOOKED_AT[world.config.llm])
    image_tokens = world.model(row).image_tokens
    known = world.folder("lengths", [dataclasses.asdict(reads), looked_at, spoken.folder.name, image_tokens])
    file = known.with_suffix(".json")
    if not file.exists():  # every cell of the grid asks again, and a look takes seconds
        drawn = reads.dataset(sources.Pictures(world.model().clip.vision.image_size), world.config.seed)
        first: list[Any] = [drawn[i] for i in range(looked_at)]
        rows = [tokenize(record, spoken.vocabulary, image_tokens) for record in first]
        found = _lengths(rows, several=task != "clip" and bool(world.config.llm))
        with replacing(file) as aside:
            aside.write_text(json.dumps(found))
    found = json.loads(file.read_text())
    # A longer record that was not looked at ends the training with a line that names it.
    return sources.DataConfig(
        tokenizer=str(spoken.folder),
        source={"scenes": reads},
        lengths=tuple(found["lengths"]),
        labels=tuple(found["labels"]),
        caption_length=found["caption_length"],
    )


def _lengths(rows: Sequence[Tokens], several: bool) -> dict[str, Any]:
    """Fields of DataConfig.

    several: of a large decoder padding costs more than another compilation, and logits more than blocks.
    """
    longest = max(len(found.tokens) for found in rows) + _SPARE
    lengths, labels = [longest], []
    if several:
        ends = [np.quantile([len(found.tokens) for found in rows], share) for share in (0.35, 0.75)]
        lengths = sorted({*(int(np.ceil(end)) for end in ends), longest})
        most = max(int(found.targets.sum()) for found in rows) + _SPARE
        labels = [min(most, length) for length in lengths]
    caption_length = max(len(found.caption) for found in rows) + _SPARE
    return {"lengths": lengths, "labels": labels, "caption_length": caption_length}


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


def _drawing() -> int:
    """How many processes draw CLIP's pictures, where cores are to spare: one core draws a batch in 0.1 to 0.2 s."""
    return min(6, (os.cpu_count() or 1) // 4)


def train_clip(world: World, row: str = "") -> Path:
    """The CLIP that a row sees with: the config's, or that one trained further, patches too."""
    c = world.config
    folder = _train_clip(world, "clip", c.clip, "", patches=0.0)
    if row not in c.rows or not c.rows[row].patches:
        return folder
    assert c.patches is not None  # or there would be no such config
    return _train_clip(world, "patches", c.patches, str(folder), patches=1.0)


def _train_clip(world: World, name: str, c: ClipTraining, init: str, patches: float) -> Path:
    drawn = {name: getattr(c, name) for name in ("fresh", "others", "pairs", "variation", "ramp")}
    return world.train(
        TrainConfig(
            name=name,
            seed=world.config.seed,
            model=world.config.model,
            init={"clip": init},
            steps=c.steps,
            batch_size=c.batch_size,
            loss=step.LossConfig(lm=0.0, contrastive=1.0, patches=patches),
            optim=_optimizer(c, ((".*", 1.0),), warmup=0.05),
            data=_data(world, "", c.steps * c.batch_size, "clip", **drawn),
            processes=_drawing() if c.fresh else 0,
        ),
        name,
    )


def train_text(world: World) -> Path:
    c = world.config
    return world.train(
        TrainConfig(
            name="text",
            seed=c.seed,
            model=c.model,
            init={"llm": words.decoder(c, world.parts)},
            steps=c.text.steps,
            batch_size=c.text.batch_size,
            loss=step.LossConfig(embedding_noise=c.text.embedding_noise),
            optim=_optimizer(c.text, ((".*", 1.0),), warmup=0.05),
            data=_data(world, "", c.text.steps * c.text.batch_size, "text", mix=c.text.mix),
        ),
        "text",
    )


def attach(world: World, clip_dir: Path) -> Path:
    """Vision features and retrieved captions of every split, by the trained CLIP. Corpus: the training captions."""
    model = world.model()
    reads = [str(clip_dir), model.feature_layer, model.feature_select]
    folder = world.folder("attachments", reads, model.clip)
    with alone(folder):
        if not all((folder / f"{split}.npy").exists() for split in world.splits):
            _attach(world, clip_dir, folder)
    return folder


def _attach(world: World, clip_dir: Path, folder: Path) -> None:
    model, clip_words = world.model(), world.words.vocabulary
    like = jax.eval_shape(lambda: llava.init(model, jax.random.key(0), ("clip",)))["clip"]
    params = orbax_files.load_params(clip_dir, "clip", like)
    corpus = sorted({str(caption) for caption in world.split("train").captions})
    rows = [tokenize(Record(c, (("", c),), template="clip"), clip_words, 0).tokens for c in corpus]
    tokens = padded(rows, max(map(len, rows)), clip_words.pad_id)
    index = captions.CaptionIndex(corpus, embed.embed_texts(model.clip, params, tokens))
    for name in world.splits:
        split = world.split(name)
        with world.shows(f"vision features, {name}"):
            features, embeddings = embed.features_and_embeddings(model, params, split.images)
            nearest = index.nearest(embeddings, [str(c) for c in split.captions])
            source.attach(folder, name, features, [corpus[row] for row in nearest])


def train_row(world: World, name: str, text_dir: Path, attachments: Path, until: str = "") -> dict[str, Path]:
    """All stages of a row, or those up to `until`: "projector" and "llm" -> the training that each comes from. Rows
    whose first stages agree share them."""
    row, c = world.config.rows[name], world.config
    init = {"projector": "", "llm": str(text_dir)}
    for stage_name, stage in sorted(row.stages.items()):
        if until and stage_name > until:
            break
        data = _data(
            world,
            name,
            stage.steps * stage.batch_size,
            stage.task,
            attachments=str(attachments),
            shown=stage.shown,
            guided=stage.guided,
            wrong_captions=stage.wrong_captions,
            wrong_guides=stage.wrong_guides,
            text_share=stage.text_share,
            retrieved_share=stage.retrieved_share,
            mix=c.text.mix if stage.text_share else None,
        )
        folder = world.train(
            TrainConfig(
                name=stage_name,
                seed=c.seed,
                model=world.model_name(name),
                init=dict(init),
                projector_length="free" if init["projector"] or not c.llm else "words",
                steps=stage.steps,
                batch_size=stage.batch_size,
                loss=step.LossConfig(lm=stage.lm, guide=row.guide_of(stage_name)),
                optim=_optimizer(stage, TRAINS[stage.trains]),
                data=data,
                lora=LORA if stage.trains == "projector_and_lora" else None,
            ),
            f"{name} {stage_name}",
        )
        init["projector"] = str(folder)
        if stage.trains != "projector":
            init["llm"] = str(folder)
    return {part: Path(folder) for part, folder in init.items()}
