"""Classes that a config names: the door for a guide or a data source of one's own."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")


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


def find(kind: Any, base: type[T], known: Mapping[str, str]) -> tuple[str, type[T]]:
    """(the name that finds the class again, the class).

    kind: a name of `known`, whose values are `module:Class`; `module:Class` or `file.py:Class`; or the class itself,
    such as one that stands in the config file. Raises ValueError for what is none of these or no subclass of `base`.
    """
    expected = f"{', '.join(known)}, module:Class or file.py:Class"
    if isinstance(kind, type):
        name, found = f"{inspect.getfile(kind)}:{kind.__qualname__}", kind
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
    return name, found
