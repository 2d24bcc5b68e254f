"""The implementations of attention against float64, and against each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tga_jax.models import attention


def arrays(seed: int, b: int, t: int, heads: int, group: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    q, k, v = ((b, t, heads, group, size), (b, t, heads, size), (b, t, heads, size))
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in (q, k, v))


def reference(q, k, v, lengths, window, how=attention.PLAIN) -> np.ndarray:
    """float64, a query at a time; queries on padding are left at zero."""
    scale = q.shape[-1] ** -0.5 if how.scale is None else how.scale
    out = np.zeros(q.shape)
    for b, t, head, group in np.ndindex(q.shape[:4]):
        if lengths is not None and t >= lengths[b]:
            continue
        last = q.shape[1] if lengths is None else t + 1
        first = 0 if window is None else max(0, t + 1 - window)
        scores = k[b, first:last, head].astype(np.float64) @ q[b, t, head, group] * scale
        scores = scores if how.cap is None else how.cap * np.tanh(scores / how.cap)
        p = np.exp(scores - scores.max())
        out[b, t, head, group] = (p / p.sum()) @ v[b, first:last, head]
    return out


CASES = [
    (2, 128, 2, 2, 32, (128, 77), None),
    (2, 256, 1, 3, 16, (200, 1), None),
    (1, 384, 2, 1, 64, (301,), 100),
    (2, 128, 1, 2, 32, None, None),
    (2, 37, 2, 2, 16, (20, 37), 9),  # not a multiple of 128: "splash" leaves it to "blocks"
    (2, 50, 1, 1, 16, None, None),
]
CAPPED = attention.Scores(scale=0.4, cap=1.5)  # which bends most of these scores


@pytest.mark.parametrize("implementation", ["splash", "blocks"])
@pytest.mark.parametrize(("b", "t", "heads", "group", "size", "lengths", "window"), CASES)
def test_against_float64(b, t, heads, group, size, lengths, window, implementation):
    q, k, v = arrays(0, b, t, heads, group, size)
    given = None if lengths is None else jnp.array(lengths)
    attend = {"splash": partial(attention._splash, interpret=True), "blocks": attention._blocks}[implementation]
    found = attend(*(jnp.array(x) for x in (q, k, v)), given, window)
    valid = np.ones((b, t), bool) if lengths is None else np.arange(t) < np.array(lengths)[:, None]
    np.testing.assert_allclose(np.asarray(found)[valid], reference(q, k, v, lengths, window)[valid], atol=2e-5)


@pytest.mark.parametrize(("implementation", "t"), [("splash", 128), ("blocks", 203), ("xla", 37)])
def test_scaled_and_capped_scores_and_their_gradient(implementation, t):
    q, k, v = arrays(4, 2, t, 2, 2, 16)
    lengths, positions = jnp.array([t, t - 20]), jnp.broadcast_to(jnp.arange(t), (2, t))
    valid = np.arange(t) < np.array(lengths)[:, None]
    mask = attention.causal_mask(positions, positions, valid, 30)
    attend = {
        "splash": lambda *x: attention._splash(*x, lengths, 30, CAPPED, interpret=True),
        "blocks": lambda *x: attention.attend(*x, lengths, "blocks", 30, CAPPED),
        "xla": lambda *x: attention.attend(*x, mask, scores=CAPPED),
    }
    given = [jnp.array(x) for x in (q, k, v)]
    wanted = reference(q, k, v, lengths, 30, CAPPED)
    found = attend[implementation](*given)
    np.testing.assert_allclose(np.asarray(found)[valid], wanted[valid], atol=2e-5)
    plain = reference(q, k, v, lengths, 30, attention.Scores(scale=0.4))
    assert np.abs(wanted - plain)[valid].max() > 0.1
    if implementation == "xla":
        return

    def gradients(name: str):
        return jax.grad(lambda *x: jnp.sum(jnp.sin(attend[name](*x)) * valid[:, :, None, None, None]), (0, 1, 2))(
            *given
        )

    for one, other in zip(gradients(implementation), gradients("xla"), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize(("implementation", "t"), [("splash", 128), ("blocks", 128), ("blocks", 203), ("blocks", 400)])
def test_the_gradient_of_xla(implementation, t, window):
    b, lengths = 2, jnp.array([t, 90])
    q, k, v = (jnp.array(x) for x in arrays(1, b, t, 2, 2, 16))
    attend = {"splash": partial(attention._splash, interpret=True), "blocks": attention._blocks}[implementation]
    valid = jnp.arange(t) < lengths[:, None]
    positions = jnp.broadcast_to(jnp.arange(t), (b, t))
    mask = attention.causal_mask(positions, positions, valid, window)

    def of(attend):
        return lambda q, k, v: jnp.sum(jnp.sin(attend(q, k, v)) * valid[:, :, None, None, None])

    ours = jax.jit(jax.grad(of(lambda *x: attend(*x, lengths, window)), (0, 1, 2)))(q, k, v)
    theirs = jax.jit(jax.grad(of(lambda *x: attention.attend(*x, mask)), (0, 1, 2)))(q, k, v)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_an_unknown_one_is_named_and_what_is_not_there_says_why():
    q, k, v = arrays(2, 1, 4, 1, 1, 8)
    with pytest.raises(ValueError, match="attention: 'flash', expected one of xla, blocks, cudnn, splash"):
        attention.attend(q, k, v, None, "flash")
    with pytest.raises(
        ValueError, match="attention: 'cudnn' has no soft cap of scores, expected one of xla, blocks, s"
    ):
        attention.attend(q, k, v, None, "cudnn", scores=CAPPED)
    if jax.default_backend() == "cpu":
        assert attention.works("cudnn")


def test_blocks_of_half_precision_are_as_near_as_their_inputs_allow():
    q, k, v = arrays(3, 2, 210, 2, 2, 32)
    half = [jnp.array(x, jnp.bfloat16) for x in (q, k, v)]
    found = attention.attend(*half, jnp.array([210, 210]), "blocks")
    assert found.dtype == jnp.bfloat16
    wanted = reference(*(np.asarray(x, np.float32) for x in half), (210, 210), None)
    np.testing.assert_allclose(np.asarray(found, np.float32), wanted, atol=2e-2)


@pytest.mark.parametrize(("window", "how"), [(None, attention.PLAIN), (20, CAPPED)])
def test_three_small_blocks_and_their_gradient(monkeypatch, window, how):
    """37 queries as 16, 16 and 5; the window reaches over two blocks."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 16)
    t, lengths = 37, jnp.array([37, 20])
    given = [jnp.array(x) for x in arrays(5, 2, t, 2, 2, 8)]
    valid = jnp.arange(t) < lengths[:, None]
    positions = jnp.broadcast_to(jnp.arange(t), (2, t))
    mask = attention.causal_mask(positions, positions, valid, window)
    wanted = reference(*map(np.asarray, given), np.array(lengths), window, how)

    def of(visible, name: str):
        def loss(q, k, v):
            found = attention.attend(q, k, v, visible, name, window, how)
            return jnp.sum(jnp.sin(found) * valid[:, :, None, None, None]), found

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*given)

    ((_, found), ours), (_, theirs) = of(lengths, "blocks"), of(mask, "xla")
    np.testing.assert_allclose(np.asarray(found)[valid], wanted[valid], atol=2e-5)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_splash_within_a_window():
    q, k, v = arrays(6, 1, 128, 1, 2, 16)
    given = [jnp.array(x) for x in (q, k, v)]
    found = attention._splash(*given, jnp.array([100]), 30, attention.Scores(cap=0.5), interpret=True)
    wanted = reference(q, k, v, (100,), 30, attention.Scores(cap=0.5))
    np.testing.assert_allclose(np.asarray(found)[:, :100], wanted[:, :100], atol=2e-5)


def test_causal_masks_by_hand():
    """As the docstring has them; then keys in slots of another order, the last one of padding."""
    rows = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    positions, valid = jnp.arange(4)[None], jnp.array([[True, True, True, False]])
    np.testing.assert_array_equal(attention.causal_mask(positions, positions, valid)[0, :3], rows)
    rows[2] = [0, 1, 1, 0]
    np.testing.assert_array_equal(attention.causal_mask(positions, positions, valid, 2)[0, :3], rows)
    keys, queries = jnp.array([[2, 0, 1]]), jnp.array([[1, 3]])
    mixed = attention.causal_mask(queries, keys, jnp.array([[True, True, False]]))
    np.testing.assert_array_equal(mixed[0], [[0, 1, 0], [1, 1, 0]])


def test_a_query_that_sees_no_key_is_finite():
    q, k, v = (jnp.array(x) for x in arrays(7, 1, 3, 1, 1, 4))
    found = attention.attend(q, k, v, jnp.zeros((1, 3, 3), bool))
    np.testing.assert_allclose(found, jnp.broadcast_to(v.mean(1)[:, None, :, None], q.shape), rtol=1e-5)


def test_blocks_of_splash_are_the_largest_that_fit():
    found = [attention._splash_block(length) for length in (128, 256, 384, 512, 1024, 1280)]
    assert found == [128, 256, 128, 512, 512, 256]
