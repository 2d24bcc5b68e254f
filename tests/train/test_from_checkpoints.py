"""configs/fork_me.py on twins of public checkpoints, which no preset knows: both stages, what comes of them, and what
does not fit."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import rich.console
import torch
import train_support
import transformers
import twins
from PIL import Image

import tga_jax
from tga_jax import cli, config
from tga_jax.checkpoints import hub
from tga_jax.cli.flags import parse_with_config, training
from tga_jax.models import clip
from tga_jax.train import fetch, origin
from tga_jax.train.config import ModelConfig, TrainConfig

FORK = f"--config={Path(__file__).resolve().parents[2] / 'configs' / 'fork_me.py'}"
CLIP, LLAVA = "openai/clip-vit-large-patch14-336", "llava-hf/llava-1.5-7b-hf"
QWEN, MISTRAL = "Qwen/Qwen2-7B-Instruct", "mistralai/Mistral-7B-Instruct-v0.1"
QUESTION = "What is in the picture?"
SMALL = (
    *("--config.steps=2", "--config.batch_size=2", "--config.dtype=float32", "--config.data.lengths=(160,)"),
    *("--config.data.labels=()", "--config.data.caption_length=40", "--config.mesh.fsdp=1", "--config.remat=none"),
    *("--config.data.source.llava.path=pairs.json", "--config.data.source.llava.images=.", "--config.lora.rank=2"),
)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """pairs.json and its pictures, and the twin of a CLIP; the working directory."""
    rng, samples = np.random.default_rng(1), []
    for i, thing in enumerate(("cat", "mug", "dog", "desk")):
        Image.fromarray(rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": f"A {thing}."}]
        samples.append({"id": f"s{i}", "image": f"{i}.png", "image_caption": f"A {thing}.", "conversations": turns})
    (tmp_path / "pairs.json").write_text(json.dumps(samples))
    twins.write(CLIP, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(variant: str) -> list[str]:
    return [flag for flag in SMALL if variant == "stage2" or "lora" not in flag]


def train(variant: str, llm: str, vision: str, *flags: str) -> None:
    model = (f"--config.model.llm={llm}", f"--config.model.vision={vision}")
    command = ["train", f"{FORK}:{variant}", f"--workdir={variant}", *model, *small(variant), *flags]
    assert cli.run(command) in (None, 0)


def tiles(folder: Path) -> list[str]:
    """The flags of a model that cuts pictures as the LLaVA in this folder does."""
    raw = json.loads((folder / "config.json").read_text())
    most = re.fullmatch(r"anyres_max_(\d+)", raw.get("vision_aspect_ratio", ""))
    found = [f"--config.model.tiles.pinpoints={tuple(map(tuple, raw['image_grid_pinpoints']))}"]
    found += [f"--config.model.tiles.most={most[1]}", "--config.model.feature_layer=-1"] if most else []
    return [*found, "--config.data.image_mode=stretch"]


@pytest.mark.parametrize(
    ("llm", "vision"),
    [
        (QWEN, CLIP),
        ("meta-llama/Llama-3.1-8B-Instruct", LLAVA),
        *(pytest.param(QWEN, name, marks=pytest.mark.slow) for name in (*twins.SIGLIPS, *twins.TILED)),
        *(
            pytest.param(name, vision, marks=pytest.mark.slow)
            for name in twins.LLMS
            for vision in (*twins.CLIPS, LLAVA)
            if (name, vision) != (QWEN, CLIP)
        ),
    ],
)
def test_both_stages_and_what_comes_of_them(place, llm, vision):
    """Evaluated, analyzed and exported, with the answers that transformers gives to what was exported."""
    twins.write(llm, place)
    if vision != CLIP:
        twins.write(vision, place)
    template = ["--config.data.source.llava.template=vicuna_v1"] if "vicuna" in llm else []  # it has none of its own
    grids = tiles(place / vision) if vision in twins.TILED else []
    train("stage1", llm, vision, *grids)
    train("stage2", llm, vision, "--config.init.projector=stage1", *template, *grids)
    assert cli.run(["convert", "--from-run=stage2", "--to=whole", "--dtype=fp32"]) in (None, 0)
    assert cli.run(["convert", "--from=whole", "--to-hub=hub"]) in (None, 0)
    ours, begun = tga_jax.load("whole", "float32", stacked=True), hub.open_hub(place / llm)[0]
    assert ours.spec.family == begun.family
    assert ours.spec.llm == begun.config
    theirs = transformers.AutoModelForImageTextToText.from_pretrained("hub", dtype=torch.float32).eval()
    prompt, picture = f"USER: <image> {QUESTION} ASSISTANT:", Image.open("0.png")
    batch = ours.processor.batch([prompt], [[picture]])
    tokens = np.where(batch.image_mask, theirs.config.image_token_id, batch.tokens)
    pixels = np.asarray(clip.normalized(ours.config.clip.vision, batch.images[0])).transpose(0, 3, 1, 2)
    how = {"max_new_tokens": 5, "do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    how |= {"repetition_penalty": 1.0}  # Qwen2 has another
    inputs = {"input_ids": torch.tensor(tokens, dtype=torch.long), "pixel_values": torch.tensor(pixels)}
    if grids:
        inputs |= {"pixel_values": inputs["pixel_values"][None], "image_sizes": torch.tensor([[20, 31]])}
        assert len(pixels) == hub.grids(ours.config).tiles((20, 31)) > 1  # pyrefly: ignore
    answer = theirs.generate(**inputs, **how)[0, tokens.shape[1] :]
    expected = ours.processor.tokenizer.decode(answer, skip_special_tokens=True)
    assert ours.generate([prompt], [[picture]], new_tokens=5) == [expected]

    (place / "eval" / "text-prompts").mkdir(parents=True)
    rows = [{"id": f"p{i}", "text": f"What is a {thing}?", "harmful": i == 0} for i, thing in enumerate(("cat", "mug"))]
    (place / "eval" / "text-prompts" / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ["--template=vicuna_v1", "--suite=text-prompts", "--data=eval", "--to=out", "--new-tokens=2"]
    assert cli.run(["evaluate", "--checkpoint=whole", *flags, "--max-degenerate=1"]) == 0
    asked = ["--data=pairs.json", "--images=.", "--to=inside", "--window=1", "--template=vicuna_v1"]
    assert cli.run(["analyze", "--checkpoint=whole", *asked]) in (None, 0)
    assert json.loads((place / "inside" / "analysis.json").read_text())["groups"]


def built(*flags: str, variant: str = "stage2") -> TrainConfig:
    model = (f"--config.model.llm={QWEN}", f"--config.model.vision={CLIP}")
    found, _ = parse_with_config([f"{FORK}:{variant}", *model, *small(variant), *flags], {}, None, training)
    return config.build(TrainConfig, found)


def test_the_checkpoints_say_sizes_starts_and_words(place):
    twins.write(QWEN, place)
    made = built("--config.init.projector=stage1")
    assert made.init == {"clip": CLIP, "projector": "stage1", "llm": QWEN}
    assert made.data.tokenizer == QWEN
    model = origin.model_of(made)
    assert model.llm == hub.open_hub(place / QWEN)[0].config
    assert model.clip.vision == hub.open_hub(place / CLIP)[0].config.vision  # pyrefly: ignore
    assert model.clip.text is None
    assert (model.feature_layer, model.feature_select, model.image_tokens) == (-2, "patch", 4)
    other = built("--config.init.llm=elsewhere", "--config.data.tokenizer=words", "--config.model.feature_layer=-1")
    assert (other.init["llm"], other.data.tokenizer) == ("elsewhere", "words")
    assert origin.model_of(other).feature_layer == -1
    # Of checkpoints of ours, and of a LLaVA's tower.
    assert cli.run(["convert", f"--from={QWEN}", "--to=ours", "--dtype=fp32"]) in (None, 0)
    twins.write(LLAVA, place)
    mixed = built("--config.model.llm=ours", f"--config.model.vision={LLAVA}")
    assert mixed.data.tokenizer == "ours/hub"
    assert origin.model_of(mixed).llm == model.llm
    assert origin.model_of(mixed).clip.vision == hub.open_hub(place / LLAVA)[0].config.clip.vision  # pyrefly: ignore


def test_a_run_keeps_the_whole_description(place):
    """Enough to start from it, though no preset knows it."""
    twins.write(MISTRAL, place)
    train("stage1", MISTRAL, CLIP)
    known = origin.of_run(place / "stage1")
    assert known is not None
    assert known.llm == hub.open_hub(place / MISTRAL)[0].config
    again = built("--config.model.llm=stage1", "--config.model.vision=stage1")
    assert origin.model_of(again) == known.config


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([f"--config.model.llm={CLIP}"], f"model.llm: {CLIP} holds no decoder, expected a language model or a LLaVA"),
        ([f"--config.model.vision={QWEN}"], f"model.vision: {QWEN} holds no vision tower, expected a CLIP or a LLaVA"),
        (["--config.model.llm=./nowhere"], "nowhere"),
        (["--config.model.llm="], "config.model: llm: missing, expected a checkpoint"),
        (
            ["--config.model.projector.kind=mlp3x"],
            "config.model.projector: kind: 'mlp3x', expected linear, mlp2x_gelu, norm_mlp2x_gelu, resampler or module",
        ),
        (["--config.model.feature_layer=9"], "model.feature_layer: 9, expected from -4 to 3"),
        (["--config.model.feature_select=cls"], "config.model: feature_select: 'cls', expected patch or full"),
        (
            [f"--config.init.llm={MISTRAL}", "--config.init.projector="],
            f"init.llm: {MISTRAL} does not fit model '{QWEN} with {CLIP}':",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(place, capsys, flags, said):
    twins.write(QWEN, place)
    if any("init.llm" in flag for flag in flags):
        twins.write(MISTRAL, place)
    first = [f"{FORK}:stage1", "--workdir=w", f"--config.model.llm={QWEN}", f"--config.model.vision={CLIP}"]
    capsys.readouterr()
    assert cli.run(["train", *first, *small("stage1"), *flags]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not Path("w").exists()


def test_names_of_the_hub_become_folders_of_its_cache(monkeypatch):
    asked = []

    def local(name, weights=True):
        asked.append((name, weights))
        return Path("/cache", name)

    monkeypatch.setattr(fetch.download, "local", local)
    monkeypatch.setattr(fetch.download, "is_name", lambda name: name.startswith("org/"))
    made = train_support.config(Path("data"), model=ModelConfig("org/llm", "org/clip"), init={"llm": "mine"})
    assert made.init == {"clip": "org/clip", "projector": "", "llm": "mine"}
    found = fetch.fetched(made, rich.console.Console(quiet=True), Path("work"))
    assert found.model == ModelConfig("/cache/org/llm", "/cache/org/clip")
    assert found.init == {"clip": "/cache/org/clip", "projector": "", "llm": "mine"}
    assert set(asked) == {("org/clip", True), ("org/llm", False)}  # of the decoder only its sizes
