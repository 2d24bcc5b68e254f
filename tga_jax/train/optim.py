"""The optimizer: which parameters move, how fast, and when."""

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from optax import contrib

from tga_jax.errors import UserError, check_range

KINDS = ("adam", "muon")
PRECONDITIONINGS = ("frobenius", "aol")
DTYPES = ("float32", "bfloat16")
Flat = dict[str, Any]  # parameter path, such as "llm/blocks/query/kernel" -> array


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW, or Muon, with warm-up and decay.

    kind: "adam", or "muon" (Jordan, 2024), which moves every kernel by its orthogonalised momentum, scaled so that
    rates and decay of Adam fit (Liu et al., 2025), and all else by Nesterov's Adam. Small models that are trained from
    scratch then need fewer steps.

    `schedule` is a list of (pattern, multiplier): the first pattern that matches the whole of a parameter's path
    gives the multiplier of its learning rate; 0 freezes it. A parameter that none matches is an error, and a pattern
    that matches none.
    """

    learning_rate: float
    schedule: tuple[tuple[str, float], ...]
    warmup: float = 0.03  # share of the steps
    decay: str = "cosine"  # or "constant"
    weight_decay: float = 0.0  # on matrices only
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.98
    kind: str = "adam"
    # Muon's iterations towards the orthogonal matrix: fewer are faster and less exact. "aol" scales each row by what
    # bounds it, where "frobenius" scales the whole by its norm, and so needs about one less.
    newton_schulz: int | None = None  # of Muon alone; None: 5
    preconditioning: str | None = None  # of Muon alone; None: "frobenius"
    # How the trainable parameters and the optimizer's moments are kept between steps. What bfloat16 cannot hold of a
    # step is rounded up or down at random, so that small steps add up.
    param_dtype: str = "float32"  # or "bfloat16"
    moment_dtype: str = "float32"  # or "bfloat16"
    accumulate: int = 1  # parts of a batch that are computed one after another; their gradients are added up

    def __post_init__(self):
        for pattern, multiplier in self.schedule:
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"optim.schedule: {pattern!r} is no regular expression ({error})") from error
            if not 0 <= multiplier < float("inf"):
                raise ValueError(f"optim.schedule: {multiplier} for {pattern!r}, expected at least 0")
        if self.kind not in KINDS:
            raise ValueError(f"optim.kind: {self.kind!r}, expected one of {', '.join(KINDS)}")
        for name in ("newton_schulz", "preconditioning"):
            if self.kind != "muon" and getattr(self, name) is not None:
                raise ValueError(
                    f"optim.{name}: {getattr(self, name)!r} beside {self.kind}, expected None: it is Muon's"
                )
        if self.preconditioning not in (None, *PRECONDITIONINGS):
            known = ", ".join(PRECONDITIONINGS)
            raise ValueError(f"optim.preconditioning: {self.preconditioning!r}, expected one of {known}")
        for name in ("param_dtype", "moment_dtype"):
            if getattr(self, name) not in DTYPES:
                raise ValueError(f"optim.{name}: {getattr(self, name)!r}, expected one of {', '.join(DTYPES)}")
        check_range(self, "optim", "learning_rate", "weight_decay")
        check_range(self, "optim", "warmup", "b1", "b2", most=1)
        check_range(self, "optim", "clip_norm", above=0)
        check_range(self, "optim", "newton_schulz", "accumulate", least=1)


def _multiplier(config: OptimConfig, path: str) -> float:
    for pattern, multiplier in config.schedule:
        if re.fullmatch(pattern, path):
            return multiplier
    raise UserError(f"optim.schedule: no pattern covers parameter {path!r}")


def multipliers(config: OptimConfig, paths: list[str]) -> dict[str, float]:
    """The learning-rate multiplier of every path. Raises UserError naming a path that no pattern covers, or a pattern
    that no path matches."""
    for pattern, _ in config.schedule:
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise UserError(f"optim.schedule: no parameter matches {pattern!r}")
    return {path: _multiplier(config, path) for path in paths}


def partition(config: OptimConfig, params: dict) -> tuple[Flat, Flat]:
    """(trainable, frozen) parameters by path: only the first are differentiated and have moments."""
    flat: Flat = flatten_dict(params, sep="/")
    rules = multipliers(config, list(flat))
    if not any(rules.values()):
        raise UserError("optim.schedule: freezes every parameter, expected some to train")
    return {p: v for p, v in flat.items() if rules[p]}, {p: v for p, v in flat.items() if not rules[p]}


def combine(trainable: Flat, frozen: Flat) -> dict:
    """The nested parameters that `partition` took apart."""
    return unflatten_dict({**frozen, **trainable}, sep="/")


def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    warmup = max(1, round(config.warmup * steps))
    if config.decay == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, warmup + 1))
    if config.decay == "constant":
        return optax.linear_schedule(0.0, config.learning_rate, warmup)
    raise UserError(f"optim.decay: {config.decay!r}, expected 'cosine' or 'constant'")


def _scale_by_path(rules: dict[str, float]) -> optax.GradientTransformation:
    def scale(updates: Any, _: Any) -> Flat:
        return {path: u * rules[path] for path, u in updates.items()}

    return optax.stateless(scale)


def _matrices(tree: Flat) -> dict[str, bool]:
    """Not scales and biases, whose arrays have a second axis where the blocks of a tower are stacked."""
    return {path: x.ndim > 1 and not path.endswith(("/scale", "/bias")) for path, x in tree.items()}


def _input_and_output(path: str, x: Any) -> contrib.MuonDimensionNumbers | None:
    """A kernel's axes; of its other axes, such as the layers of a stack, each slice is a matrix of its own."""
    if not path.endswith("/kernel"):
        return None
    axes = tuple(range("/blocks/" in path, x.ndim))
    split = 1 if re.search(r"/(query|key|value)[^/]*(/(down|up))?/kernel$", path) else -1
    return contrib.MuonDimensionNumbers(axes[:split], axes[split:])


def _kernels(tree: Any) -> Any:  # optax's type for it leaves out None, which its text has
    return {path: _input_and_output(path, x) for path, x in tree.items()}


def _scale_by(config: OptimConfig) -> optax.GradientTransformation:
    if config.kind == "adam":
        return optax.scale_by_adam(b1=config.b1, b2=config.b2, mu_dtype=jnp.float32)
    return contrib.muon(
        learning_rate=-1.0,  # the rate, and the sign of descent, come later
        ns_steps=5 if config.newton_schulz is None else config.newton_schulz,
        preconditioning=config.preconditioning or "frobenius",  # pyrefly: ignore
        mu_dtype=jnp.float32,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=_kernels,
        consistent_rms=0.2,  # about what Adam's updates have
    )


def _rounded(x: Any, dtype: str, key: jax.Array) -> Any:
    """float32 x in `dtype`; in bfloat16 up with the probability of what is cut off, so that the mean is x."""
    if dtype == "float32" or x.dtype != jnp.float32:
        return x
    noise = jax.random.bits(key, x.shape, jnp.uint32) >> 16
    bits = (jax.lax.bitcast_convert_type(x, jnp.uint32) + noise) & jnp.uint32(0xFFFF0000)
    return jnp.where(jnp.isfinite(x), jax.lax.bitcast_convert_type(bits, jnp.float32), x).astype(jnp.bfloat16)


def _all_rounded(tree: Any, dtype: str, key: jax.Array) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([_rounded(x, dtype, jax.random.fold_in(key, i)) for i, x in enumerate(leaves)])


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)


class _Kept(NamedTuple):
    step: Any  # int32 scalar
    inner: Any


def _kept_in(dtype: str, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same transformation, whose state is kept in `dtype` between steps."""
    if dtype == "float32":
        return tx

    def init(params: Any) -> _Kept:
        inner = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, tx.init(params))
        return _Kept(jnp.zeros((), jnp.int32), inner)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, _Kept]:
        updates, inner = tx.update(updates, _float32(state.inner), params)
        key = jax.random.fold_in(jax.random.key(0), state.step)
        return updates, _Kept(state.step + 1, _all_rounded(inner, dtype, key))

    return optax.GradientTransformation(init, update)  # pyrefly: ignore


def make_optimizer(config: OptimConfig, steps: int, trainable: Flat) -> optax.GradientTransformation:
    """The configured optimizer over the flat tree of trainable parameters."""
    rules = {path: _multiplier(config, path) for path in trainable}
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        _kept_in(config.moment_dtype, _scale_by(config)),
        optax.add_decayed_weights(config.weight_decay, mask=_matrices),
        _scale_by_path(rules),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )


def update(
    config: OptimConfig, steps: int, grads: Flat, state: Any, trainable: Flat, key: jax.Array
) -> tuple[Flat, Any]:
    """(parameters after the step, state of the optimizer). grads: float32; key: of the rounding to `param_dtype`."""
    precise = _float32(trainable)
    updates, state = make_optimizer(config, steps, trainable).update(grads, state, precise)  # pyrefly: ignore
    return _all_rounded(optax.apply_updates(precise, updates), config.param_dtype, key), state  # pyrefly: ignore
