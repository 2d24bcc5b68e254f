"""The lens against transformers' hidden states, worked out here in float64 NumPy."""

import hub_support
import jax
import numpy as np
import pytest
import serve_support
import torch
from hub_support import IMAGE_ID
from PIL import Image

import tga_jax
from tga_jax.serve.lens import look

REFUSALS = (7, 11, 30)
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])  # CLIP's
QUESTION, CAPTION = "w5 w6", "w9 w12 w4"


@pytest.fixture(scope="module", name="pair")
def fixture_pair(tmp_path_factory):
    theirs = hub_support.model("llava", seed=3)
    folder = hub_support.save(theirs, tmp_path_factory.mktemp("llava"))
    ours = tga_jax.load(folder, dtype="float32", stacked=True)
    ours.processor.tokenizer.chat_template = serve_support.CHAT
    with jax.default_matmul_precision("highest"):
        yield theirs, ours


@pytest.fixture(scope="module", name="pixels")
def fixture_pixels(pair):
    noise = np.random.default_rng(2).integers(0, 256, (33, 50, 3), np.uint8)
    return pair[1].processor.pixels([Image.fromarray(noise)])[0]


def states_of(theirs, ids: list[int], pixels: np.ndarray | None = None) -> list[np.ndarray]:
    """[T, D] of every layer, the last one before the final norm."""
    last = []
    norm = theirs.model.language_model.norm
    hook = norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
    given = {}
    if pixels is not None:
        values = ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
        given = {"pixel_values": torch.tensor(values, dtype=torch.float32)}
    with torch.no_grad():
        out = theirs(input_ids=torch.tensor([ids]), output_hidden_states=True, **given)
    hook.remove()
    return [x[0].double().numpy() for x in (*out.hidden_states[:-1], last[0])]


def refusal(theirs, states: list[np.ndarray]) -> list[float]:
    """By layer, of the next token."""
    found = []
    for x in states:
        with torch.no_grad():
            normed = theirs.model.language_model.norm(torch.tensor(x[-1], dtype=torch.float32))
            logits = theirs.lm_head(normed).double().numpy()
        p = np.exp(logits - logits.max())
        found.append(p[list(REFUSALS)].sum() / p.sum())
    return found


def test_curves_and_words_are_those_of_transformers(pair, pixels):
    theirs, ours = pair
    found = look(ours, REFUSALS, pixels, QUESTION, CAPTION)
    words = ours.processor.tokenizer
    prompt = words(f"<s>[ user ] <image>\n{QUESTION} [ assistant ]", add_special_tokens=False)["input_ids"]
    at = prompt.index(IMAGE_ID)
    ids = [*prompt[:at], *[IMAGE_ID] * 4, *prompt[at + 1 :]]
    picture = states_of(theirs, ids, pixels)
    np.testing.assert_allclose(found.picture, refusal(theirs, picture), atol=1e-5)

    told = words(f"<s>[ user ] {CAPTION}\n{QUESTION} [ assistant ]", add_special_tokens=False)["input_ids"]
    np.testing.assert_allclose(found.text, refusal(theirs, states_of(theirs, told)), atol=1e-5)

    caption = states_of(theirs, [1, *words(CAPTION, add_special_tokens=False)["input_ids"]])
    means = [(i[at : at + 4].mean(0), c[1:].mean(0)) for i, c in zip(picture, caption, strict=True)]
    cosines = [i @ c / np.linalg.norm(i) / np.linalg.norm(c) for i, c in means]
    np.testing.assert_allclose(found.cosine, cosines, atol=1e-5)

    table = theirs.get_input_embeddings().weight.detach().double().numpy()[: len(words)]
    tokens = picture[0][at : at + 4]
    near = (tokens / np.linalg.norm(tokens, axis=1, keepdims=True)) @ (
        table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    ).T
    assert [word for word, _ in found.words] == [words.decode([i]).strip() or "␣" for i in near.argmax(1)]
    np.testing.assert_allclose([cosine for _, cosine in found.words], near.max(1), atol=1e-5)
    assert len(found.causes) == len(picture) - 1 - found.window + 1


def test_without_a_caption_there_is_nothing_to_compare(pair, pixels):
    bare, told = (look(pair[1], REFUSALS, pixels, QUESTION, caption) for caption in ("", CAPTION))
    assert (bare.text, bare.cosine, bare.causes) == (None, None, None)
    np.testing.assert_allclose(bare.picture, told.picture, rtol=1e-5)
    assert bare.words == told.words


@pytest.mark.parametrize("texts", [("w5 <image>", CAPTION), (QUESTION, "<image>")])
def test_a_placeholder_is_no_text(pair, pixels, texts):
    with pytest.raises(tga_jax.UserError, match="<image> in the question or the caption, expected text alone"):
        look(pair[1], REFUSALS, pixels, *texts)
