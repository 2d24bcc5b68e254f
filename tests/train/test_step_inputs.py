"""The other inputs of the losses: pictures, noise, pairs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_support import MODEL, RELEASED, C, P, batch_of, evaluate, gradient, parameters, take

from tga_jax import losses
from tga_jax.guides import Tiled
from tga_jax.models import clip, llava, projectors
from tga_jax.train import step
from tga_jax.train.step import LossConfig


def test_images_and_their_features_give_the_same():
    params = parameters()
    images = np.random.default_rng(3).integers(0, 256, (4, 1, 8, 8, 3), dtype=np.uint8)
    features = llava.image_features(MODEL, params["clip"], images)
    assert features.shape == (4, 1, P, 8)
    batch = batch_of()
    seen = evaluate(LossConfig(guide=RELEASED), params, batch._replace(images=images, image_features=None))[0]
    read = evaluate(LossConfig(guide=RELEASED), params, batch._replace(image_features=np.asarray(features)))[0]
    np.testing.assert_allclose(seen, read, rtol=1e-5)


def test_embedding_noise_depends_on_the_key_alone():
    config, params, batch = LossConfig(embedding_noise=5.0), parameters(), batch_of()
    one, again = (evaluate(config, params, batch, jax.random.key(1))[0] for _ in range(2))
    np.testing.assert_array_equal(one, again)
    other = evaluate(config, params, batch, jax.random.key(2))[0]
    clean = evaluate(LossConfig(), params, batch, jax.random.key(1))[0]
    assert len({float(one), float(other), float(clean)}) == 3
    np.testing.assert_array_equal(clean, evaluate(LossConfig(), params, batch, jax.random.key(2))[0])


def test_the_size_of_the_embedding_noise():
    """NEFTune: uniform within alpha / sqrt(T D), T the row's own tokens; seen in the squared error of layer 0."""
    guide = Tiled()
    params, batch = parameters(), take(batch_of(), [0])
    # Image tokens that equal their words: what is left of the error is the noise.
    table = np.asarray(params["llm"]["embed"]["embedding"])
    linear = dataclasses.replace(MODEL, projector=projectors.Linear())
    fit = {"linear_1": {"kernel": jnp.zeros((8, 16)), "bias": jnp.asarray(table[9])}}
    batch = batch._replace(caption_tokens=np.full((1, C), 9, np.int32))
    config = LossConfig(lm=0.0, guide=guide, embedding_noise=2.0)
    keys = jax.random.split(jax.random.key(0), 200)
    params = {**params, "projector": fit}
    run = jax.jit(jax.vmap(lambda k: step.loss_fn(linear, config, params, batch, k, jnp.zeros(()))[0]))
    bound = 2.0 / np.sqrt(batch.valid.sum() * 16)
    expected = 16 * bound**2 / 3 / np.sum(table[9] ** 2)
    np.testing.assert_allclose(np.mean(run(keys)), expected, rtol=0.05)


def captioned():
    """Parameters, and three pictures with captions, of which two are the same."""
    params = parameters()
    images = np.random.default_rng(4).integers(0, 256, (3, 1, 8, 8, 3), dtype=np.uint8)
    batch = take(batch_of(), [0, 1, 2])
    tokens = np.where(np.arange(12) == 5, 2, batch.tokens[:, :12]).astype(np.int32)
    tokens[2] = tokens[0]  # a repeated caption
    fields = ("valid", "targets", "image_mask", "retrieved_mask")
    batch = batch._replace(**{name: getattr(batch, name)[:, :12] for name in fields})
    return params, batch._replace(tokens=tokens, images=images, image_features=None)


SAME = jnp.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool)


def test_the_contrastive_loss_by_hand():
    params, batch = captioned()
    loss, metrics = evaluate(LossConfig(lm=0.0, contrastive=2.0), params, batch)
    pixels = clip.normalized(MODEL.clip.vision, batch.images[:, 0])
    image, text, scale = clip.Clip(MODEL.clip).apply({"params": params["clip"]}, pixels, batch.tokens)
    expected, _ = losses.contrastive_loss(image, text, scale, SAME)
    np.testing.assert_allclose(loss, 2 * expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["contrastive"], expected, rtol=1e-5)


def test_the_loss_of_every_patch_by_hand():
    params, batch = captioned()
    norm = params["clip"]["vision"]["post_norm"]
    norm["scale"], norm["bias"] = jnp.linspace(0.5, 2.0, len(norm["scale"])), jnp.linspace(-1.0, 1.0, len(norm["bias"]))
    loss, metrics = evaluate(LossConfig(lm=0.0, contrastive=2.0, patches=0.5), params, batch)
    alone, of_image = evaluate(LossConfig(lm=0.0, contrastive=2.0), params, batch)
    pixels = clip.normalized(MODEL.clip.vision, batch.images[:, 0])
    states = np.array(
        clip.vision_features(MODEL.clip.vision, params["clip"]["vision"], pixels, -1, "patch"), np.float64
    )
    centred = states - states.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(centred.var(-1, keepdims=True) + MODEL.clip.vision.layer_norm_eps)
    every = (scaled * norm["scale"] + norm["bias"]) @ np.array(
        params["clip"]["vision_projection"]["kernel"], np.float64
    )
    every = jnp.array(every / np.linalg.norm(every, axis=-1, keepdims=True), jnp.float32)
    _, text, scale = clip.Clip(MODEL.clip).apply({"params": params["clip"]}, pixels, batch.tokens)
    found = [losses.contrastive_loss(every[:, i], text, scale, SAME) for i in range(every.shape[1])]
    expected = np.mean([value for value, _ in found])
    assert len(found) > 1
    assert abs(expected - metrics["contrastive"]) > 1e-3
    np.testing.assert_allclose(metrics["patches"], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, alone + 0.5 * expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["contrastive"], of_image["contrastive"], rtol=1e-6)
    hits = np.mean([extra["retrieval_accuracy"] for _, extra in found])
    np.testing.assert_allclose(metrics["patch_retrieval_accuracy"], hits, rtol=1e-6)


def test_the_loss_of_patches_needs_that_of_the_image():
    with pytest.raises(ValueError, match=r"loss.patches: 0.5, and contrastive is 0"):
        LossConfig(patches=0.5)


def test_a_row_that_is_empty_has_no_noise():
    """As a picture that cannot be read leaves it (data.policy.missing: skip)."""
    params, batch = parameters(), batch_of()
    empty = {name: getattr(batch, name).copy() for name in ("valid", "targets", "image_mask", "retrieved_mask")}
    for array in empty.values():
        array[0] = False
    loss, metrics = evaluate(LossConfig(guide=RELEASED, embedding_noise=5.0), params, batch._replace(**empty))
    assert all(np.isfinite(x) for x in (loss, *metrics.values()))
    grads = gradient(LossConfig(embedding_noise=5.0), params, batch._replace(**empty))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(grads))


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(ValueError, match="lm and contrastive are 0, guide and dpo are None, expected something"):
        LossConfig(lm=0.0)
