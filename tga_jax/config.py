"""From ml_collections' ConfigDict to frozen dataclasses: the border at which a typo becomes an error."""

import dataclasses
from typing import Any, TypeVar

import dacite
from ml_collections import ConfigDict

from tga_jax.errors import UserError

T = TypeVar("T")


def build(cls: type[T], values: ConfigDict | dict[str, Any], name: str = "config") -> T:
    """The dataclass `cls` from nested values. Raises UserError naming an unknown, missing or unfit field."""
    plain = values.to_dict() if isinstance(values, ConfigDict) else values
    try:
        return dacite.from_dict(cls, _floats(cls, plain), dacite.Config(strict=True, cast=[tuple]))
    except dacite.UnexpectedDataError as error:
        known = ", ".join(f.name for f in dataclasses.fields(cls))  # pyright: ignore[reportArgumentType]
        raise UserError(f"{name}: unknown field {', '.join(sorted(error.keys))}; {cls.__name__} has {known}") from error
    except (dacite.DaciteError, ValueError, TypeError) as error:
        raise UserError(f"{name}: {error}".replace("\n", " ")) from error


def _floats(cls: Any, values: Any) -> Any:
    """`values` with an int wherever `cls` has a float field, as `--config.learning_rate=1` gives."""
    if not dataclasses.is_dataclass(cls) or not isinstance(values, dict):
        return values
    out = dict(values)
    for field in dataclasses.fields(cls):
        value = out.get(field.name)
        if field.type is float and isinstance(value, int) and not isinstance(value, bool):
            out[field.name] = float(value)
        elif isinstance(value, dict):
            options = getattr(field.type, "__args__", (field.type,))
            inner = next((t for t in options if dataclasses.is_dataclass(t)), None)
            out[field.name] = _floats(inner, value) if inner else value
    return out
