"""The probe against a forward computed by hand, and its statistics against literals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analysis_support import CAPTIONS, LENGTHS, MODEL, VOCAB, C, P, parameters, prompts, states_by_hand

from tga_jax.analysis.hidden_states import Ranking, RefusalLayers, cosine_curves, probe, refusal_layers, refusal_span
from tga_jax.errors import UserError


@functools.cache
def probed(with_image: bool) -> dict:
    with jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, probe(MODEL, parameters(), prompts(with_image)))


def test_means_are_those_of_the_image_tokens_and_of_the_captions_own_tokens():
    batch, found = prompts(True), probed(True)
    assert found["image"].shape == found["caption"].shape == (4, 3, 16)
    for row, (length, words) in enumerate(zip(LENGTHS, CAPTIONS, strict=True)):
        states, _ = states_by_hand(batch.tokens[row, :length], batch.image_features[row, 0])
        np.testing.assert_allclose(found["image"][:, row], states[:, 1 : 1 + P].mean(1), rtol=2e-4, atol=2e-5)
        states, _ = states_by_hand(batch.caption_tokens[row, : 1 + words], None)
        np.testing.assert_allclose(found["caption"][:, row], states[:, 1:].mean(1), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("with_image", [True, False])
def test_the_last_layer_through_the_lens_is_the_models_own_next_token(with_image):
    batch, found = prompts(with_image), probed(with_image)
    assert found["lens"].shape == (4, 3, VOCAB)
    np.testing.assert_allclose(np.exp(found["lens"]).sum(-1), 1, rtol=1e-5)
    for row, length in enumerate(LENGTHS):
        features = batch.image_features[row, 0] if with_image else None
        states, log_probs = states_by_hand(batch.tokens[row, :length], features)
        np.testing.assert_allclose(found["lens"][-1, row], log_probs[-1], rtol=2e-4, atol=2e-4)
        # Lower layers, through RMSNorm and the tied head written out.
        llm = parameters()["llm"]
        last = states[:, -1]
        normed = last / np.sqrt((last**2).mean(-1, keepdims=True) + 1e-5) * np.asarray(llm["final_norm"]["scale"])
        logits = normed @ np.asarray(llm["embed"]["embedding"]).T
        expected = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
        np.testing.assert_allclose(found["lens"][:, row], expected, rtol=2e-4, atol=2e-4)


def test_without_pictures_the_image_means_are_zero_and_captions_are_the_same():
    found = probed(False)
    assert not found["image"].any()
    np.testing.assert_array_equal(found["caption"], probed(True)["caption"])


def test_what_stands_on_padding_is_irrelevant():
    batch = prompts(True)
    noisy = batch._replace(
        tokens=np.where(batch.valid, batch.tokens, 7).astype(np.int32),
        caption_tokens=np.where(batch.caption_mask | (np.arange(C) == 0), batch.caption_tokens, 9).astype(np.int32),
    )
    found = jax.tree.map(np.asarray, probe(MODEL, parameters(), noisy))
    for name, value in probed(True).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


# --- refusal layers ---------------------------------------------------------------------------------------------------

REFUSE = 4  # of tokens 0..4


def lens(*samples: list[list[float]]) -> np.ndarray:
    """Per sample a list of layers, each the probabilities of tokens 1..4; token 0 has the rest. [L+1, B, 5]."""
    rows = np.array([[[1 - sum(p), *p] for p in layers] for layers in samples])
    return np.log(rows.transpose(1, 0, 2))


FLAT = [0.1, 0.1, 0.1, 0.1]


def by_difference(top_k: int) -> Ranking:
    return Ranking("difference", top_k=top_k)


def released(lens_of_one: np.ndarray, refusal_ids: list[int], top_k: int) -> tuple[int, int] | None:
    """The loop of the released code (tox_analysis/read_analysis_llava.py), but for what has no end: there -1."""
    start = end = -1
    probabilities = np.exp(lens_of_one.astype(np.float64))
    for layer in range(2, len(probabilities)):
        change = probabilities[layer] - probabilities[layer - 1]
        top = np.argsort(-change, kind="stable")[:top_k]
        if start == -1 and any(token in top and change[token] > 0 for token in refusal_ids):
            start = layer
        if start != -1 and np.argmax(probabilities[layer]) in refusal_ids:
            end = layer
    return None if start == -1 else (start, start if end == -1 else end)


def test_by_differences_it_is_the_released_codes_loop():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        logits = rng.standard_normal((int(rng.integers(2, 9)), 1, 12)) * 2
        values, top_k = logits - np.log(np.exp(logits).sum(-1, keepdims=True)), int(rng.integers(1, 6))
        found.append(refusal_span(values[:, 0], [2, 9], by_difference(top_k)))
        assert found[-1] == released(values[:, 0], [2, 9], top_k)
    assert None in found
    assert len({end - start for start, end in filter(None, found)}) > 3


def test_the_papers_change_is_the_logarithm_of_the_ratio():
    """Token 1 gains 0.3 and doubles, the refusal token gains 0.08 and becomes five times as probable."""
    sample = lens([FLAT, [0.3, 0.1, 0.1, 0.02], [0.6, 0.1, 0.1, 0.1]])[:, 0]
    assert refusal_span(sample, [REFUSE], Ranking(top_k=1)) == (2, 2)
    assert refusal_span(sample, [REFUSE], by_difference(1)) is None
    changes = Ranking(floor=0.0).changes(sample)
    np.testing.assert_allclose(changes[1], np.log([0.1 / 0.48, 2, 1, 1, 5]), rtol=1e-12)


def test_below_the_floor_a_token_is_not_ranked():
    """Tokens 1 to 3 grow a thousandfold to 0.0002, the refusal token from 0.1 to 0.4."""
    rare = lens([FLAT, [2e-7, 2e-7, 2e-7, 0.1], [2e-4, 2e-4, 2e-4, 0.4]])[:, 0]
    assert refusal_span(rare, [REFUSE], Ranking(floor=0.0, top_k=3)) is None
    assert refusal_span(rare, [REFUSE], Ranking(floor=1e-3, top_k=1)) == (2, 2)
    # Nor is a refusal token that stays below it.
    assert refusal_span(rare, [1], Ranking(floor=1e-3)) is None
    assert refusal_span(rare, [1], Ranking(floor=1e-4)) == (2, 2)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (("ratio",), "change: 'ratio', expected one of log-ratio, difference"),
        (("log-ratio", 1.0), "floor: 1.0, expected a probability"),
        (("difference", 0.0), "floor: 0.0, expected none beside the change by difference"),
        (("log-ratio", 0.1, 0), "top_k: 0, expected at least 1"),
    ],
)
def test_a_bad_ranking_is_named(values, named):
    with pytest.raises(UserError, match=named):
        Ranking(*values)


def test_start_and_end_of_a_hand_made_refusal():
    # Layer 2 -> 3: the refusal token gains second most; 3 -> 4: most; 4 -> 5: it loses and is still the most probable.
    sample = [FLAT, FLAT, [0.2, 0.1, 0.1, 0.1], [0.4, 0.1, 0.1, 0.2], [0.2, 0.1, 0.1, 0.5], [0.3, 0.1, 0.1, 0.4]]
    found = refusal_layers(lens(sample), [REFUSE], by_difference(2))
    assert found == RefusalLayers(3, 5, 0, pytest.approx([0.1, 0.1, 0.1, 0.2, 0.5, 0.4]))
    assert refusal_layers(lens(sample), [REFUSE], by_difference(1)).start == 4


def test_the_end_is_the_last_layer_whose_most_probable_token_is_a_refusal_token():
    # Layers 2 and 3: another is more probable, or as probable; at the last layer too.
    sample = [FLAT, FLAT, [0.1, 0.1, 0.1, 0.3], [0.3, 0.1, 0.1, 0.3], [0.2, 0.1, 0.1, 0.5], [0.6, 0.1, 0.1, 0.1]]
    found = refusal_layers(lens(sample), [REFUSE], by_difference(1))
    assert (found.start, found.end) == (2, 4)


def test_layer_1_never_starts_a_refusal():
    # The only gain is from layer 0 to 1; afterwards it only falls.
    early = [FLAT, [0.1, 0.1, 0.1, 0.6], [0.2, 0.1, 0.1, 0.5], [0.3, 0.1, 0.1, 0.4]]
    assert refusal_layers(lens(early), [REFUSE], by_difference(1)) == RefusalLayers(
        None, None, 1, pytest.approx([0.1, 0.6, 0.5, 0.4])
    )
    late = [*early[:3], [0.1, 0.1, 0.1, 0.6]]
    assert refusal_layers(lens(late), [REFUSE], by_difference(1)).start == 3


def test_a_start_without_any_most_probable_refusal_ends_where_it_starts():
    sample = [FLAT, FLAT, [0.3, 0.1, 0.1, 0.2], [0.3, 0.2, 0.1, 0.1]]
    found = refusal_layers(lens(sample), [REFUSE], by_difference(2))
    assert (found.start, found.end, found.no_activation) == (2, 2, 0)


def test_samples_without_activation_are_counted_and_enter_no_median():
    never = [FLAT, FLAT, [0.2, 0.1, 0.1, 0.05], [0.3, 0.1, 0.1, 0.02], [0.4, 0.1, 0.1, 0.01]]
    at_2 = [FLAT, FLAT, [0.1, 0.1, 0.1, 0.6], [0.2, 0.1, 0.1, 0.5], [0.3, 0.1, 0.1, 0.4]]
    at_4 = [FLAT, FLAT, [0.2, 0.1, 0.1, 0.1], [0.3, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.6]]
    both = refusal_layers(lens(at_4, never, at_2, never, at_4), [REFUSE], by_difference(1))
    assert (both.start, both.end, both.no_activation) == (4, 4, 2)
    assert both.probability[-1] == pytest.approx((0.6 + 0.01 + 0.4 + 0.01 + 0.6) / 5)
    none = refusal_layers(lens(never, never), [REFUSE], by_difference(1))
    assert (none.start, none.end, none.no_activation) == (None, None, 2)


def test_any_of_several_refusal_tokens_counts():
    sample = [FLAT, FLAT, [0.1, 0.1, 0.4, 0.1], [0.1, 0.1, 0.1, 0.5]]
    found = refusal_layers(lens(sample), [3, REFUSE], by_difference(1))
    assert (found.start, found.end) == (2, 3)
    assert found.probability == pytest.approx([0.2, 0.2, 0.5, 0.6])


def test_a_sample_by_itself_and_tokens_that_do_not_gain():
    at_2 = [FLAT, FLAT, [0.1, 0.1, 0.1, 0.6], [0.2, 0.1, 0.1, 0.5], [0.1, 0.1, 0.1, 0.6]]
    assert refusal_span(lens(at_2)[:, 0], [REFUSE], by_difference(1)) == (2, 4)
    assert refusal_span(lens(at_2)[:, 0], [1], by_difference(1)) == (3, 3)
    # Nothing changes, and then only another token gains: the refusal token's place among the rest tells nothing.
    still = [FLAT, FLAT, FLAT, [0.3, 0.1, 0.1, 0.1]]
    assert refusal_span(lens(still)[:, 0], [REFUSE], by_difference(5)) is None


@pytest.mark.parametrize(("change", "floor"), [("difference", None), ("log-ratio", 0.0), ("log-ratio", 0.05)])
def test_layers_are_none_or_above_1_whatever_the_lens(change, floor):
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(1, 6))
        logits = rng.standard_normal((int(rng.integers(2, 7)), count, 12)) * 3
        values = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        found = refusal_layers(values, [2, 3], Ranking(change, floor, int(rng.integers(1, 6))))
        fields = dataclasses.asdict(found)
        assert 0 <= found.no_activation <= count
        if found.no_activation == count:
            assert fields["start"] is None
            assert fields["end"] is None
        else:
            assert 2 <= found.start <= found.end < len(values)
        assert len(found.probability) == len(values)


# --- cosines ----------------------------------------------------------------------------------------------------------


def test_cosine_curves_of_hand_made_states():
    # One layer, three samples, two dimensions.
    image = np.array([[[1.0, 0], [0, 2], [1, 1]]])
    caption = np.array([[[3.0, 0], [0, 1], [1, 0]]])
    found = cosine_curves(image, caption, shift=1)
    half = 2**-0.5
    assert found["raw"]["matched"] == pytest.approx([(1 + 1 + half) / 3])
    # Sample 0 with caption 1, 1 with 2, 2 with 0.
    assert found["raw"]["mismatched"] == pytest.approx([(0 + 0 + half) / 3])
    # Centred: image - (2/3, 1), caption - (4/3, 1/3).
    i = image[0] - [2 / 3, 1]
    c = caption[0] - [4 / 3, 1 / 3]

    def cos(a, b):
        return (a @ b) / np.sqrt((a @ a) * (b @ b))

    assert found["centred"]["matched"] == pytest.approx([np.mean([cos(i[0], c[0]), cos(i[1], c[1]), cos(i[2], c[2])])])
    assert found["centred"]["mismatched"] == pytest.approx(
        [np.mean([cos(i[0], c[1]), cos(i[1], c[2]), cos(i[2], c[0])])]
    )


def test_cosine_curves_by_layer_and_what_centring_takes_off():
    rng = np.random.default_rng(3)
    different = rng.standard_normal((3, 6, 8))
    common = 100 * rng.standard_normal((3, 1, 8))
    found = cosine_curves(different + common, 2 * different + common, shift=3)
    # A common part makes any two states alike; without it, matched pairs agree and others do not.
    assert min(found["raw"]["matched"] + found["raw"]["mismatched"]) > 0.99
    assert found["centred"]["matched"] == pytest.approx([1, 1, 1])
    assert max(found["centred"]["mismatched"]) < 0.6
    assert all(len(curve) == 3 for curves in found.values() for curve in curves.values())
    nothing = cosine_curves(np.zeros((1, 2, 4)), np.ones((1, 2, 4)), shift=1)
    assert nothing["raw"]["matched"] == [0.0]
