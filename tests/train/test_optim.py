"""Which parameters move, how fast, and when."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tga_jax.errors import UserError
from tga_jax.train import optim
from tga_jax.train.optim import OptimConfig

PARAMS = {
    "llm": {"blocks": {"norm": {"scale": jnp.ones((2, 3))}, "up": {"kernel": jnp.full((2, 3, 4), 2.0)}}},
    "projector": {"linear_1": {"kernel": jnp.ones((3, 3)), "bias": jnp.zeros(3)}},
}
PATHS = [
    "llm/blocks/norm/scale",
    "llm/blocks/up/kernel",
    "projector/linear_1/kernel",
    "projector/linear_1/bias",
]


def test_the_first_pattern_that_matches_the_whole_path_decides():
    config = OptimConfig(1.0, ((r".*/bias", 0.5), (r"projector/.*", 2.0), (r"llm/.*", 0.0)))
    assert optim.multipliers(config, PATHS) == dict(zip(PATHS, [0.0, 0.0, 2.0, 0.5], strict=True))


def test_a_parameter_without_a_pattern_is_named():
    with pytest.raises(UserError, match=r"optim.schedule: no pattern covers parameter 'llm/blocks/norm/scale'"):
        optim.multipliers(OptimConfig(1.0, ((r"projector/.*", 1.0),)), PATHS)


@hypothesis.given(st.dictionaries(st.sampled_from(PATHS), st.sampled_from([0.0, 0.5, 1.0])))
def test_partition_and_combine_are_inverse(rules):
    hypothesis.assume(len(rules) < len(PATHS) or any(rules.values()))
    config = OptimConfig(1.0, (*rules.items(), (".*", 1.0)))
    trainable, frozen = optim.partition(config, PARAMS)
    assert set(trainable) | set(frozen) == set(PATHS)
    assert set(frozen) == {path for path, m in rules.items() if m == 0}
    again = optim.combine(trainable, frozen)
    assert again == PARAMS or all(again[k].keys() == PARAMS[k].keys() for k in PARAMS)
    for path in PATHS:
        one, two = again, PARAMS
        for key in path.split("/"):
            one, two = one[key], two[key]
        assert one is two


def test_warmup_and_cosine_literal():
    """100 steps, 10 of warm-up: a straight line up, then half a cosine down to 0."""
    rate = optim.learning_rate(OptimConfig(2.0, (), warmup=0.1), 100)
    found = [float(rate(s)) for s in (0, 5, 10, 55, 100, 150)]
    np.testing.assert_allclose(found, [0.0, 1.0, 2.0, 1.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(float(rate(40)), 2 * 0.5 * (1 + np.cos(np.pi / 3)), rtol=1e-6)


def test_warmup_and_constant_literal():
    rate = optim.learning_rate(OptimConfig(2.0, (), warmup=0.1, decay="constant"), 100)
    np.testing.assert_allclose([float(rate(s)) for s in (0, 5, 10, 99)], [0.0, 1.0, 2.0, 2.0], atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_trainings_have_a_schedule(steps):
    rate = optim.learning_rate(OptimConfig(1.0, ()), steps)
    assert all(np.isfinite(float(rate(s))) for s in range(steps + 1))
    assert float(rate(1)) == 1.0


def test_an_unknown_decay_is_refused():
    with pytest.raises(UserError, match=r"optim.decay: 'never', expected 'cosine' or 'constant'"):
        optim.learning_rate(OptimConfig(1.0, (), decay="never"), 10)


def moved(config: OptimConfig, grads=None, steps: int = 2) -> dict[str, np.ndarray]:
    """How far every trainable parameter is after `steps` steps of a constant gradient of ones."""
    trainable, _ = optim.partition(config, PARAMS)
    tx = optim.make_optimizer(config, 100, trainable)
    state, now = tx.init(trainable), trainable
    for _ in range(steps):
        updates, state = tx.update(grads or {p: jnp.ones_like(x) for p, x in now.items()}, state, now)
        now = optax.apply_updates(now, updates)
    return {p: np.asarray(now[p] - trainable[p]) for p in now}


def test_the_multiplier_scales_the_step():
    base = OptimConfig(1e-3, ((".*", 1.0),), warmup=0.0)
    one = moved(base)
    scaled = moved(dataclasses.replace(base, schedule=((r"llm/.*", 0.25), (r".*/bias", 3.0), (".*", 1.0))))
    for path, factor in zip(PATHS, [0.25, 0.25, 1.0, 3.0], strict=True):
        # Adam on a constant gradient moves by the rate, which is 0 in the first of the two steps.
        np.testing.assert_allclose(one[path], -1e-3, rtol=1e-3)
        np.testing.assert_allclose(scaled[path], factor * one[path], rtol=2e-3)


def test_weight_decay_acts_on_matrices_only():
    """Not on biases, and not on norms either, whose scales of all blocks are stacked into one array."""
    base = OptimConfig(1e-3, ((".*", 1.0),), warmup=0.0)
    plain, decayed = moved(base), moved(dataclasses.replace(base, weight_decay=0.5))
    difference = {path: decayed[path] - plain[path] for path in PATHS}
    np.testing.assert_allclose(difference["llm/blocks/up/kernel"], -1e-3 * 0.5 * 2.0, rtol=1e-2)
    np.testing.assert_allclose(difference["projector/linear_1/kernel"], -1e-3 * 0.5 * 1.0, rtol=1e-2)
    assert not np.any(difference["projector/linear_1/bias"])
    assert not np.any(difference["llm/blocks/norm/scale"])


def test_the_gradient_is_clipped_by_its_global_norm():
    """Adam forgets a constant factor, so a huge first gradient shows only by what follows it."""
    config = OptimConfig(1e-3, ((".*", 1.0),), warmup=0.0, clip_norm=1.0)
    trainable, _ = optim.partition(config, PARAMS)
    tx = optim.make_optimizer(config, 100, trainable)
    _, state = tx.update({p: 1e6 * jnp.ones_like(x) for p, x in trainable.items()}, tx.init(trainable), trainable)
    size = float(optax.global_norm(state[1].mu)) / (1 - config.b1)
    np.testing.assert_allclose(size, 1.0, rtol=1e-5)


def test_muon_turns_a_kernels_momentum_into_an_orthogonal_matrix_and_leaves_the_rest_to_adam():
    rng = np.random.default_rng(0)
    shapes = {
        "llm/blocks/query/kernel": (2, 6, 3, 4),  # layers, input, heads, head size
        "llm/blocks/out/kernel": (2, 3, 4, 6),
        "clip/vision/patches/kernel": (2, 2, 3, 5),  # a convolution: all but the last are inputs
        "projector/up/kernel": (6, 9),
        "projector/up/bias": (9,),
        "projector/queries": (4, 6),
    }
    params = {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in shapes.items()}
    grads = {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in shapes.items()}
    config = OptimConfig(1.0, ((r".*up/.*", 0.5), (r".*", 1.0)), warmup=0.0, decay="constant", clip_norm=1e9)

    def second_update(optimizer: optax.GradientTransformation) -> dict:
        _, state = optimizer.update(grads, optimizer.init(params), params)  # the warm-up's first rate is 0
        return optimizer.update(grads, state, params)[0]

    muon = second_update(optim.make_optimizer(dataclasses.replace(config, kind="muon"), 10, params))
    adam = second_update(optax.scale_by_adam(b1=0.9, b2=0.98, nesterov=True))
    for path, shape in shapes.items():
        if not path.endswith("/kernel"):
            np.testing.assert_allclose(muon[path], -(0.5 if "up/" in path else 1.0) * adam[path], rtol=1e-4)
            continue
        stacked, inputs = "blocks" in path, 1 if "query" in path else len(shape) - 1 - ("blocks" in path)
        first = int(stacked)
        fan_in, fan_out = np.prod(shape[first : first + inputs]), np.prod(shape[first + inputs :])
        scale = (0.5 if "up/" in path else 1.0) * 0.2 * np.sqrt(max(fan_in, fan_out))
        for update, grad in zip(
            np.reshape(muon[path], (-1, fan_in, fan_out)), np.reshape(grads[path], (-1, fan_in, fan_out)), strict=True
        ):
            u, _, v = np.linalg.svd(grad, full_matrices=False)
            values = np.linalg.svd(update / scale, compute_uv=False)
            assert values.min() > 0.6  # five Newton-Schulz steps come near 1
            assert values.max() < 1.3
            np.testing.assert_allclose(-np.sum(update / scale * (u @ v)), values.sum(), rtol=1e-3)


@pytest.mark.parametrize("preconditioning", ["frobenius", "aol"])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_muons_iterations_are_those_of_its_definition(steps, preconditioning):
    """X <- 3.4445 X - 4.775 X X' X + 2.0315 (X X')^2 X (Jordan, 2024), in float64; first X is scaled, by its norm, or
    row i by sum_j |(X X')_ij|^-1/2 (AOL; Prach and Lampert, 2022)."""
    grad = np.random.default_rng(1).normal(size=(6, 9))
    fields = {"kind": "muon", "newton_schulz": steps, "preconditioning": preconditioning}
    config = OptimConfig(1.0, ((".*", 1.0),), warmup=0.0, decay="constant", clip_norm=1e9, **fields)
    params, grads = {"projector/up/kernel": jnp.zeros((6, 9))}, {"projector/up/kernel": jnp.asarray(grad, jnp.float32)}
    optimizer = optim.make_optimizer(config, 10, params)
    _, state = optimizer.update(grads, optimizer.init(params), params)  # the warm-up's first rate is 0
    update, _ = optimizer.update(grads, state, params)
    rows = np.sqrt(np.abs(grad @ grad.T).sum(1, keepdims=True))
    x = grad / (rows if preconditioning == "aol" else np.linalg.norm(grad))
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x - 4.775 * square @ x + 2.0315 * square @ square @ x
    np.testing.assert_allclose(update["projector/up/kernel"], -0.2 * np.sqrt(9) * x, atol=1e-5)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match=r"optim.kind: 'sgd', expected one of adam, muon"):
        OptimConfig(1.0, (), kind="sgd")


# --- bfloat16 ---------------------------------------------------------------------------------------------------------


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.floats(1.0, 2.0, width=32), st.integers(-120, 120), st.sampled_from([1, -1]), st.integers(0, 100))
def test_rounding_at_random_gives_a_neighbour(x, power, sign, seed):
    x = sign * x * 2.0**power
    found = optim._rounded(jnp.full(16, x, jnp.float32), "bfloat16", jax.random.key(seed))
    assert found.dtype == jnp.bfloat16
    down = (np.float32(x).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    up = ((np.float32(x).view(np.uint32) | np.uint32(0xFFFF)) + np.uint32(1)).view(np.float32)
    assert set(np.asarray(found, np.float32).tolist()) <= ({float(x)} if down == np.float32(x) else {down, up})


def test_rounding_at_random_keeps_the_mean_and_what_is_no_number():
    x = jnp.full(200_000, 1 + 2**-9 / 5, jnp.float32)  # a tenth of the way to the next of bfloat16's numbers
    found = np.asarray(optim._rounded(x, "bfloat16", jax.random.key(0)), np.float64)
    assert abs(found.mean() - float(x[0])) < 5 * 2**-7 * 0.3 / np.sqrt(len(found))
    odd = jnp.array([np.nan, np.inf, -np.inf, 0.0, -0.0], jnp.float32)
    kept = np.asarray(optim._rounded(odd, "bfloat16", jax.random.key(1)), np.float32)
    np.testing.assert_array_equal(kept, np.asarray(odd))


def test_small_steps_add_up_in_bfloat16():
    """Each step is a hundredth of what bfloat16 resolves at 1; rounded to the nearest they would all be lost."""
    config = OptimConfig(1e-4, ((".*", 1.0),), warmup=0.0, decay="constant", param_dtype="bfloat16", b2=0.999)
    config = dataclasses.replace(config, moment_dtype="bfloat16")
    params = {"llm/x/kernel": jnp.ones((64, 64), jnp.bfloat16)}
    state = optim.make_optimizer(config, 1000, params).init(params)
    assert {x.dtype.name for x in jax.tree.leaves(state) if x.ndim} == {"bfloat16"}
    grads = {"llm/x/kernel": jnp.ones((64, 64))}
    run = jax.jit(lambda p, s, i: optim.update(config, 1000, grads, s, p, jax.random.key(i)))
    for i in range(300):
        params, state = run(params, state, i)
    assert params["llm/x/kernel"].dtype == jnp.bfloat16
    # Adam's step for a constant gradient is the learning rate; the first has none, by the warm-up.
    np.testing.assert_allclose(np.asarray(params["llm/x/kernel"], np.float64).mean(), 1 - 299e-4, atol=1e-3)


def test_unfit_types_and_counts_are_named():
    for fields, named in (
        ({"param_dtype": "float16"}, "optim.param_dtype: 'float16', expected one of float32, bfloat16"),
        ({"moment_dtype": "int8"}, "optim.moment_dtype: 'int8'"),
        ({"accumulate": 0}, "optim.accumulate: 0, expected at least 1"),
        ({"kind": "adam", "newton_schulz": 4}, "optim.newton_schulz: 4 beside adam, expected None"),
        ({"kind": "adam", "preconditioning": "aol"}, "optim.preconditioning: 'aol' beside adam"),
        ({"preconditioning": "none"}, "optim.preconditioning: 'none', expected one of frobenius, aol"),
        ({"newton_schulz": 0}, "optim.newton_schulz: 0, expected at least 1"),
    ):
        with pytest.raises(ValueError, match=named):
            OptimConfig(1.0, ((".*", 1.0),), **{"kind": "muon", **fields})


def test_patterns_that_do_nothing_are_named():
    with pytest.raises(UserError, match=r"optim.schedule: no parameter matches 'projektor/\.\*'"):
        optim.multipliers(OptimConfig(1.0, ((r"projektor/.*", 1.0), (".*", 0.0))), PATHS)
    with pytest.raises(UserError, match="freezes every parameter"):
        optim.partition(OptimConfig(1.0, ((".*", 0.0),)), PARAMS)
