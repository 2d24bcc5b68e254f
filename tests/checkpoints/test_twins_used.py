"""Twins of public checkpoints in use: two steps of a training, and an evaluation of ten samples, as transformers and
torch do them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import test_twins
import torch
import transformers
import twins
from PIL import Image

from tga_jax import cli
from tga_jax.checkpoints import convert, hub, spec
from tga_jax.data.llava_source import LlavaRecords, LlavaSource
from tga_jax.data.sources import Pictures
from tga_jax.data.tokens import Vocabulary, tokenize
from tga_jax.evals import store
from tga_jax.models import presets
from tga_jax.models.llava import LlavaConfig

CLIP = "openai/clip-vit-base-patch32"
RATE = 2e-3
ANSWERS = ["A cat on a red mat.", "12 mugs", "polite answers to the user's questions", "Next line\tand tab."]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: {} ASSISTANT:"
)
CONFIG = """
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({values!r})
"""


@dataclasses.dataclass
class Twin:
    """folder: what `evaluate` is given; init: the same, or ours made of it, and of a language model the CLIP beside it;
    tokenizer: the folder of transformers' tokenizer; model: transformers'; sees: whether it has a vision tower."""

    folder: Path
    init: dict[str, str]
    tokenizer: Path
    model: torch.nn.Module
    sees: bool
    config: LlavaConfig


def make(name: str, root: Path) -> Twin:
    clip, tower = twins.write(CLIP, root)
    if name in twins.LLMS:
        folder, _ = twins.write(name, root)
        init = {"clip": str(clip), "projector": "", "llm": str(folder)}
        llm, towers = hub.open_hub(folder)[0].config, hub.open_hub(clip)[0].config
        config = LlavaConfig(dataclasses.replace(towers, text=None, embed_size=None), llm)
        return Twin(folder, init, folder, test_twins.reference(folder), False, config)
    if name.startswith("llava-hf/"):
        folder, _ = twins.write(name, root)
        model = test_twins.reference(folder, transformers.LlavaForConditionalGeneration)
        config = convert.words_alone(hub.open_hub(folder)[0]).config
        return Twin(folder, dict.fromkeys(("clip", "projector", "llm"), str(folder)), folder, model, True, config)
    made = test_twins.of_the_authors(root, name, clip)
    test_twins.convert(made.folder, root / "ours", *made.flags)
    model = test_twins.hub_model(root, made.weights, tower)
    config = spec.read(root / "ours").config
    init = dict.fromkeys(("clip", "projector", "llm"), str(root / "ours"))
    return Twin(root / "ours", init, made.tokenizer, model, True, config)


NAMES = [*twins.LLMS, *twins.LLAVAS]
# Of the same architecture as another one (of Qwen2's, `tests/train/test_from_checkpoints.py` trains another), but for
# scaled frequencies and a window, whose answers `test_twins` looks at:
# `pytest -m slow tests/checkpoints/test_twins_used.py`.
_ALIKE = (
    "meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B-Instruct",
    "lmsys/vicuna-7b-v1.5", "mistralai/Mistral-7B-Instruct-v0.1", "mistralai/Mistral-7B-Instruct-v0.2",
    "mistralai/Mistral-7B-Instruct-v0.3", "Qwen/Qwen2-7B-Instruct", "llava-hf/llava-1.5-13b-hf",
    "Qwen/Qwen2.5-0.5B-Instruct",
    # Trained, evaluated and exported in `tests/train/test_from_checkpoints.py`.
    "allenai/OLMo-2-1124-13B-Instruct", "google/gemma-2-2b-it", "google/gemma-3-1b-it", "microsoft/Phi-4-mini-instruct",
)  # fmt: skip


@pytest.mark.parametrize("name", test_twins.in_ci(NAMES, _ALIKE))
def test_two_steps(tmp_path, monkeypatch, name):
    """The loss, and what the steps make of the parameters, against torch's AdamW on transformers' model."""
    twin = make(name, tmp_path)
    samples = []
    for i, (answer, picture) in enumerate(zip(ANSWERS, test_twins.photographs(4), strict=True)):
        picture.save(tmp_path / f"{i}.png")
        asked = f"{'<image>' * twin.sees}\nWhat is it? {i}".strip()
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        samples.append({"id": str(i), "conversations": turns} | ({"image": f"{i}.png"} if twin.sees else {}))
    (tmp_path / "data.json").write_text(json.dumps(samples))
    tokenizer = transformers.AutoTokenizer.from_pretrained(twin.tokenizer)
    template = "chat" if tokenizer.chat_template and not twin.sees else "vicuna_v1"
    own = {"kind": "llava", "path": str(tmp_path / "data.json"), "images": str(tmp_path), "template": template}
    values = {
        "name": "twin", "seed": 1, "model": "twin", "init": twin.init, "steps": 2, "batch_size": 4, "log_every": 1,
        "dtype": "float32", "loss": {"lm": 1.0, "guide": None},
        "optim": {"learning_rate": RATE, "schedule": (("clip/.*", 0.0), (".*", 1.0)), "decay": "constant"},
        "data": {"source": {"own": own}, "lengths": (160,), "caption_length": 4, "tokenizer": str(twin.tokenizer)},
    }  # fmt: skip
    (tmp_path / "config.py").write_text(CONFIG.format(values=values))
    monkeypatch.setitem(presets.LLAVA, "twin", lambda: twin.config)
    assert cli.run(["train", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]) in (None, 0)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    rows = rows_of(LlavaSource(**own), tokenizer, twin)
    with torch.no_grad():
        before = logits(twin.model, rows[0])
    losses = two_steps_of_torch(twin.model, rows, twin.config.llm.vocab_size)
    np.testing.assert_allclose([step["lm"] for step in logged], losses, rtol=2e-5)
    with torch.no_grad():
        after = logits(twin.model, rows[0])

    run = ["convert", f"--from-run={tmp_path / 'run'}", f"--to={tmp_path / 'trained'}", "--dtype=fp32"]
    assert cli.run(run) in (None, 0)
    assert cli.run(["convert", f"--from={tmp_path / 'trained'}", f"--to-hub={tmp_path / 'hub'}"]) in (None, 0)
    exported = test_twins.reference(tmp_path / "hub", transformers.LlavaForConditionalGeneration)
    with torch.no_grad():
        found = logits(exported, rows[0])
    words = twin.config.llm.vocab_size
    change = (after - before)[..., :words].norm()
    assert change > 0.02 * before.norm()
    # Adam's step is the sign of a gradient that may be all but nothing.
    assert (found[..., :words] - after[..., :words]).norm() < 0.02 * change


@dataclasses.dataclass
class Row:
    """tokens int64 [1, T]; image, targets: bool [T]; pixels: [1, 3, I, I], or None."""

    tokens: torch.Tensor
    image: torch.Tensor
    targets: torch.Tensor
    pixels: torch.Tensor | None


def rows_of(source: LlavaSource, tokenizer, twin: Twin) -> list[Row]:
    records, made = LlavaRecords(source, Pictures(twins.IMAGE)), []
    for i in range(len(ANSWERS)):
        row = tokenize(records[i], Vocabulary(tokenizer), twin.config.image_tokens)
        pixels = None
        if twin.sees:
            picture = Image.open(Path(source.images) / f"{i}.png")
            pixels = test_twins.squares()(picture, return_tensors="pt")["pixel_values"]
        tokens, targets, image = (torch.tensor(x.copy()) for x in row[:3])
        made.append(Row(tokens.long()[None], image, targets, pixels))
    return made


def logits(model, row: Row) -> torch.Tensor:
    if row.pixels is None:
        return model(input_ids=row.tokens).logits[0]
    image_id = model.config.image_token_id
    tokens = torch.where(row.image, image_id, row.tokens)
    return model(input_ids=tokens, pixel_values=row.pixels).logits[0]


def two_steps_of_torch(model, rows: list[Row], words: int) -> list[float]:
    """The losses; of AdamW at the rates 0, as the warm-up begins, and RATE. The vision tower stays."""
    # torch takes no gradient at the embedding of a pad token, even where that is the end of every turn.
    model.get_input_embeddings().padding_idx = None
    moving = [x for name, x in model.named_parameters() if "vision_tower" not in name]
    optimizer = torch.optim.AdamW(moving, betas=(0.9, 0.98), weight_decay=0.0)
    losses = []
    for rate in (0.0, RATE):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        total = sum(
            torch.nn.functional.cross_entropy(
                logits(model, row)[:-1, :words][row.targets[1:]], row.tokens[0, 1:][row.targets[1:]], reduction="sum"
            )
            for row in rows
        )
        loss = total / sum(row.targets.sum() for row in rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", test_twins.in_ci(NAMES, _ALIKE))
def test_ten_samples(tmp_path, name):
    """An evaluation's answers, each as transformers gives it alone."""
    twin = make(name, tmp_path)
    shown = test_twins.photographs(5)
    if twin.sees:  # five pictures, and what is to be seen in them
        (tmp_path / "data" / "scenes" / "weapon").mkdir(parents=True)
        rows = []
        for i, picture in enumerate(shown):
            picture.save(tmp_path / "data" / "scenes" / "weapon" / f"{i}.png")
            rows.append({"image": f"weapon/{i}.png", "image_caption": test_twins.ASKED[i]})
        benchmark, file = "scenes", "captions.jsonl"
    else:
        rows = [{"id": str(i), "text": f"{text} {i}", "harmful": i < 5} for i, text in enumerate(test_twins.ASKED)]
        rows += [{"id": str(i), "text": "a" * i, "harmful": False} for i in (8, 9)]
        benchmark, file = "text-prompts", "prompts.jsonl"
        (tmp_path / "data" / benchmark).mkdir(parents=True)
    (tmp_path / "data" / benchmark / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = transformers.AutoTokenizer.from_pretrained(twin.tokenizer)
    has_template = tokenizer.chat_template is not None or (twin.folder / "chat_template.json").exists()
    flags = [f"--checkpoint={twin.folder}", f"--suite={benchmark}", f"--data={tmp_path / 'data'}", "--dtype=fp32"]
    flags += ["--new-tokens=5", f"--to={tmp_path / 'out'}", "--batch=4", "--max-degenerate=1"]
    assert cli.run(["evaluate", *flags, *(() if has_template else ("--template=vicuna_v1",))]) in (None, 0)
    answers = store.read(tmp_path / "out" / "answers" / f"{benchmark}.jsonl")
    assert len(answers) == 10
    assert len({row["answer"] for row in answers}) > 4
    pixels = test_twins.squares()
    if name.startswith("llava-hf/"):
        pixels = transformers.CLIPImageProcessorPil.from_pretrained(twin.folder)
    for row in answers:
        shown_too = row["input"] == "image"
        prompt, ids = asked(twin, tokenizer, row["question"].removeprefix("<image>\n"), shown_too)
        assert row["prompt"] == prompt
        inputs = {"input_ids": torch.tensor([ids])}
        if shown_too:
            picture = Image.open(tmp_path / "data" / "scenes" / row["id"])
            inputs["pixel_values"] = pixels(picture, return_tensors="pt")["pixel_values"]
        [expected] = test_twins.theirs(twin.model, inputs, new=5)
        assert row["answer"] == tokenizer.decode(expected, skip_special_tokens=True)


def asked(twin: Twin, tokenizer, question: str, sees: bool) -> tuple[str, list[int]]:
    """The prompt and its ids, as the checkpoint's authors' software makes them."""
    if tokenizer.chat_template is not None and not twin.sees:
        talk = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        return prompt, tokenizer(prompt, add_special_tokens=not prompt.startswith(str(tokenizer.bos_token)))[
            "input_ids"
        ]
    if (twin.folder / "chat_template.json").exists():
        processor = transformers.LlavaProcessor.from_pretrained(twin.folder)
        talk = [{"role": "user", "content": [{"type": "image"}] * sees + [{"type": "text", "text": question}]}]
        prompt = processor.apply_chat_template(talk, add_generation_prompt=True)
        picture = [Image.new("RGB", (28, 28))] if sees else None
        return prompt, processor(text=prompt, images=picture)["input_ids"][0]
    prompt = VICUNA.format("<image>\n" * sees + question)
    if not sees:
        return prompt, tokenizer(prompt)["input_ids"]
    return prompt, test_twins.apart(tokenizer, prompt, twin.model.config.image_token_id, twin.config.image_tokens)
