"""Twins of public checkpoints, through the commands, against transformers: tokens, answers, exports."""

import dataclasses
import json
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
import twins
from PIL import Image

import tga_jax
from tga_jax import cli
from tga_jax.errors import UserError
from tga_jax.inference.decode import generate_all
from tga_jax.inference.model import Model

NEW = 6  # tokens
ASKED = [
    "A cat", "The red mat", "What is in the picture?", "You are a helpful assistant", "a", "12 mugs\n\nand 345 desks",
    "Describe this image in detail. A chat between a curious user and an artificial intelligence", "ünïcödé: 日本.",
]  # fmt: skip


def ours(model: Model, prompts: list[str], pictures=None) -> list[list[int]]:
    """Greedy answers' ids up to the first stop token."""
    batch = model.processor.batch(prompts, pictures)
    sizes = {"new_tokens": NEW, "batch_size": len(prompts)}
    rows = generate_all(model.config, model.params, batch, model.decoding({}), **sizes, seed=0)
    return [_until(row.tolist(), model.processor.stop_ids) for row in rows]


def _until(row: list[int], ends) -> list[int]:
    return row[: next((i for i, token in enumerate(row) if token in ends), len(row))]


def theirs(model, inputs, new: int = NEW) -> list[list[int]]:
    asked = {"max_new_tokens": new, "do_sample": False, "repetition_penalty": 1.0}
    with torch.no_grad():
        rows = model.generate(**inputs, **asked, pad_token_id=0)[:, inputs["input_ids"].shape[1] :]
    ends = model.generation_config.eos_token_id
    return [_until(row.tolist(), ends if isinstance(ends, list) else [ends]) for row in rows]


def reference(folder: Path, kind=transformers.AutoModelForCausalLM):
    model, told = kind.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["mismatched_keys"]
    return model.eval()


def prompts_of(tokenizer) -> list[str]:
    if tokenizer.chat_template is None:
        return ASKED
    talks = [[{"role": "user", "content": text}] for text in ASKED]
    return [tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for talk in talks]


def convert(folder: Path, target: Path, *flags: str) -> None:
    assert cli.run(["convert", f"--from={folder}", f"--to={target}", "--dtype=fp32", *flags]) in (None, 0)


# Of the same shape as another one, or of layers that others have: `pytest -m slow tests/checkpoints/test_twins.py`.
_ALIKE = (
    "meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-3.2-1B-Instruct", "mistralai/Mistral-7B-Instruct-v0.2",
    "Qwen/Qwen2-7B-Instruct", "llava-hf/llava-1.5-13b-hf", "Qwen/Qwen2.5-0.5B-Instruct", "google/gemma-2-2b-it",
    "allenai/OLMo-2-1124-13B-Instruct",
)  # fmt: skip


def in_ci(names: Iterable[str], alike: Container[str]) -> list[Any]:
    """For `parametrize`: those of `alike` are slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in alike else name for name in names]


@pytest.mark.parametrize("name", in_ci(sorted(twins.LLMS), _ALIKE))
def test_language_models(tmp_path, name):
    folder, _ = twins.write(name, tmp_path)
    model, tokenizer = reference(folder), transformers.AutoTokenizer.from_pretrained(folder)
    convert(folder, tmp_path / "ours")
    loaded = tga_jax.load(tmp_path / "ours")

    prompts = prompts_of(tokenizer)
    expected = []
    for prompt in prompts:  # the template has put the begin token there, where there is one
        begun = tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token)
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not begun)
        rows = loaded.processor.batch([prompt])
        assert rows.tokens[0].tolist() == inputs["input_ids"][0].tolist()
        expected += theirs(model, inputs)
    assert len({tuple(row) for row in expected}) > 4  # or equality would say little
    assert [ours(loaded, [prompt])[0] for prompt in prompts[::3]] == expected[::3]
    assert ours(loaded, prompts) == expected

    assert cli.run(["convert", f"--from={tmp_path / 'ours'}", f"--to-hub={tmp_path / 'hub'}"]) in (None, 0)
    again = reference(tmp_path / "hub")
    ids = torch.tensor([[5, 17, 200, 9, 33]])
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=0)
    exported = transformers.AutoTokenizer.from_pretrained(tmp_path / "hub")
    for text in [*twins.SENTENCES, *prompts]:
        assert exported.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("name", sorted(twins.CLIPS))
def test_clip(tmp_path, name):
    folder, _ = twins.write(name, tmp_path)
    convert(folder, tmp_path / "ours")
    loaded = tga_jax.load(tmp_path / "ours")
    model = reference(folder, transformers.CLIPModel)
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    pictures = photographs(3)
    texts = [*ASKED, " ".join(ASKED * 4)]  # the last one is cut
    inputs = processor(text=texts, images=pictures, return_tensors="pt", padding=True, truncation=True)
    with torch.no_grad():
        out = model(**inputs)
    np.testing.assert_allclose(loaded.embed_texts(texts), out.text_embeds.numpy(), atol=2e-5)
    np.testing.assert_allclose(loaded.embed_images(pictures), out.image_embeds.numpy(), atol=2e-5)
    assert cli.run(["convert", f"--from={tmp_path / 'ours'}", f"--to-hub={tmp_path / 'hub'}"]) in (None, 0)
    again = reference(tmp_path / "hub", transformers.CLIPModel)
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits_per_image, out.logits_per_image, rtol=0, atol=1e-5)


def photographs(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(3)
    sizes = [(40, 31), (28, 28), (17, 50), (90, 33), (64, 64), (29, 31), (33, 90), (300, 20)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes[:count]]


@pytest.mark.parametrize("name", in_ci((name for name in twins.LLAVAS if name.startswith("llava-hf/")), _ALIKE))
def test_llava_of_the_hub(tmp_path, name):
    folder, _ = twins.write(name, tmp_path)
    check_llava(tmp_path, folder, folder)


class WithoutVideos(transformers.LlavaOnevisionProcessor):
    """Whose processor of videos needs torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        return type(argument)


def tiled(folder: Path):
    """(transformers' model, its processor) of a twin with tiles."""
    if "onevision" not in folder.name:
        model = reference(folder, transformers.LlavaNextForConditionalGeneration)
        return model, transformers.LlavaNextProcessor.from_pretrained(folder, backend="pil")
    images = transformers.LlavaOnevisionImageProcessorPil.from_pretrained(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    raw = json.loads((folder / "processor_config.json").read_text())
    known = {name: raw[name] for name in ("num_image_tokens", "vision_aspect_ratio", "vision_feature_select_strategy")}
    model = reference(folder, transformers.LlavaOnevisionForConditionalGeneration)
    return model, WithoutVideos(images, words, None, **known)


@pytest.mark.parametrize("name", twins.TILED)
def test_llava_with_tiles(tmp_path, name):
    folder, _ = twins.write(name, tmp_path)
    model, processor = tiled(folder)
    convert(folder, tmp_path / "ours")
    loaded = tga_jax.load(tmp_path / "ours")
    pictures, prompts = photographs(8), llava_prompts()
    inputs = [processor(text=p, images=i, return_tensors="pt") for p, i in zip(prompts, pictures, strict=True)]
    expected = [theirs(model, x)[0] for x in inputs]
    assert len({tuple(row) for row in expected}) > 4
    assert len({x["input_ids"].shape[1] - len(p) for x, p in zip(inputs, prompts, strict=True)}) > 3
    assert ours(loaded, prompts, [[picture] for picture in pictures]) == expected
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    given = processor(
        text=loaded.processor.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True),
        images=pictures[2], return_tensors="pt",
    )  # fmt: skip
    assert loaded.ask(pictures[2], "What is it?", new_tokens=NEW) == loaded.answer_text(
        np.array(theirs(model, given)[0])
    )


def check_llava(tmp_path: Path, reference_folder: Path, folder: Path, *flags: str) -> None:
    """Answers and exports of `folder` are those of transformers' model of the reference's folder."""
    model = reference(reference_folder, transformers.LlavaForConditionalGeneration)
    processor = transformers.LlavaProcessor.from_pretrained(reference_folder)
    processor.tokenizer.padding_side = "left"
    convert(folder, tmp_path / "ours", *flags)
    loaded = tga_jax.load(tmp_path / "ours")
    pictures = photographs(8)
    prompts = llava_prompts()
    inputs = [processor(text=p, images=i, return_tensors="pt") for p, i in zip(prompts, pictures, strict=True)]
    expected = [theirs(model, x)[0] for x in inputs]
    padded = processor(text=prompts, images=pictures, return_tensors="pt", padding=True)
    assert theirs(model, padded) == expected
    assert len({tuple(row) for row in expected}) > 4
    shown = [[picture] for picture in pictures]
    assert [ours(loaded, [prompts[i]], [shown[i]])[0] for i in (0, 3, 6)] == [expected[i] for i in (0, 3, 6)]
    assert ours(loaded, prompts, shown) == expected

    assert cli.run(["convert", f"--from={tmp_path / 'ours'}", f"--to-hub={tmp_path / 'hub'}"]) in (None, 0)
    again = reference(tmp_path / "hub", transformers.LlavaForConditionalGeneration)
    exported = transformers.LlavaProcessor.from_pretrained(tmp_path / "hub")
    for prompt, picture, x in zip(prompts, pictures, inputs, strict=True):
        y = exported(text=prompt, images=picture, return_tensors="pt")
        assert y["input_ids"].tolist() == x["input_ids"].tolist()
        with torch.no_grad():
            a, b = again(**y).logits, model(**x).logits
        torch.testing.assert_close(a[..., : b.shape[-1]], b[..., : a.shape[-1]], rtol=0, atol=1e-5)


def squares() -> transformers.LlavaImageProcessorPil:
    """LLaVA's `expand2square`, then CLIP's."""
    return transformers.LlavaImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, do_pad=True
    )


def llava_prompts() -> list[str]:
    return [f"USER: <image>\n{text} ASSISTANT:" for text in ASKED]


def apart(tokenizer, prompt: str, image_id: int, count: int) -> list[int]:
    """As `tokenizer_image_token` of LLaVA's code: the texts around an image one by one."""
    before, after = (tokenizer(part)["input_ids"] for part in prompt.split("<image>"))
    return [*before, *[image_id] * count, *after[1:]]  # without a second begin token


def hub_model(root: Path, language: twins.Tensors, tower: twins.Tensors):
    """transformers' LLaVA of tensors in LLaVA's and CLIP's names, in a table that has rows enough."""
    folder, like = twins.write("llava-hf/llava-1.5-7b-hf", root)
    rows = len(like["lm_head.weight"])
    weights = {n: np.asarray(x, np.float32) for n, x in language.items()}
    weights |= {n: x for n, x in tower.items() if n.startswith("vision_model.")}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = np.pad(weights[name], ((0, rows - len(weights[name])), (0, 0)))
    assert weights.keys() == like.keys()
    for file in folder.glob("model*"):
        file.unlink()
    twins.write_safetensors(folder, twins.llava_hf_names(weights))
    return reference(folder, transformers.LlavaForConditionalGeneration)


@dataclasses.dataclass
class Original:
    """A checkpoint of LLaVA's authors. flags: that `convert` needs; weights: the whole model's, but for the tower."""

    folder: Path
    flags: tuple[str, ...]
    tokenizer: Path
    weights: twins.Tensors


def of_the_authors(root: Path, name: str, clip: Path) -> Original:
    if name != "liuhaotian/llava-v1.5-7b-lora":
        folder, weights = twins.write(name, root)
        weights = {n: x for n, x in weights.items() if not n.startswith("vision_model.")}
        return Original(folder, (f"--vision={clip}",), folder, weights)
    base, weights = twins.write("lmsys/vicuna-7b-v1.5", root)
    folder, changed = twins.write(name, root)
    # The projector is the adapter's own; of every other tensor it has the difference.
    weights = {n: x.astype(np.float32) for n, x in weights.items()}
    weights |= {n: x.astype(np.float32) + weights.get(n, 0) for n, x in changed.items()}
    return Original(folder, (f"--vision={clip}", f"--base={base}"), base, weights)


@pytest.mark.parametrize("name", [name for name in twins.LLAVAS if name.startswith("liuhaotian/")])
def test_llava_of_its_authors(tmp_path, name, capsys):
    clip, tower = twins.write("openai/clip-vit-large-patch14-336", tmp_path)
    original = of_the_authors(tmp_path, name, clip)
    tokenizer = transformers.AutoTokenizer.from_pretrained(original.tokenizer)
    model = hub_model(tmp_path, original.weights, tower)
    convert(original.folder, tmp_path / "ours", *original.flags)
    loaded = tga_jax.load(tmp_path / "ours")

    pictures, prompts = photographs(8), llava_prompts()
    processor = squares()
    expected = []
    for i, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
        ids = apart(tokenizer, prompt, len(tokenizer), 4)
        row = loaded.processor.batch([prompt], [[picture]])
        assert row.image_mask[0].tolist() == [token == len(tokenizer) for token in ids], i
        assert row.tokens[0][~row.image_mask[0]].tolist() == [token for token in ids if token != len(tokenizer)]
        pixels = processor(picture, return_tensors="pt")["pixel_values"]
        expected += theirs(model, {"input_ids": torch.tensor([ids]), "pixel_values": pixels})
    assert len({tuple(row) for row in expected}) > 4
    shown = [[picture] for picture in pictures]
    assert [ours(loaded, [prompts[i]], [shown[i]])[0] for i in (0, 3, 6)] == [expected[i] for i in (0, 3, 6)]
    assert ours(loaded, prompts, shown) == expected

    capsys.readouterr()
    assert cli.run(["convert", f"--from={tmp_path / 'ours'}", f"--to-hub={tmp_path / 'hub'}"]) in (None, 0)
    assert "they make 24 and 23 tokens with this tokenizer" in " ".join(capsys.readouterr().out.split())
    again = reference(tmp_path / "hub", transformers.LlavaForConditionalGeneration)
    ids = torch.tensor([apart(tokenizer, prompts[0], len(tokenizer), 4)])
    pixels = transformers.LlavaProcessor.from_pretrained(tmp_path / "hub").image_processor(
        pictures[0], return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        a, b = (m(input_ids=ids, pixel_values=pixels).logits for m in (again, model))
    torch.testing.assert_close(a[..., : len(tokenizer)], b[..., : len(tokenizer)], rtol=0, atol=1e-4)


def test_a_tower_of_another_name_is_asked_for(tmp_path):
    folder, _ = twins.write("liuhaotian/llava-v1.5-7b", tmp_path)
    with pytest.raises(
        UserError, match=r"mm_vision_tower './clip-tiny' is none of openai's CLIP models, expected --vis"
    ):
        tga_jax.load(folder)


@pytest.mark.parametrize(
    ("name", "flag", "said"),
    [
        ("llava-hf/llava-1.5-7b-hf", "vision", "has its vision tower, expected no --vision"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "vision", "has no LLaVA in it, expected no --vision"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "base", r"holds no adapter_config.json, so that it needs no --base"),
        ("liuhaotian/llava-v1.5-7b-lora", "vision", "holds LoRA weights, expected --base"),
    ],
)
def test_a_folder_too_many_or_too_few(tmp_path, capsys, name, flag, said):
    folder, _ = twins.write(name, tmp_path)
    clip, _ = twins.write("openai/clip-vit-base-patch32", tmp_path)
    assert cli.run(["convert", f"--from={folder}", f"--to={tmp_path / 'ours'}", f"--{flag}={clip}"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "ours").exists()


def test_bins_are_what_torch_reads(tmp_path):
    """Or the twins of folders with .bin files would show little."""
    rng = np.random.default_rng(0)
    tensors = {
        "half": rng.standard_normal((3, 5)).astype(np.float16), "single": rng.standard_normal(7).astype(np.float32),
        "whole": np.arange(6, dtype=np.int64)[None], "scalar": np.asarray(4.6, np.float32),
        "brain": rng.standard_normal((2, 2)).astype(ml_dtypes.bfloat16),
    }  # fmt: skip
    twins.write_bin(tmp_path / "x.bin", tensors)
    found = torch.load(tmp_path / "x.bin", weights_only=True)
    assert list(found) == list(tensors)
    for name, x in tensors.items():
        assert str(found[name].dtype) == f"torch.{x.dtype}"
        np.testing.assert_array_equal(found[name].float().numpy(), x.astype(np.float32))
