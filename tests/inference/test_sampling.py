"""Distributions against transformers' logits processors; choices against probabilities."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import torch
import transformers

from tga_jax.inference.sampling import Sampling, choose, distribution

LOGITS = 3 * np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
PROMPTS = np.random.default_rng(1).integers(0, 40, (5, 6))
SEEN = np.zeros((5, 40), bool)
np.put_along_axis(SEEN, PROMPTS, True, axis=1)


def theirs(config: Sampling, logits: np.ndarray = LOGITS) -> np.ndarray:
    """In the order in which `generate` applies them."""
    ids, scores = torch.tensor(PROMPTS), torch.tensor(logits)
    if config.repetition_penalty != 1:
        scores = transformers.RepetitionPenaltyLogitsProcessor(config.repetition_penalty)(ids, scores)
    scores = transformers.TemperatureLogitsWarper(config.temperature)(ids, scores)
    if config.top_k is not None:
        scores = transformers.TopKLogitsWarper(config.top_k)(ids, scores)
    if config.top_p < 1:
        scores = transformers.TopPLogitsWarper(config.top_p)(ids, scores)
    if config.min_p > 0:
        scores = transformers.MinPLogitsWarper(config.min_p)(ids, scores)
    return scores.numpy()


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.3, "top_k": 100},
        {"temperature": 1.0, "top_p": 0.6},
        {"temperature": 2.0, "top_p": 0.01},
        {"temperature": 1.0, "min_p": 0.2},
        {"temperature": 1.5, "repetition_penalty": 1.4},
        {"temperature": 0.8, "repetition_penalty": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    ],
)
def test_the_distribution_is_that_of_transformers(fields):
    config = Sampling(**fields)
    np.testing.assert_allclose(distribution(config, LOGITS, SEEN), theirs(config), rtol=1e-5, atol=1e-5)


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    st.builds(
        Sampling,
        temperature=st.floats(0.1, 3),
        top_k=st.none() | st.integers(1, 50),
        top_p=st.floats(0.01, 1),
        min_p=st.floats(0, 1),
    )
)
def test_the_likeliest_token_always_stays_and_all_that_stay_are_the_likeliest(config):
    kept = np.isfinite(distribution(config, LOGITS, None))
    assert kept[np.arange(5), LOGITS.argmax(-1)].all()
    for row, stays in zip(LOGITS, kept, strict=True):
        assert not stays.all() or config.top_k is None or config.top_k >= 40
        if not stays.all():
            assert row[stays].min() >= row[~stays].max()


def test_greedy_takes_the_penalty_into_account():
    logits = np.array([[2.0, 1.9, 0.0]], np.float32)
    keys = jax.random.split(jax.random.key(0), 1)
    seen = np.array([[True, False, False]])
    assert choose(Sampling(), logits, seen, keys).tolist() == [0]
    assert choose(Sampling(repetition_penalty=1.2), logits, seen, keys).tolist() == [1]


def test_tokens_come_as_often_as_their_probability_says():
    config = Sampling(temperature=1.0, top_k=4)
    keys = jax.random.split(jax.random.key(3), 20_000)
    row = LOGITS[0]
    found = np.asarray(choose(config, np.broadcast_to(row, (20_000, 40)), None, keys))
    expected = np.exp(theirs(config)[0]) / np.exp(theirs(config)[0]).sum()
    np.testing.assert_allclose(np.bincount(found, minlength=40) / 20_000, expected, atol=0.015)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
    ],
)
def test_values_that_make_no_sense(field, value):
    with pytest.raises(ValueError, match=f"{field}: {value}, expected"):
        Sampling(**{field: value})
