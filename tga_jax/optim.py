"""The optimizer: which parameters move, how fast, and when."""

import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from optax import contrib

from tga_jax.errors import UserError

KINDS = ("adam", "muon")
Flat = dict[str, Any]  # parameter path, such as "llm/blocks/query/kernel" -> array


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW, or Muon, with warm-up and decay.

    kind: "adam", or "muon" (Jordan, 2024), which moves every kernel by its orthogonalised momentum, scaled so that
    rates and decay of Adam fit (Liu et al., 2025), and all else by Nesterov's Adam. Small models that are trained from
    scratch then need fewer steps.

    `schedule` is a list of (pattern, multiplier): the first pattern that matches the whole of a parameter's path
    gives the multiplier of its learning rate; 0 freezes it. A parameter that none matches is an error.
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

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"optim.kind: {self.kind!r}, expected one of {', '.join(KINDS)}")


def multipliers(config: OptimConfig, paths: list[str]) -> dict[str, float]:
    """The learning-rate multiplier of every path. Raises UserError naming a path that no pattern covers."""
    found = {}
    for path in paths:
        rule = next((m for pattern, m in config.schedule if re.fullmatch(pattern, path)), None)
        if rule is None:
            raise UserError(f"optim.schedule: no pattern covers parameter {path!r}")
        found[path] = rule
    return found


def partition(config: OptimConfig, params: dict) -> tuple[Flat, Flat]:
    """(trainable, frozen) parameters by path: only the first are differentiated and have moments."""
    flat: Flat = flatten_dict(params, sep="/")
    rules = multipliers(config, list(flat))
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
    split = 1 if path.split("/")[-2].startswith(("query", "key", "value")) else -1
    return contrib.MuonDimensionNumbers(axes[:split], axes[split:])


def _kernels(tree: Any) -> Any:  # optax's type for it leaves out None, which its text has
    return {path: _input_and_output(path, x) for path, x in tree.items()}


def _scale_by(config: OptimConfig) -> optax.GradientTransformation:
    if config.kind == "adam":
        return optax.scale_by_adam(b1=config.b1, b2=config.b2, mu_dtype=jnp.float32)
    return contrib.muon(
        learning_rate=-1.0,  # the rate, and the sign of descent, come later
        mu_dtype=jnp.float32,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=_kernels,
        consistent_rms=0.2,  # about what Adam's updates have
    )


def make_optimizer(config: OptimConfig, steps: int, trainable: Flat) -> optax.GradientTransformation:
    """The configured optimizer over the flat tree of trainable parameters."""
    rules = multipliers(config, list(trainable))
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        _scale_by(config),
        optax.add_decayed_weights(config.weight_decay, mask=_matrices),
        _scale_by_path(rules),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )
