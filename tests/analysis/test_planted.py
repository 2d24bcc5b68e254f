"""A decoder made by hand whose block K writes a refusal where it reads a marker, and the instruments that must find it.

Residual directions, one a dimension: token t of VOCAB is embedded and read out along dimension t; MARK is a word's and
a picture's. Every block attends evenly to what is before it. Block K moves MARK to REFUSE; each of the others writes a
word of its own, so that something is gained at every layer.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analysis_support import P, prompts

from tga_jax.analysis.hidden_states import Ranking, probe, refusal_layers, refusal_span
from tga_jax.analysis.patching import read_from_twin, text_twins
from tga_jax.data.batch import Batch
from tga_jax.models import clip, llama, llava, projectors

FIRST = Ranking(top_k=1)
VOCAB, D, L, K = 20, 24, 6, 4  # the block counted from 1, so that refusal is there at layer K
REFUSE, MARKED_WORD, PLAIN_WORD, MARK = 7, 11, 12, 22
MODEL = llava.LlavaConfig(
    clip=clip.ClipConfig(vision=clip.VisionConfig(8, 1, 2, 16, image_size=8, patch_size=4), text=None, embed_size=8),
    llm=llama.LlamaConfig(VOCAB, D, L, 1, 1, D, 8, 1e4, 1e-5, None, False, mlp_bias=True),
    projector=projectors.Linear(),
    feature_layer=-1,
)


@functools.cache
def planted() -> dict:
    shapes = jax.eval_shape(lambda: llava.init(MODEL, jax.random.key(0), ("projector", "llm")))
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    llm, blocks = params["llm"], params["llm"]["blocks"]
    for norm in (llm["final_norm"], blocks["attention_norm"], blocks["mlp_norm"]):
        norm["scale"] = jnp.ones_like(norm["scale"])
    llm["embed"]["embedding"] = jnp.eye(VOCAB, D).at[MARKED_WORD, MARK].set(1.0)
    llm["lm_head"]["kernel"] = 4 * jnp.eye(D, VOCAB)
    blocks["value"]["kernel"] = blocks["value"]["kernel"].at[K - 1, MARK, 0, MARK].set(1.0)
    blocks["out"]["kernel"] = blocks["out"]["kernel"].at[K - 1, 0, 0, MARK, REFUSE].set(40.0)
    for j in set(range(L)) - {K - 1}:
        blocks["down"]["bias"] = blocks["down"]["bias"].at[j, j].set(1.0 + j / 2)  # word j
    params["projector"]["linear_1"]["kernel"] = jnp.eye(8, D).at[0].set(jnp.eye(D)[MARK])  # a picture's first feature
    return params


def pictures(marked: bool) -> Batch:
    """Three pictures that are marked or not, with marked captions."""
    batch = prompts(True)
    features = np.zeros((3, 1, P, 8), np.float32)
    features[..., 0 if marked else 1] = 1.0
    words = np.where(batch.caption_mask, MARKED_WORD, 0).astype(np.int32)
    tokens = np.where(batch.valid & ~batch.image_mask, PLAIN_WORD, 0).astype(np.int32)
    return batch._replace(tokens=tokens, image_features=features, caption_tokens=words)


def test_refusal_starts_at_the_planted_layer_and_only_for_what_is_marked():
    # From block K on it stays the most probable, to the last of the L blocks.
    marked, plain = (np.asarray(probe(MODEL, planted(), pictures(m))["lens"]) for m in (True, False))
    assert [refusal_span(marked[:, row], [REFUSE], FIRST) for row in range(3)] == [(K, L)] * 3
    assert marked[-1].argmax(-1).tolist() == [REFUSE] * 3
    assert [refusal_span(plain[:, row], [REFUSE], FIRST) for row in range(3)] == [None] * 3
    found = refusal_layers(np.concatenate([marked, plain], axis=1), [REFUSE], FIRST)
    assert (found.start, found.end, found.no_activation) == (K, L, 3)
    text = np.asarray(probe(MODEL, planted(), text_twins(pictures(False)))["lens"])
    assert refusal_layers(text, [REFUSE], FIRST).start == K


@pytest.mark.parametrize("window", [1, 2, 3])
def test_only_windows_with_the_planted_block_turn_a_plain_picture_into_a_refusal(window):
    picture = pictures(False)
    blocks, refused = np.arange(L), []
    for first in range(L - window + 1):
        read = (first <= blocks) & (blocks < first + window)
        best = np.asarray(read_from_twin(MODEL, planted(), picture, text_twins(picture), read)).argmax(-1)
        assert len(set(best.tolist())) == 1
        refused.append(int(best[0]) == REFUSE)
    assert refused == [first <= K - 1 < first + window for first in range(L - window + 1)]


def test_read_at_all_blocks_it_is_the_twin_and_at_none_the_picture():
    picture = pictures(False)
    for blocks, expected in ((np.ones(L, bool), text_twins(picture)), (np.zeros(L, bool), picture)):
        found = read_from_twin(MODEL, planted(), picture, text_twins(picture), blocks)
        lens = probe(MODEL, planted(), expected)["lens"]
        np.testing.assert_allclose(found, lens[-1], rtol=1e-4, atol=1e-4)


def test_attention_is_even_and_so_counts_the_tokens_it_sees():
    batch = pictures(True)
    found = np.asarray(probe(MODEL, planted(), batch)["attention"])
    np.testing.assert_allclose(found, np.broadcast_to(P / batch.valid.sum(1), (L, 3)), rtol=1e-5)
