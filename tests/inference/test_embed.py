"""Embeddings in chunks against embeddings at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tga_jax.inference.embed import embed_images, embed_texts, features_and_embeddings, in_chunks
from tga_jax.models import clip, layers, llama, llava

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


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
def test_chunks_of_one_static_size_equal_the_direct_result(count):
    rows = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    seen = []

    def function(chunk):
        seen.append(chunk.shape)
        return {"sum": chunk.sum(1), "pair": (jnp.asarray(chunk) * 2, chunk[:, :1])}

    found = in_chunks(function, rows, size=4)
    assert set(seen) == {(min(count, 4), 2)}
    assert len(seen) == -(-count // 4)
    np.testing.assert_array_equal(found["sum"], rows.sum(1))
    np.testing.assert_array_equal(found["pair"][0], rows * 2)
    np.testing.assert_array_equal(found["pair"][1], rows[:, :1])
    assert isinstance(found["pair"][0], np.ndarray)


def test_image_features_are_what_the_projector_reads_and_embeddings_are_clips(params):
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    features, embeddings = features_and_embeddings(TINY, params, images)
    direct = np.asarray(llava.image_features(TINY, params, images[:, None]))[:, 0]
    assert (features.shape, features.dtype) == ((5, TINY.image_tokens, 8), np.float16)
    np.testing.assert_allclose(features.astype(np.float32), direct, rtol=2e-3, atol=2e-3)
    assert np.abs(direct - direct[:1]).max() > 0.1  # the pictures do differ
    expected = layers.apply(
        clip.Clip(TINY.clip), params, clip.normalized(TINY.clip.vision, images), method="embed_images"
    )
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embed_images(TINY.clip, params, images), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1, rtol=1e-5)


def test_text_embeddings_do_not_depend_on_what_follows_the_end_token(params):
    tokens = np.random.default_rng(2).integers(3, 20, (3, 6)).astype(np.int32)
    tokens[:, 3] = 2
    other = tokens.copy()
    other[:, 4:] = 0
    expected = layers.apply(clip.Clip(TINY.clip), params, jnp.asarray(tokens), method="embed_texts")
    np.testing.assert_allclose(embed_texts(TINY.clip, params, tokens), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embed_texts(TINY.clip, params, list(other)), expected, rtol=1e-4, atol=1e-5)
