"""The instruments on hand-made states, and their states against a forward by hand."""

import numpy as np
import pytest
from analysis_support import LENGTHS, MODEL, P, parameters, prompts, states_by_hand

from tga_jax.analysis.instruments import modality_probe, norm_ratio, retrieval_accuracy, token_states, word_share


def test_token_states_are_those_at_the_marked_positions_in_order():
    batch = prompts(True)
    states = np.asarray(token_states(MODEL, parameters(), batch, batch.image_mask, count=P))
    for row, length in enumerate(LENGTHS):
        expected, _ = states_by_hand(batch.tokens[row, :length], batch.image_features[row, 0])
        np.testing.assert_allclose(states[:, row], expected[:, 1 : 1 + P], rtol=1e-3, atol=1e-3)


def test_retrieval_pooled_and_by_token():
    """Two layers, three samples, two tokens. Layer 0: tokens swapped; layer 1: as they should be."""
    rng = np.random.default_rng(0)
    text = rng.standard_normal((1, 3, 2, 8)) + 50
    image = 3 * text - 20
    swapped = image[:, :, ::-1]
    found = retrieval_accuracy(np.concatenate([swapped, image]), np.concatenate([text, text]))
    assert found["pooled"] == [1.0, 1.0]
    assert found["token"][1] == 1.0
    wrong = np.roll(image, 1, axis=1)
    assert retrieval_accuracy(wrong, text) == {"pooled": [0.0], "token": [0.0]}
    # Constant states say nothing: every caption is as near as the first.
    nothing = retrieval_accuracy(np.ones_like(image), text)
    assert nothing == {"pooled": [pytest.approx(1 / 3)], "token": [pytest.approx(1 / 3)]}


def test_word_share_is_that_of_the_marked_words():
    words = np.eye(4)[None, [[0, 1, 2], [3, 1, 0]]]  # [1, 2, 3, 4]
    marked = np.array([[True, False, False], [False, False, True]])
    assert word_share(words, words, marked) == [pytest.approx(2 / 6)]
    # All tokens of both pictures are the first word of sample 0, the third of sample 1.
    first = np.broadcast_to(np.eye(4)[0], (1, 2, 3, 4)) + 0.1 * words
    assert word_share(first, words, marked)[0] == pytest.approx(2 / 6)
    # Each token is nearest to one word: 0 0 2 of the first picture, of which two are marked, 0 2 2 of the second.
    drawn = np.stack([words[0, 0, [0, 0, 2]], words[0, 1, [0, 2, 2]]])[None]
    assert word_share(0.3 * drawn, words, marked) == [pytest.approx((2 + 2) / 6)]


def test_norm_ratio():
    text = np.full((2, 3, 4, 4), 0.5)  # each of norm 1
    image = text * np.array([2.0, 0.25])[:, None, None, None]
    assert norm_ratio(image, text) == [pytest.approx(2.0), pytest.approx(0.25)]
    assert np.isfinite(norm_ratio(image, 0 * text)).all()


def test_the_probe_tells_what_can_be_told_and_nothing_else():
    rng = np.random.default_rng(1)
    same = rng.standard_normal((2, 1, 80, 6, 10))
    shifted = same[1] + 4 * np.eye(10)[3]
    told = modality_probe(np.concatenate([same[1], shifted]), np.concatenate([same[0]] * 2), seed=0)
    assert told[0] == pytest.approx(0.5, abs=0.08)
    assert told[1] > 0.95
    assert modality_probe(shifted, same[0], seed=0) == modality_probe(shifted, same[0], seed=0)
    assert np.isfinite(modality_probe(np.zeros((1, 4, 2, 3)), np.zeros((1, 4, 2, 3)), seed=0)).all()
