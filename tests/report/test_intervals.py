import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tga_jax.report import intervals
from tga_jax.report.intervals import Rate, mean_rate, paired_difference, wilson

trials = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, table I, method 3 (score without continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(successes, n, low, high):
    rate = wilson(successes, n)
    assert rate.low == pytest.approx(low, abs=5e-5)
    assert rate.high == pytest.approx(high, abs=5e-5)


@given(trials, st.sampled_from([0.8, 0.95, 0.99]))
def test_equals_scipy(trial, confidence):
    successes, n = trial
    rate = wilson(successes, n, confidence)
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert rate.value == successes / n
    assert rate.n == n


@given(trials)
def test_order_and_symmetry(trial):
    successes, n = trial
    rate, mirrored = wilson(successes, n), wilson(n - successes, n)
    assert rate.value is not None
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.low < rate.high
    assert rate.low == pytest.approx(1 - mirrored.high, abs=1e-12)


@given(trials)
def test_grows_with_successes_and_narrows_with_trials(trial):
    successes, n = trial
    rate = wilson(successes, n)
    more = wilson(successes + 1, n + 1)
    assert more.low >= rate.low
    assert more.high >= rate.high - 1e-12
    tenfold = wilson(10 * successes, 10 * n)
    assert tenfold.high - tenfold.low < rate.high - rate.low


def test_nothing_tried_knows_nothing():
    rate = wilson(0, 0)
    assert rate == Rate(None, 0.0, 1.0, 0)
    assert json.dumps(rate.to_json(), allow_nan=False) == '{"value": null, "low": 0.0, "high": 1.0, "n": 0}'


@pytest.mark.parametrize("bad", [(-1, 3, 0.95), (4, 3, 0.95), (0, -1, 0.95), (1, 3, 0.0), (1, 3, 1.0)])
def test_impossible_counts_are_errors(bad):
    with pytest.raises(ValueError, match=r"expected 0 <=|confidence"):
        wilson(*bad)


def test_a_mean_of_shares_is_wilsons_and_of_others_a_bootstraps():
    assert mean_rate([1, 0, 1.0, 1]) == wilson(3, 4)
    values = np.random.default_rng(3).beta(2, 3, 400)
    found = mean_rate(values.tolist())
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))  # the central limit
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert found == mean_rate(values.tolist())  # the same seed
    assert mean_rate([]) == wilson(0, 0)


def test_the_difference_is_of_pairs():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 500).astype(float)
    b = np.where(rng.random(500) < 0.1, 1.0, a)  # never worse: pairs tell what two means would not
    difference, low, high = paired_difference(a.tolist(), b.tolist())
    half = 1.96 * (b - a).std(ddof=1) / np.sqrt(500)
    assert difference == pytest.approx((b - a).mean())
    assert (low, high) == pytest.approx((difference - half, difference + half), abs=0.15 * half)
    assert paired_difference([0.3], [0.3]) == (0, 0, 0)
    with pytest.raises(ValueError, match="expected pairs, got 1 and 2 values"):
        paired_difference([1], [1, 0])
    with pytest.raises(ValueError, match="got 0 and 0"):
        paired_difference([], [])


def test_the_ends_are_exact_where_nothing_or_all_succeeds():
    for n in range(1, 2000):
        assert wilson(0, n).low == 0.0
        assert wilson(n, n).high == 1.0


@given(st.floats(0.01, 0.99), st.integers(1, 30))
def test_equal_values_lie_within_their_interval(value, n):
    rate = mean_rate([value] * n)
    assert rate.low <= rate.value <= rate.high
    assert (rate.low, rate.high) == pytest.approx((value, value))


def test_a_seed_gives_one_interval_and_another_seed_another():
    values = np.random.default_rng(5).random(30).tolist()
    assert mean_rate(values) == mean_rate(values, seed=0) != mean_rate(values, seed=1)
    pairs = values, values[::-1]
    assert paired_difference(*pairs) == paired_difference(*pairs, seed=0) != paired_difference(*pairs, seed=1)


@pytest.mark.parametrize(("block", "rows"), [(1, 1), (9, 3), (1_000_000, 10_000)])
def test_ten_thousand_resamples_are_drawn_a_block_at_a_time(monkeypatch, block, rows):
    drawn, made = [], np.random.default_rng

    class Recorded:
        def __init__(self, seed: int):
            self.rng = made(seed)

        def integers(self, low: int, high: int, size: tuple[int, int]) -> np.ndarray:
            drawn.append((low, high, size))
            return self.rng.integers(low, high, size)

    monkeypatch.setattr(intervals, "_BLOCK", block)
    monkeypatch.setattr(np.random, "default_rng", Recorded)
    rate = mean_rate([0.1, 0.5, 0.9], seed=4)
    assert sum(size[0] for *_, size in drawn) == 10_000
    assert {(low, high, size[1]) for low, high, size in drawn} == {(0, 3, 3)}
    assert max(size[0] for *_, size in drawn) == rows
    rng = made(4)
    means = np.concatenate([np.array([0.1, 0.5, 0.9])[rng.integers(0, 3, size)].mean(1) for *_, size in drawn])
    assert (rate.low, rate.high) == (np.quantile(means, 0.025), np.quantile(means, 0.975))


def test_a_rate_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        wilson(1, 2).value = 1.0  # pyrefly: ignore


def test_many_values_are_resampled_in_parts(monkeypatch):
    monkeypatch.setattr(intervals, "_BLOCK", 1)
    values = [0.1, 0.5, 0.9]
    low, high = mean_rate(values).low, mean_rate(values).high
    assert 0.1 <= low < 0.5 < high <= 0.9
