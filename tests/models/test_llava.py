"""Merging, projection, preprocessing, and the whole model against transformers' Llava with the same random weights."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest
import torch
import transformers

from tga_jax.models import clip, llama, llava

IMAGE_ID = 28
TINY = llava.LlavaConfig(
    clip=clip.ClipConfig(
        vision=clip.VisionConfig(16, 2, 2, 24, image_size=28, patch_size=14),
        text=clip.TextConfig(12, 1, 2, 16, vocab_size=20, context_length=6, eos_token_id=3),
        embed_size=8,
    ),
    llm=llama.LlamaConfig(29, 24, 2, 4, 2, 6, 32, 1e4, 1e-5, None, False),
)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def letters(rows: list[str]) -> np.ndarray:
    """Rows of letters as one-dimensional embeddings: [B, T, 1]."""
    return np.array([[[ord(c)] for c in row] for row in rows], np.float32)


def merged(text: list[str], images: list[list[str]], mask: list[str]) -> list[str]:
    """images: per row, the letters of each image's features."""
    features = np.stack([letters(row) for row in images])
    out = llava.merge(letters(text), features, np.array([[c == "1" for c in row] for row in mask]))
    return ["".join(chr(int(c)) for c in row[:, 0]) for row in np.asarray(out)]


def test_merge_worked_rows():
    assert merged(["abcd"], [["xy"]], ["0110"]) == ["axyd"]
    assert merged(["abcd"], [["xy"]], ["1001"]) == ["xbcy"]
    # Two images follow one another, with text between them or not; each row reads its own images.
    text, mask = ["abcdefg", "hijklmn"], ["0110110", "1111000"]
    assert merged(text, [["pq", "rs"], ["tu", "vw"]], mask) == ["apqdrsg", "tuvwlmn"]
    assert merged(["abcdefg"], [["pqr", "stu"]], ["1110111"]) == ["pqrdstu"]


def test_a_row_without_image_positions_keeps_its_text():
    assert merged(["abcd", "efgh"], [["xy"], ["zw"]], ["0000", "0011"]) == ["abcd", "efzw"]


def test_a_row_may_hold_fewer_images_than_the_batch():
    assert merged(["abcde", "fghij"], [["pq", "rs"], ["tu", "--"]], ["11110", "01100"]) == ["pqrse", "ftuij"]


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.data())
def test_merge_places_features_in_order(data):
    batch, images, per_image, length = (data.draw(st.integers(1, top)) for top in (3, 3, 3, 10))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    text = rng.standard_normal((batch, length, 2)).astype(np.float32)
    features = rng.standard_normal((batch, images, per_image, 2)).astype(np.float32)
    mask = np.zeros((batch, length), bool)
    expected = text.copy()
    for row in range(batch):
        count = data.draw(st.integers(0, min(length, images * per_image)))
        places = np.sort(rng.permutation(length)[:count])
        mask[row, places] = True
        for i, place in enumerate(places):
            expected[row, place] = features[row, i // per_image, i % per_image]
    np.testing.assert_array_equal(llava.merge(text, features, mask), expected)


def test_merge_takes_the_precision_of_the_text():
    out = llava.merge(jnp.zeros((1, 2, 3), jnp.bfloat16), jnp.ones((1, 1, 1, 3)), np.array([[False, True]]))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out[0, :, 0], [0, 1])


def twin(text: str, image: str, caption: str, layout: str = "repeated") -> str:
    """One row of letters; `caption` without its begin token, padded with `-`."""

    def ids(letters: str) -> np.ndarray:
        return np.array([[ord(c) for c in letters]])

    mask = np.array([[c == "1" for c in image]])
    kept = np.array([[False] + [c != "-" for c in caption]])
    return "".join(map(chr, np.asarray(llava.text_twin(ids(text), mask, ids("^" + caption), kept, layout))[0]))


def test_text_twin_worked_rows():
    assert twin("s....q", "011110", "abc") == "scabcq"
    assert twin("s....q", "011110", "abc--") == "scabcq"
    assert twin("s....q", "011110", "abcdef") == "scdefq"  # longer than the picture: its end
    assert twin("s....q", "011110", "a") == "saaaaq"
    assert twin("sr..q..t", "00110110", "abc") == "srcaqbct"  # two pictures: one caption over both
    assert twin("s....q", "011110", "---") == "s....q"
    assert twin("stuvwq", "000000", "abc") == "stuvwq"
    assert twin("s.....q", "0111110", "abc--", "stretched") == "saabbcq"
    assert twin("s....q", "011110", "abcdef", "stretched") == "sabdeq"  # longer than the picture: spread over it
    assert twin("sr..q..t", "00110110", "abc", "stretched") == "sraaqbct"
    assert twin("s....q", "011110", "---", "stretched") == "s....q"
    assert twin("stuvwq", "000000", "abc", "stretched") == "stuvwq"
    with pytest.raises(ValueError, match="layout: 'torn', expected one of repeated, stretched"):
        twin("s....q", "011110", "abc", "torn")


def processed(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 28, 28, 3] -> what CLIP's own preprocessing makes of them, [N, 3, 28, 28]."""
    size = {"height": 28, "width": 28}
    process = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    return np.stack(process(list(images), return_tensors="np", input_data_format="channels_last")["pixel_values"])


def test_pixels_are_normalised_as_by_clip():
    images = np.random.default_rng(3).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    images[0, :2] = np.array([0, 255])[:, None, None]
    ours = clip.normalized(TINY.clip.vision, jnp.asarray(images))
    np.testing.assert_allclose(ours, processed(images).transpose(0, 2, 3, 1), rtol=0, atol=2e-6)


@functools.cache
def pair(select: str):
    """transformers' model, and its configuration and parameters here; the two hidden sizes differ."""
    hf = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, image_size=28,
            patch_size=14, layer_norm_eps=1e-3,
        ),
        text_config=transformers.LlamaConfig(
            vocab_size=29, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-3,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        ),
        image_token_index=IMAGE_ID, vision_feature_layer=-2, vision_feature_select_strategy=select,
    )  # fmt: skip
    model = parity_support.randomize(transformers.LlavaForConditionalGeneration(hf), seed=4)
    model.set_attn_implementation("eager")
    config, params = parity_support.converted(model)
    assert config.feature_select == {"default": "patch", "full": "full"}[select]
    return model, config, params


@functools.partial(jax.jit, static_argnums=0)
def forward(config, params, tokens, valid, image_mask, images):
    features = llava.image_features(config, params["clip"], images)
    x = llava.embed(config, params, tokens, image_mask, features)
    decoder = llama.Decoder(config.llm)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    out = decoder.apply({"params": params["llm"]}, x, positions, valid)
    return features, decoder.apply({"params": params["llm"]}, out.hidden, method="logits")


@pytest.mark.parametrize("select", ["default", "full"])
def test_multimodal_logits(select):
    """Rows of two images each, apart and adjacent, and a row without any."""
    model, config, params = pair(select)
    count = {"default": 4, "full": 5}[select]
    assert config.image_tokens == count
    image = [IMAGE_ID] * count
    rows = [[1, *image, 5, 6, *image, 7], [1, 4, *image, *image], [1, 9, 8, 7, 6]]
    width = max(map(len, rows))
    tokens = np.array([row + [0] * (width - len(row)) for row in rows])
    valid = np.arange(width) < np.array([len(row) for row in rows])[:, None]
    images = np.random.default_rng(5).integers(0, 256, (3, 2, 28, 28, 3), dtype=np.uint8)
    start = 1 if select == "default" else 0

    pixel_values = torch.tensor(processed(images[:2].reshape(4, 28, 28, 3)))
    with torch.no_grad():
        theirs = model(
            input_ids=torch.tensor(tokens), attention_mask=torch.tensor(valid).long(), pixel_values=pixel_values
        )
        states = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2]
        # Not the output's image_hidden_states, whose shape differs between releases of transformers.
        expected = model.model.multi_modal_projector(states[:, start:])
    features, logits = forward(config, params, tokens, valid, tokens == IMAGE_ID, images)

    assert features.shape == (3, 2, count, 32)
    np.testing.assert_allclose(features[:2].reshape(4, count, 32), states[:, start:], rtol=1e-5, atol=1e-5)
    projected = llava.projector(config).apply({"params": params["projector"]}, features[:2].reshape(4, count, 32))
    np.testing.assert_allclose(projected, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.asarray(logits)[valid], theirs.logits.numpy()[valid], rtol=1e-5, atol=2e-5)


def test_text_alone_needs_no_images():
    model, config, params = pair("default")
    tokens = np.array([[1, 9, 8, 7, 6]])
    x = llava.embed(config, params, tokens, np.zeros((1, 5), bool), None)
    np.testing.assert_array_equal(x, params["llm"]["embed"]["embedding"][tokens])
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(tokens)).logits
    ours = llama.Decoder(config.llm).apply({"params": params["llm"]}, tokens, tokens > 0, method="from_tokens")
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_only_the_vision_tower_is_frozen():
    _, config, params = pair("default")
    tokens = np.array([[1, *[IMAGE_ID] * 4, 5]])
    images = np.random.default_rng(6).integers(0, 256, (1, 1, 28, 28, 3), dtype=np.uint8)

    @jax.jit
    @jax.grad
    def gradients(params):
        return jnp.mean(forward(config, params, tokens, tokens > 0, tokens == IMAGE_ID, images)[1] ** 2)

    found = gradients(params)
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(found["clip"]))
    for part in ("projector", "llm"):
        assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(found[part]))


def test_init_makes_each_part_alone():
    key = jax.random.key(8, impl="unsafe_rbg")  # quick to compile
    make = jax.jit(lambda key, parts: llava.init(TINY, key, parts), static_argnums=1)
    both = make(key, ("llm", "projector"))
    for part in ("projector", "llm"):
        alone = make(key, (part,))
        assert set(alone) == {part}
        jax.tree.map(np.testing.assert_array_equal, alone[part], both[part])
    other = make(jax.random.key(9, impl="unsafe_rbg"), ("projector",))["projector"]
    assert (other["linear_1"]["kernel"] != both["projector"]["linear_1"]["kernel"]).any()
    assert llava.init(TINY, key, ()) == {}
    assert set(jax.eval_shape(lambda: llava.init(TINY, key))) == {"clip", "projector", "llm"}
