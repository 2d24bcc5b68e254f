"""From ml_collections' ConfigDict to frozen dataclasses: the border at which a typo becomes an error.

A field whose type is an open family, such as `guides.Guide` or `data.sources.Source`, names its class by `kind`; see
`find_class`.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_args, get_origin

import dacite
from ml_collections import ConfigDict

from tga_jax.errors import UserError

T = TypeVar("T")


def build(cls: type[T], values: ConfigDict | dict[str, Any], name: str = "config") -> T:
    """The dataclass `cls` from nested values. Raises UserError naming an unknown, missing or unfit field."""
    plain = _prepared(cls, values.to_dict() if isinstance(values, ConfigDict) else values, name)
    if isinstance(plain, cls):  # `cls` is the family's, and its class has been built
        return plain
    try:
        return dacite.from_dict(cls, plain, dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, ValueError, TypeError) as error:
        raise UserError(f"{name}: {error}".replace("\n", " ")) from error


def _prepared(kind: Any, value: Any, name: str) -> Any:
    """`value` with an int wherever `kind` has a float, as `--config.learning_rate=1` gives.

    Where `kind` is an abstract class with `of_kind`, such as `guides.Guide`, `value["kind"]` names the subclass to
    build. Raises UserError for a field that `kind`, or a dataclass within it, lacks, and for one value in place of
    several.
    """
    kinds = {kind, *get_args(kind)}
    if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
        raise UserError(f"{name}: {value}, expected a number")
    if kind is float and isinstance(value, int):
        value = float(value) if abs(value) < 2**1023 else math.inf
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}: {value}, expected a finite number")
    if get_origin(kind) is tuple:
        if not isinstance(value, (tuple, list)):
            raise UserError(f"{name}: {value!r:.200}, expected a tuple")
        inner = get_args(kind)
        each = inner[:1] * len(value) if inner[-1:] == (...,) else inner
        if len(each) != len(value):
            raise UserError(f"{name}: {value!r:.200}, expected {len(each)} values")
        return tuple(_prepared(own, one, f"{name}[{i}]") for i, (own, one) in enumerate(zip(each, value, strict=True)))
    family: Any = next((t for t in (kind, *get_args(kind)) if hasattr(t, "of_kind") and inspect.isabstract(t)), None)
    if family is not None and isinstance(value, str) and str not in get_args(kind):
        raise UserError(f"{name}: {value!r}, expected fields with a kind, such as {{'kind': {value!r}}}")
    if not isinstance(value, dict):
        return value
    if get_origin(kind) is dict:
        return {key: _prepared(get_args(kind)[1], inner, f"{name}.{key}") for key, inner in value.items()}
    if family is not None:
        try:
            found, cls = family.of_kind(value.get("kind"))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
        return build(cls, {**value, "kind": found}, name)
    dataclass: Any = next((t for t in (kind, *get_args(kind)) if dataclasses.is_dataclass(t)), None)
    if dataclass is None:
        return value
    fields = {field.name: field.type for field in dataclasses.fields(dataclass)}
    if unknown := sorted(value.keys() - fields.keys()):
        raise UserError(f"{name}: unknown field {', '.join(unknown)}; {dataclass.__name__} has {', '.join(fields)}")
    found = {key: _prepared(fields[key], inner, f"{name}.{key}") for key, inner in value.items()}
    # In place of a name: dacite would not say what is wrong within it.
    return build(dataclass, found, name) if str in get_args(kind) else found


def _load(place: str) -> ModuleType:
    """The module of this name, or of the file of this path. Raises what running it raises."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).resolve()
    name = f"tga_jax_config_{path.stem}_{abs(hash(str(path)))}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def find_class(kind: Any, base: type[T], known: Mapping[str, str]) -> tuple[str, type[T]]:
    """(the name that a saved config keeps, the class).

    kind: a name of `known`, whose values are `module:Class`; `module:Class` or `file.py:Class`; or the class itself,
    such as one that stands in the config file. Raises ValueError for what is none of these or no subclass of `base`.
    """
    expected = f"{', '.join(known)}, module:Class or file.py:Class"
    if isinstance(kind, type):
        name, found = kind.__qualname__, kind
    elif isinstance(kind, str) and (kind in known or kind.count(":") == 1):
        name = kind
        place, attribute = known.get(kind, kind).split(":")
        try:
            found = getattr(_load(place), attribute)
        except Exception as error:  # the file is a program and may raise anything
            raise ValueError(f"kind: {kind!r} cannot be imported ({type(error).__name__}: {error})") from error
    else:
        raise ValueError(f"kind: {kind!r}, expected {expected}")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"kind: {kind!r} is no {base.__name__}, expected a class that inherits it")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise ValueError(f"kind: {name} lacks the method {', '.join(missing)}, expected those of {base.__name__}")
    if isinstance(kind, type):  # named without its folder: the run may go on in another clone
        name = f"{Path(inspect.getfile(kind)).name}:{name}"
    return name, found
