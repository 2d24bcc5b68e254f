"""Rotary positions in the hub's configs: transformers gathers `rope_theta`, `rope_scaling`, `partial_rotary_factor` and
their older spellings in `rope_parameters`."""

import math
from typing import Any

from tga_jax.checkpoints import limits
from tga_jax.checkpoints.families import Family
from tga_jax.errors import UserError
from tga_jax.models.layers import RopeScaling
from tga_jax.models.llama import LlamaConfig

# Types of rotary scaling: the hub's fields that must be there, and ours; positive numbers, or lists of them.
_ROPE = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position_embeddings": "original_length",
    },
    "longrope": {
        "original_max_position_embeddings": "original_length",
        "short_factor": "short_factor",
        "long_factor": "long_factor",
    },
}
_WHOLE = ("original_max_position_embeddings",)
_LISTS = ("short_factor", "long_factor")
_OPTIONAL = ("factor", "attention_factor")  # of "longrope"


def _positive(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UserError(f"{where}: {name} is {value!r}, expected a positive number")
    return float(value)


def _one(where: str, row: Family, parameters: dict[str, Any], longest: int) -> dict[str, Any]:
    """Of one rotation's parameters; longest: max_position_embeddings."""
    where, kind = f"{where}: rotary positions", parameters.get("rope_type", "default")
    if not isinstance(kind, str) or kind not in row.ropes:
        raise UserError(f"{where}: rope_type is {kind!r}, expected {', '.join(row.ropes)}; nothing else is supported")
    names = _ROPE[kind]
    fraction = parameters.get("partial_rotary_factor") or 1.0
    if "rotary_fraction" not in row.free and fraction != 1:
        raise UserError(f"{where}: partial_rotary_factor is {fraction!r}, expected 1.0; nothing else is supported")
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *names}
    known |= set(_OPTIONAL) if kind == "longrope" else set()
    if unknown := sorted(parameters.keys() - known):
        raise UserError(f"{where}: unknown field {unknown[0]} for rope_type {kind!r}; what it means is not known here")
    found = {
        "rope_theta": _positive(where, "rope_theta", parameters.get("rope_theta")),
        "rotary_fraction": _positive(where, "partial_rotary_factor", fraction),
    }
    values: dict[str, Any] = {}
    for name, ours in names.items():
        value = parameters.get(name)
        if name in _LISTS:
            if not isinstance(value, list):
                raise UserError(f"{where}: {name} is {value!r:.60}, expected a list of positive numbers")
            values[ours] = tuple(_positive(where, name, x) for x in value)
            continue
        values[ours] = _positive(where, name, value)
        if name in _WHOLE:
            if values[ours] >= limits.HUGE:  # a whole number beyond int32 would not be taken by a program
                raise UserError(f"{where}: {name} is {value}, expected less than {limits.HUGE}")
            values[ours] = value
    if kind == "longrope":
        values["attention_factor"] = _attention_factor(where, parameters, longest)
    return {**found, "rope_scaling": RopeScaling(kind, **values) if names else None}


_KINDS = ("full_attention", "sliding_attention")


def read(where: str, row: Family, hf: Any) -> dict[str, Any]:
    """Fields of LlamaConfig from a transformers config; row: its family, which says whether it has two rotations.
    Raises UserError naming a type or a field that the decoder does not compute."""
    parameters, longest = hf.rope_parameters, hf.max_position_embeddings
    if not row.local_rope:
        return _one(where, row, parameters, longest)
    if unknown := sorted(parameters.keys() - set(_KINDS)):
        raise UserError(f"{where}: rotary positions: unknown field {unknown[0]}, expected {' and '.join(_KINDS)}")
    found, local = (_one(f"{where}: {kind}", row, parameters[kind], longest) for kind in _KINDS)
    if local["rope_scaling"] is not None:
        raise UserError(f"{where}: rotary positions: sliding_attention is scaled, expected rope_type default")
    return {**found, "local_rope_theta": local["rope_theta"]}


def _attention_factor(where: str, parameters: dict[str, Any], longest: int) -> float:
    """Of "longrope", as transformers has it of a config without one: sqrt(1 + ln factor / ln original), where factor
    is by how much the context has grown."""
    if (given := parameters.get("attention_factor")) is not None:
        return _positive(where, "attention_factor", given)
    original = parameters["original_max_position_embeddings"]
    factor = parameters.get("factor")
    factor = longest / original if factor is None else _positive(where, "factor", factor)
    if original < 2:
        raise UserError(f"{where}: original_max_position_embeddings is {original}, expected at least 2")
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def write(row: Family, c: LlamaConfig) -> dict[str, Any]:
    """`rope_parameters` of an exported config."""
    scaling = c.rope_scaling
    found: dict[str, Any] = {"rope_type": "default" if scaling is None else scaling.kind, "rope_theta": c.rope_theta}
    if scaling is not None:
        found |= {hub: getattr(scaling, ours) for hub, ours in _ROPE[scaling.kind].items()}
        found |= {name: list(found[name]) for name in found.keys() & set(_LISTS)}
        if scaling.attention_factor is not None:
            found["attention_factor"] = scaling.attention_factor
    if c.rotary_fraction != 1:
        found["partial_rotary_factor"] = c.rotary_fraction
    if not row.local_rope:
        return found
    local = c.rope_theta if c.local_rope_theta is None else c.local_rope_theta
    return dict(zip(_KINDS, (found, {"rope_type": "default", "rope_theta": local}), strict=True))
