"""The door: generation equal to transformers', streaming, stop texts, chat, and what is refused."""

import dataclasses
import re
from pathlib import Path

import hub_support
import jax
import numpy as np
import pytest
import torch
from hub_support import IMAGE_ID

import tga_jax
from tga_jax.data.batch import prompt_batch
from tga_jax.inference.decode import Decoding, generate
from tga_jax.models import clip
from tga_jax.serve import chat
from tga_jax.serve.chat import Conversation

CHAT = "{{ bos_token }}{% for m in messages %}[ {{ m['role'] }} ] {{ m['content'] }} {% endfor %}[ assistant ]"
NEW = 12


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module", name="pair")
def fixture_pair(tmp_path_factory):
    theirs = hub_support.model("llava", seed=8)
    folder = hub_support.save(theirs, tmp_path_factory.mktemp("llava"))
    return theirs, tga_jax.load(folder, dtype="float32")


def prompts(rng: np.random.Generator, count: int) -> list[list[int]]:
    """Random ids with no, one or two pictures of four tokens somewhere in them."""
    rows = []
    for i in range(count):
        row = [1]
        for _ in range(i % 3):
            row += [*rng.integers(3, IMAGE_ID, rng.integers(0, 4)), *[IMAGE_ID] * 4]
        rows.append([*row, *rng.integers(3, IMAGE_ID, rng.integers(1, 6))])
    return rows


def theirs_generate(model, rows: list[list[int]], pixels: np.ndarray, left: bool) -> np.ndarray:
    """Greedy; padded on one side, as a batch."""
    width = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), width), np.int64)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, where], mask[i, where] = row, 1
    given = {"pixel_values": torch.tensor(pixels)} if len(pixels) else {}
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), **given, do_sample=False, num_beams=1,
            max_new_tokens=NEW, eos_token_id=2, pad_token_id=0,
        )[:, width:].numpy()  # fmt: skip
    return np.pad(out, ((0, 0), (0, NEW - out.shape[1])))


_features = jax.jit(clip.vision_features, static_argnums=(0, 3, 4))


def ours_generate(model, rows: list[list[int]], pixels: list[np.ndarray], left: bool) -> np.ndarray:
    """pixels: normalised [m, 3, I, I] of every row; given to the tower as features."""
    width, most = 24, 2  # one shape for all
    tokens, valid = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
    media = np.zeros((len(rows), most, 28, 28, 3), np.float32)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        tokens[i, where], valid[i, where] = row, True
        media[i, : len(pixels[i])] = pixels[i].transpose(0, 2, 3, 1)
    mask = tokens == IMAGE_ID
    batch = prompt_batch(tokens, valid, mask, None)
    config = model.config
    flat = _features(
        config.clip.vision, model.params["clip"]["vision"], media.reshape(-1, 28, 28, 3), config.feature_layer,
        config.feature_select,
    )  # fmt: skip
    batch = batch._replace(image_features=np.asarray(flat).reshape(len(rows), most, *flat.shape[1:]))
    found = generate(model.config, model.params, batch, Decoding((2,), 0), new_tokens=NEW)
    return np.asarray(found)


def test_greedy_equals_transformers_token_for_token(pair):
    """20 prompts: each alone as transformers has it, against batches of 1 and 8, padded on either side."""
    theirs, ours = pair
    rng = np.random.default_rng(4)
    rows = prompts(rng, 20)
    pixels = [rng.standard_normal((row.count(IMAGE_ID) // 4, 3, 28, 28)).astype(np.float32) for row in rows]
    expected = np.concatenate([theirs_generate(theirs, [r], p, False) for r, p in zip(rows, pixels, strict=True)])
    assert len(np.unique(expected)) > 20
    left = np.concatenate(
        [
            theirs_generate(theirs, rows[i : i + 8], np.concatenate(pixels[i : i + 8]), True)
            for i in range(0, len(rows), 8)
        ]
    )
    np.testing.assert_array_equal(left, expected)
    for size in (1, 8):
        for side in (False, True):
            found = np.concatenate(
                [ours_generate(ours, rows[i : i + size], pixels[i : i + size], side) for i in range(0, len(rows), size)]
            )
            np.testing.assert_array_equal(found, expected)


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(6)
    return [rng.integers(0, 256, (30, 41, 3)).astype(np.uint8) for _ in range(count)]


PROMPTS = ["w5 <image> w6", "w7 w8 w9", "<image> w4 <image> w5 w3"]


def test_a_prompt_alone_equals_the_prompt_among_others(pair):
    shown = pictures(3)
    images = [[shown[0]], [], [shown[1], shown[2]]]
    ours = pair[1]
    together = ours.generate(PROMPTS, images, new_tokens=NEW)
    assert [ours.generate([p], [i], new_tokens=NEW)[0] for p, i in zip(PROMPTS, images, strict=True)] == together
    assert len(set(together)) == 3
    streamed = ["".join(ours.stream(p, i, new_tokens=NEW)) for p, i in zip(PROMPTS, images, strict=True)]
    assert streamed == together
    hot = {"temperature": 2.0, "top_k": 30, "seed": 3}
    warm = ours.generate(PROMPTS[:1], images[:1], new_tokens=NEW, **hot)
    assert warm != together[:1]
    assert "".join(ours.stream(PROMPTS[0], images[0], new_tokens=NEW, **hot)) == warm[0]


def test_stop_texts_end_an_answer_and_are_left_out(pair):
    ours = pair[1]
    whole = ours.generate(["w7 w8 w9"], new_tokens=NEW)[0]
    stop = whole.split()[3]
    cut = whole[: whole.index(stop)]
    assert ours.generate(["w7 w8 w9", "w3"], new_tokens=NEW, stop=[stop])[0] == cut
    assert "".join(ours.stream("w7 w8 w9", new_tokens=NEW, stop=[stop, "never"])) == cut


def test_what_does_not_fit_is_named(pair):
    ours = pair[1]
    for prompts_, images, said in (
        (["w3 <image>"], None, "prompt 0: 1 times <image> and 0 pictures, expected as many"),
        (["w3", "w4"], [[], pictures(1)], "prompt 1: 0 times <image> and 1 pictures"),
        (["w3"], [[], []], "1 prompts and pictures of 2, expected as many"),
        (["w3 " * 90], None, "a prompt of 91 tokens and 12 new ones, expected at most 96"),
        (["<image>"], [["/nowhere.png"]], "/nowhere.png: cannot be read as an image"),
    ):
        with pytest.raises(tga_jax.UserError, match=re.escape(said)):
            ours.generate(prompts_, images, new_tokens=NEW)
    with pytest.raises(tga_jax.UserError, match="no chat template"):
        ours.processor.chat([{"role": "user", "content": "w3"}])
    with pytest.raises(tga_jax.UserError, match="expected a CLIP checkpoint"):
        ours.embed_texts(["w3"])
    with pytest.raises(tga_jax.UserError, match="dtype: 'float16', expected one of bfloat16, float32"):
        tga_jax.load("anywhere", dtype="float16")


def test_a_conversation_goes_on_and_keeps_its_pictures(pair, tmp_path):
    from PIL import Image

    ours = pair[1]
    ours.processor.tokenizer.chat_template = CHAT
    try:
        path = tmp_path / "picture.png"
        Image.fromarray(pictures(1)[0]).save(path)
        talk = Conversation(ours, system="w9")
        talk.show(path)
        first = "".join(talk.ask("w5", new_tokens=NEW))
        second = "".join(talk.ask("w6", new_tokens=NEW))
        messages = [{"role": "system", "content": "w9"}, {"role": "user", "content": "<image>\nw5"}]
        prompt = ours.processor.chat(messages)
        assert ours.generate([prompt], [[path]], new_tokens=NEW) == [first]
        messages += [{"role": "assistant", "content": first.strip()}, {"role": "user", "content": "w6"}]
        assert ours.generate([ours.processor.chat(messages)], [[path]], new_tokens=NEW) == [second]
        with pytest.raises(tga_jax.UserError, match=r"nothing\.png"):
            talk.show(Path("nothing.png"))
        alone = Conversation(ours)
        alone.show(path)
        assert ours.ask(path, "w5", new_tokens=NEW) == "".join(alone.ask("w5", new_tokens=NEW))
        assert ours.ask(None, "w6", new_tokens=NEW) == "".join(Conversation(ours).ask("w6", new_tokens=NEW))
        talk.forget()
        assert dataclasses.asdict(dataclasses.replace(talk, model=None))["messages"] == []
    finally:
        ours.processor.tokenizer.chat_template = None


def test_a_conversation_without_a_chat_template(pair, tmp_path):
    from PIL import Image

    ours = pair[1]
    path = tmp_path / "picture.png"
    Image.fromarray(pictures(1)[0]).save(path)
    with pytest.raises(tga_jax.UserError, match="no chat template, expected --template=NAME such as vicuna_v1"):
        "".join(Conversation(ours).ask("w5"))
    talk = Conversation(ours, system="w9", template="vicuna_v1")
    talk.show(path)
    first = "".join(talk.ask("w5", new_tokens=NEW))
    second = "".join(talk.ask("w6", new_tokens=NEW))
    asked = "w9 USER: <image>\nw5 ASSISTANT:"
    assert ours.generate([asked], [[path]], new_tokens=NEW) == [first]
    asked += f" {first.strip()}</s>USER: w6 ASSISTANT:"
    assert ours.generate([asked], [[path]], new_tokens=NEW) == [second]
    picture, text = {"type": "image"}, {"type": "text", "text": "w5"}
    for said in (
        [{"role": "user", "content": [text, picture]}],
        [{"role": "system", "content": [picture]}, {"role": "user", "content": "w5"}],
    ):
        with pytest.raises(tga_jax.UserError, match="a picture behind text or outside a question"):
            chat.prompt(ours.processor, said, "vicuna_v1")
    answered = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "<image>"}]
    assert "<image>" in str(chat.prompt(ours.processor, [*answered, {"role": "user", "content": "w6"}], "vicuna_v1"))
    with pytest.raises(tga_jax.UserError, match="<image> in a question, expected a picture given as a file"):
        "".join(talk.ask("what is <image>?"))


def test_a_file_in_place_of_a_list_of_files_is_named(pair):
    with pytest.raises(tga_jax.UserError, match=r"images: 'a\.png' for prompt 0, expected a list of its pictures"):
        pair[1].generate(["<image> w5"], images=["a.png"])


def test_words_that_the_tokenizer_does_not_know(pair):
    vocabulary = pair[1].processor.vocabulary
    assert vocabulary.unknown("w5 what w6 this what") == []  # without a token for them: a tokenizer of another kind
    known = pair[1].processor.tokenizer
    known.unk_token = "w3"
    try:
        assert vocabulary.unknown("w5 what w6 this what") == ["what", "this"]
    finally:
        known.unk_token = None


def test_types_go_by_both_names(pair, tmp_path):
    folder = hub_support.save(pair[0], tmp_path / "hub")
    for name, expected in (("bf16", "bfloat16"), ("bfloat16", "bfloat16"), ("fp32", "float32"), (None, "bfloat16")):
        params = tga_jax.load(folder, dtype=name).params
        assert {x.dtype.name for x in jax.tree.leaves(params)} == {expected}
    with pytest.raises(tga_jax.UserError, match="dtype: 'half', expected one of bfloat16, float32"):
        tga_jax.load(folder, dtype="half")


def test_loaded_in_half_precision(pair, tmp_path):
    theirs, ours = pair
    folder = hub_support.save(theirs, tmp_path / "hub")
    half = tga_jax.load(folder)
    assert {x.dtype.name for x in jax.tree.leaves(half.params)} == {"bfloat16"}
    ids = np.array([[1, 5, 6, 7]])
    np.testing.assert_allclose(half.forward(ids).logits, ours.forward(ids).logits, atol=0.3)


def test_a_model_is_shown_on_a_few_lines(pair):
    shown = repr(pair[1])
    assert len(shown) < 500
    assert shown.startswith("Model(llava of the family mistral\n")
    projector = sum(p.numel() for p in pair[0].model.multi_modal_projector.parameters())
    assert f"  projector: {projector:,} parameters in float32\n" in shown
    assert "28 pixels, 4 tokens, mode crop" in shown


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.generate("w5"), "prompts: a string, expected a list of prompts"),
        (lambda m: next(m.stream(["w5"])), "prompt: list, expected a string"),
        (lambda m: m.forward([1, 2, 3]), r"input_ids: of shape \[3\], expected \[rows, positions\]"),
        (
            lambda m: m.generate(["w5"], max_new_tokens=3),
            "max_new_tokens: unknown, .*; transformers' max_new_tokens is new_t",
        ),
        (lambda m: m.generate(["w5"], do_sample=True), "do_sample: unknown, .*; here a temperature above 0 samples"),
        (lambda m: m.generate(["w5"], heat=3), "heat: unknown, expected one of repetition_penalty, temperature, top_k"),
        (lambda m: m.generate(["w5"], temperature=-1.0), "temperature: -1.0, expected 0 or more"),
        (lambda m: m.generate(["w5"], top_k="many"), "top_k|not supported between"),
    ],
)
def test_a_call_that_does_not_fit_is_one_clear_error(pair, call, said):
    with pytest.raises(tga_jax.UserError, match=said) as error:
        call(pair[1])
    assert "\n" not in str(error.value)
