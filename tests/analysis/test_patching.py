"""Patching against runs of the decoder with a key-value cache put together by hand, and what must hold of any patch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analysis_support import MODEL, VOCAB, C, P, T, parameters

from tga_jax.analysis.patching import Patch, patched, refusal_curves
from tga_jax.data.batch import Batch
from tga_jax.models import layers, llama, llava

L = MODEL.llm.num_layers
START, LENGTHS = 2, np.array([10, 8, 9])  # where the picture begins; tokens of the prompts


@functools.cache
def prompts() -> tuple[Batch, Batch]:
    """Pictures between words, and their twins."""
    rng = np.random.default_rng(5)
    size = len(LENGTHS)
    valid = np.arange(T) < LENGTHS[:, None]
    mask = np.tile((np.arange(T) >= START) & (np.arange(T) < START + P), (size, 1))
    picture = Batch(
        tokens=np.where(valid & ~mask, rng.integers(3, VOCAB, (size, T)), 0).astype(np.int32),
        valid=valid,
        targets=mask & False,
        image_mask=mask,
        retrieved_mask=mask & False,
        caption_tokens=rng.integers(3, VOCAB, (size, C)).astype(np.int32),
        caption_mask=np.tile(np.arange(C) > 0, (size, 1)),
        image_features=rng.standard_normal((size, 1, P, 8)).astype(np.float32),
    )
    tokens = np.asarray(llava.text_twin(picture.tokens, mask, picture.caption_tokens, picture.caption_mask))
    return picture, picture._replace(tokens=tokens, image_mask=mask & False, image_features=None)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def patch(**fields) -> Patch:
    """Blocks and positions that broadcast to [L, B, T]."""
    shape = (L, len(LENGTHS), T)
    return Patch(*(jnp.asarray(np.broadcast_to(fields.get(name, False), shape)) for name in Patch._fields))


def run(**fields) -> np.ndarray:
    picture, twin = prompts()
    return np.asarray(patched(MODEL, parameters(), picture, twin, patch(**fields)))


def plain(batch: Batch) -> np.ndarray:
    """Next-token log-probabilities [B, V] of the ordinary forward."""
    params = parameters()
    x = llava.embed(MODEL, params, batch.tokens, batch.image_mask, batch.image_features)
    positions = jnp.broadcast_to(jnp.arange(T), batch.tokens.shape)
    out = layers.apply(llama.Decoder(MODEL.llm), params["llm"], x, positions, batch.valid)
    logits = layers.apply(llama.Decoder(MODEL.llm), params["llm"], out.hidden, method="logits")
    return np.asarray(jax.nn.log_softmax(logits))[np.arange(len(LENGTHS)), LENGTHS - 1]


def with_cache(key_from: int, value_from: int) -> np.ndarray:
    """The words after the picture read a cache that holds the twin's keys and values from these blocks on."""
    params = parameters()
    decoder = llama.Decoder(MODEL.llm)
    end = START + P
    caches = []
    for batch in prompts():
        x = llava.embed(MODEL, params, batch.tokens, batch.image_mask, batch.image_features)[:, :end]
        positions = jnp.broadcast_to(jnp.arange(end), x.shape[:2])
        empty = llama.empty_cache(MODEL.llm, len(x), T)
        caches.append(layers.apply(decoder, params["llm"], x, positions, positions >= 0, None, empty).cache)
    own, twin = caches
    block = jnp.arange(L)[:, None, None, None, None]
    mixed = own.replace(k=jnp.where(block >= key_from, twin.k, own.k), v=jnp.where(block >= value_from, twin.v, own.v))
    batch = prompts()[0]
    rest = layers.apply(decoder, params["llm"], batch.tokens[:, end:], method="embed")
    positions = jnp.broadcast_to(jnp.arange(end, T), rest.shape[:2])
    out = layers.apply(decoder, params["llm"], rest, positions, batch.valid[:, end:], None, mixed)
    logits = layers.apply(decoder, params["llm"], out.hidden, method="logits")
    return np.asarray(jax.nn.log_softmax(logits))[np.arange(len(LENGTHS)), LENGTHS - 1 - end]


BLOCKS = np.arange(L)[:, None, None]
IMAGE = (np.arange(T) >= START) & (np.arange(T) < START + P)
CLOSE = {"rtol": 2e-4, "atol": 2e-4}


def test_without_a_patch_it_is_the_ordinary_forward():
    np.testing.assert_allclose(run(), plain(prompts()[0]), **CLOSE)


@pytest.mark.parametrize("where", [True, IMAGE], ids=["everywhere", "picture"])
def test_all_inputs_of_the_first_block_taken_over_give_the_twin(where):
    assert np.abs(plain(prompts()[0]) - plain(prompts()[1])).max() > 0.1
    np.testing.assert_allclose(run(residual=(BLOCKS == 0) & where), plain(prompts()[1]), **CLOSE)


@pytest.mark.parametrize("j", range(L + 1))
def test_keys_and_values_of_the_picture_are_those_of_a_cache(j):
    both = run(key=(j <= BLOCKS) & IMAGE, value=(j <= BLOCKS) & IMAGE)
    np.testing.assert_allclose(both, with_cache(j, j), **CLOSE)
    np.testing.assert_allclose(run(key=(j <= BLOCKS) & IMAGE), with_cache(j, L), **CLOSE)
    np.testing.assert_allclose(run(value=(j <= BLOCKS) & IMAGE), with_cache(L, j), **CLOSE)
    # What stands before the picture is the same in both: the residual at block j sets all that is read from there on.
    np.testing.assert_allclose(run(residual=(j == BLOCKS) & IMAGE), both, **CLOSE)


def test_single_blocks_and_positions_count_each_for_itself():
    """Keys and values of one block alone, at one position, against all others."""
    seen = [run(key=(j == BLOCKS) & (np.arange(T) == t)) for j in range(L) for t in (START, START + 1)]
    seen += [run(value=(j == BLOCKS) & (np.arange(T) == t)) for j in range(L) for t in (START, START + 1)]
    for i, one in enumerate(seen):
        assert np.abs(one - run()).max() > 1e-3
        for other in seen[:i]:
            assert np.abs(one - other).max() > 1e-4


def test_padding_and_later_positions_never_matter():
    changed = run(residual=np.arange(T) >= LENGTHS[:, None], key=np.arange(T) >= LENGTHS[:, None])
    np.testing.assert_allclose(changed, run(), **CLOSE)


def test_curves_count_first_tokens():
    picture, twin = prompts()
    own, other = (plain(batch).argmax(-1) for batch in (picture, twin))
    ids = sorted({int(i) for i in other} - {int(i) for i in own})
    assert ids
    found = refusal_curves(MODEL, parameters(), picture, twin, ids)
    assert set(found) == {"residual", "key", "value", "instruction"}
    assert all(len(curve) == L + 1 for curve in found.values())
    some = refusal_curves(MODEL, parameters(), picture, twin, ids, at=[2, 0])
    assert some == {name: [curve[2], curve[0], curve[-1]] for name, curve in found.items()}
    assert {curve[-1] for curve in found.values()} == {0.0}
    assert found["residual"][0] == pytest.approx(np.isin(other, ids).mean())
    after = (np.arange(T) >= START + P) & (np.arange(T) < LENGTHS[:, None])
    for j in range(L):
        expected = run(residual=(j == BLOCKS) & after).argmax(-1)
        assert found["instruction"][j] == pytest.approx(np.isin(expected, ids).mean())
        assert found["value"][j] == pytest.approx(np.isin(with_cache(L, j).argmax(-1), ids).mean())
