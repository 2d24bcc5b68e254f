"""The caption index against brute force, and embeddings in chunks against embeddings at once."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tga_jax.models import clip, layers, llama, llava
from tga_jax.retrieval.embed import embed_images, embed_texts, in_chunks
from tga_jax.retrieval.index import CaptionIndex

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = llava.LlavaConfig(
    clip=clip.ClipConfig(
        vision=clip.VisionConfig(8, 2, 2, 16, image_size=8, patch_size=4),
        text=clip.TextConfig(8, 1, 2, 16, vocab_size=20, context_length=6, eos_token_id=2),
        embed_size=8,
    ),
    llm=llama.LlamaConfig(20, 8, 1, 2, 1, 4, 8, 1e4, 1e-5, None, True),
    feature_layer=-2,
)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: llava.init(TINY, jax.random.key(0), ("clip",))["clip"])()


def unit(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    x = rng.standard_normal((count, size)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.data())
def test_nearest_is_the_brute_force_nearest_that_is_not_the_images_own(data):
    count, queries, size = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 6)), data.draw(st.integers(2, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    captions = [f"caption {i}" for i in rng.permutation(count)]
    corpus, asked = unit(rng, count, size), unit(rng, queries, size)
    # Own captions may be the nearest, any other, or none of the corpus (as for held-out pairs).
    own = [data.draw(st.sampled_from([*captions, "elsewhere"])) for _ in range(queries)]
    own[0] = captions[int(np.argmax(corpus @ asked[0]))]
    found = CaptionIndex(captions, corpus).nearest(asked, own)
    for query, mine, answer in zip(asked, own, found, strict=True):
        cosines = {c: float(corpus[i] @ query) for i, c in enumerate(captions) if c != mine}
        assert answer != mine
        assert cosines[answer] >= max(cosines.values()) - 1e-6


def test_worked_example():
    index = CaptionIndex(["east", "north", "north-east"], np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32))
    queries = np.array([[1, 0], [1, 0], [0, 1], [0.1, 0.99]], np.float32)
    assert index.nearest(queries, ["east", "west", "north", "north-east"]) == [
        "north-east",
        "east",
        "north-east",
        "north",
    ]


def test_equal_embeddings_still_never_give_the_own_caption():
    same = np.ones((2, 1), np.float32)
    index = CaptionIndex(["a", "b"], same)
    assert index.nearest(np.ones((2, 1), np.float32), ["a", "b"]) == ["b", "a"]


def test_duplicate_captions_and_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="3 captions, 2 different"):
        CaptionIndex(["a", "b", "a"], np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match="2 embeddings"):
        CaptionIndex(["a", "b", "c"], np.eye(2, dtype=np.float32))
    with pytest.raises(ValueError, match="at least two"):
        CaptionIndex(["a"], np.eye(1, dtype=np.float32))
    with pytest.raises(ValueError, match="argument 2"):  # as many own captions as queries
        CaptionIndex(["a", "b"], np.eye(2, dtype=np.float32)).nearest(np.eye(2, dtype=np.float32), ["a"])


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
def test_chunks_of_one_static_size_equal_the_direct_result(count):
    rows = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    seen = []

    def function(chunk):
        seen.append(chunk.shape)
        return {"sum": chunk.sum(1), "pair": (jnp.asarray(chunk) * 2, chunk[:, :1])}

    found = in_chunks(function, rows, size=4)
    assert set(seen) == {(4, 2)}
    assert len(seen) == -(-count // 4)
    np.testing.assert_array_equal(found["sum"], rows.sum(1))
    np.testing.assert_array_equal(found["pair"][0], rows * 2)
    np.testing.assert_array_equal(found["pair"][1], rows[:, :1])
    assert isinstance(found["pair"][0], np.ndarray)


def test_image_features_are_what_the_projector_reads_and_embeddings_are_clips(params):
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    features, embeddings = embed_images(TINY, params, images)
    direct = np.asarray(llava.image_features(TINY, params, images[:, None]))[:, 0]
    assert (features.shape, features.dtype) == ((5, TINY.image_tokens, 8), np.float16)
    np.testing.assert_allclose(features.astype(np.float32), direct, rtol=2e-3, atol=2e-3)
    assert np.abs(direct - direct[:1]).max() > 0.1  # the pictures do differ
    expected = layers.apply(clip.Clip(TINY.clip), params, llava.normalize_pixels(images), method="embed_images")
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1, rtol=1e-5)


def test_text_embeddings_do_not_depend_on_what_follows_the_end_token(params):
    tokens = np.random.default_rng(2).integers(3, 20, (3, 6)).astype(np.int32)
    tokens[:, 3] = 2
    other = tokens.copy()
    other[:, 4:] = 0
    expected = layers.apply(clip.Clip(TINY.clip), params, jnp.asarray(tokens), method="embed_texts")
    np.testing.assert_allclose(embed_texts(TINY, params, tokens), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embed_texts(TINY, params, list(other)), expected, rtol=1e-4, atol=1e-5)
