"""A tiny model, a few pictures in LLaVA's JSON, and a training of seconds on them."""

import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from PIL import Image

from tga_jax.checkpoints import orbax_files
from tga_jax.data import sources
from tga_jax.data.llava_source import LlavaSource
from tga_jax.data.sources import DataConfig
from tga_jax.data.tokens import Tokens, tokenize
from tga_jax.demo.world import tasks
from tga_jax.guides import Released
from tga_jax.models import clip, llama, llava, presets, sharding
from tga_jax.train import loop
from tga_jax.train.config import TrainConfig
from tga_jax.train.optim import OptimConfig
from tga_jax.train.step import LossConfig

CAPTIONS = ("a cat on a red background", "a dog on a blue background", "a gun on a green background")


def model() -> llava.LlavaConfig:
    return llava.LlavaConfig(
        clip=clip.ClipConfig(
            vision=clip.VisionConfig(8, 1, 2, 16, image_size=8, patch_size=4),
            text=clip.TextConfig(8, 1, 2, 16, vocab_size=64, context_length=8, eos_token_id=2),
            embed_size=8,
        ),
        llm=llama.LlamaConfig(64, 16, 3, 2, 1, 8, 24, 1e4, 1e-5, None, True),
        feature_layer=-1,
    )


def write_data(folder: Path) -> None:
    """tokenizer/, samples.json (pictures, one sample without R, one text only) and images/."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    tasks.build_tokenizer(CAPTIONS).save_pretrained(folder / "tokenizer")
    samples = []
    for i, caption in enumerate(CAPTIONS * 2):
        Image.fromarray(rng.integers(0, 256, (6 + i, 9, 3), dtype=np.uint8)).save(folder / "images" / f"{i}.png")
        turns = [{"from": "human", "value": "<image>\ndescribe this"}, {"from": "gpt", "value": caption}]
        samples.append({"id": f"s{i}", "image": f"{i}.png", "conversations": turns, "image_caption": caption})
        if i:
            samples[-1]["retrieved_caption"] = CAPTIONS[(i + 1) % 3]
    turns = [{"from": "human", "value": "a gun"}, {"from": "gpt", "value": "i can not talk about that"}]
    samples.append({"id": "text", "conversations": turns})
    (folder / "samples.json").write_text(json.dumps(samples))


def config(folder: Path, **fields) -> TrainConfig:
    """Stage 2 on the data in `folder`: 4 steps, every one logged, saved after step 3."""
    data = DataConfig(
        tokenizer=str(folder / "tokenizer"),
        lengths=(40,),
        caption_length=12,
        source={"own": LlavaSource(str(folder / "samples.json"), str(folder / "images"))},
    )
    defaults = {
        "name": "tiny",
        "seed": 3,
        "model": "tiny",
        "init": {"clip": "", "projector": "", "llm": ""},
        "steps": 4,
        "batch_size": 2,
        "loss": LossConfig(guide=Released(layers=(1, 2)), embedding_noise=1.0),
        "optim": OptimConfig(1e-2, ((r"clip/.*", 0.0), (r".*", 1.0))),
        "data": data,
        "log_every": 1,
        "checkpoint_every": 3,
    }
    return TrainConfig(**{**defaults, **fields})


def rows(config: TrainConfig) -> list[Tokens]:
    """The first samples of a training, tokenised."""
    vocabulary = sources.vocabulary(config.data)
    records = sources.records(config.data, sources.Pictures(8), config.seed)
    return [tokenize(records[i], vocabulary, 4) for i in range(32)]  # pyright: ignore[reportArgumentType]


def trained(workdir: Path, config: TrainConfig) -> dict[str, np.ndarray]:
    """The parameters that a training of `model` left, by path."""
    model = presets.get("tiny", sources.vocabulary(config.data).size)
    like = jax.eval_shape(lambda: llava.init(model, jax.random.key(0)))
    parts = json.loads((workdir / "params" / "parts.json").read_text())
    found = {part: orbax_files.load_params(workdir, part, like[part]) for part in parts}
    return {path: np.asarray(x) for path, x in flatten_dict(found, sep="/").items()}


def at_step(number: int, act) -> None:
    """Calls `act` when this process is about to run its `number`-th step from now."""
    original, seen = sharding.place_batch, []

    def place_batch(batch, mesh):
        seen.append(None)
        if len(seen) == number:
            act()
        return original(batch, mesh)

    sharding.place_batch = place_batch


def run_and_die(folder: str, workdir: str, saves: str, whole: str) -> None:
    """A training that saves after every step and that SIGKILL ends after so many saves: once the last one is on disk
    (whole is "1"), or as soon as it is being written."""
    presets.LLAVA["tiny"] = model
    original, seen = orbax_files.Checkpoints.save, []

    def save(self, *arguments):
        original(self, *arguments)
        seen.append(None)
        if len(seen) < int(saves) or int(whole):
            self.wait()
        if len(seen) == int(saves):
            os.kill(os.getpid(), signal.SIGKILL)

    orbax_files.Checkpoints.save = save
    loop.run(config(Path(folder), checkpoint_every=1), Path(workdir))


if __name__ == "__main__":
    run_and_die(*sys.argv[1:])
