"""Flags of commands, with errors that name them."""

import contextlib
import dataclasses
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tga_jax.errors import UserError

ROOT = Path(__file__).parents[2]
DTYPES = {"bf16": "bfloat16", "fp32": "float32", "bfloat16": "bfloat16", "float32": "float32"}
QUANTIZED = ("int8", "int4", "nf4")  # what a checkpoint that is run, and no other, may be loaded in, too
RUN_DTYPES = {**DTYPES, **{kind: kind for kind in QUANTIZED}}
# What a flag of this name may be beside its default, whichever command it belongs to.
_NUMBERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda n: 0 <= n < 2**32, "a whole number from 0 to 2^32 - 1"),
    "temperature": (lambda t: 0 <= t < float("inf"), "0 or more"),
    "top-p": (lambda p: 0 < p <= 1, "more than 0, at most 1"),
    "top-k": (lambda n: n >= 1, "at least 1"),
    "new-tokens": (lambda n: n >= 1, "at least 1"),
    "batch": (lambda n: n >= 1, "at least 1"),
    "port": (lambda n: 1 <= n <= 65535, "1 to 65535"),
    "waiting": (lambda n: n >= 1, "at least 1"),
    "limit": (lambda n: n >= 1, "at least 1"),
    "length": (lambda n: n >= 1, "at least 1"),
    "window": (lambda n: n >= 0, "at least 0"),
    "shards": (lambda n: n >= 1, "at least 1"),
    "neighbours": (lambda n: n >= 1, "at least 1"),
    "max-degenerate": (lambda share: 0 <= share <= 1, "a share from 0 to 1"),
    "near-duplicate": (lambda c: 0 < c <= 1, "a cosine above 0 and up to 1"),
}


def run_dtype(name: str | None) -> str | None:
    """As `tga_jax.load` takes it."""
    return RUN_DTYPES[name] if name else None


def checkpoint(text: str, weights: bool = True) -> Path:
    """The folder that a flag says, or of the hub's `org/name[@revision]`; weights: False for all but these. Raises
    UserError."""
    from tga_jax.checkpoints import download

    return download.local(text, weights)


def _reason(error: BaseException) -> str:
    """What went wrong with a config file, in one line."""
    while error.args and isinstance(error.args[0], Exception):  # an AttributeError may hold the KeyError
        error = error.args[0]
    if isinstance(error, KeyError):
        return "unknown field " + "; ".join(str(error.args[0]).splitlines())
    error = error.__cause__ if isinstance(error, OSError) and error.__cause__ else error
    last = (str(error).strip().splitlines() or [""])[-1].strip()
    return last if isinstance(error, OSError) else f"{type(error).__name__}: {last}"


def _define(values: Any, name: str, default: Any) -> None:
    """A flag of the type of its default (None: text)."""
    from absl import flags

    define: dict[type, Callable[..., Any]] = {bool: flags.DEFINE_boolean, int: flags.DEFINE_integer}
    define |= {float: flags.DEFINE_float, list: flags.DEFINE_multi_string}
    define.get(type(default), flags.DEFINE_string)(name, default, name, flag_values=values)


def _check_numbers(values: Any, defaults: dict[str, Any]) -> None:
    """Raises UserError naming a number that none of its name may be."""
    for name, default in defaults.items():
        good, expected = _NUMBERS.get(name, (None, ""))
        if good is not None and values[name].value != default and not good(values[name].value):
            raise UserError(f"--{name}: {values[name].value}, expected {expected}")


def _default(schema: Any, path: Sequence[str]) -> Any:
    """Of a field of a dataclass, or of one within it; without one, an empty place for a value of its type. Raises
    KeyError if there is no such field, or one of several values without a default."""
    from ml_collections import config_dict

    name, *inner = path
    field = {field.name: field for field in dataclasses.fields(schema)}[name]
    hint = typing.get_type_hints(schema)[name]
    kinds = (hint, *typing.get_args(hint))
    if not inner:
        if field.default in (dataclasses.MISSING, None):
            plain = [typing.get_origin(kind) or kind for kind in kinds]
            simple = next((kind for kind in plain if kind in (bool, int, float, str, tuple)), None)
            if simple is None:
                raise KeyError(name)
            return config_dict.placeholder(simple)
        return field.default
    if typing.get_origin(hint) is dict and len(inner) == 1 and kinds[2] in (bool, int, float, str):
        return config_dict.placeholder(kinds[2])
    inside = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
    if inside is None:
        raise KeyError(name)
    return _default(inside, inner)


def training() -> type:
    """What configs of trainings become, for `parse_with_config`."""
    from tga_jax.train.config import TrainConfig

    return TrainConfig


def _only(name: str, arguments: Sequence[str]) -> list[str]:
    """The arguments that give this flag, with its value where that is one of its own."""
    found, left = [], list(arguments)
    while left:
        if re.fullmatch(rf"--?{name}(=.*)?", argument := left.pop(0), re.DOTALL):
            found += [argument, *(left[:1] if "=" not in argument else [])]
    return found


def _complete(found: Any, arguments: Sequence[str], schema: Any) -> None:
    """Adds to a config the fields that its file leaves out, its dataclass has, and the arguments change."""
    for argument in arguments:
        match = re.match(r"--?config\.([\w.]+)", argument)
        path = match[1].split(".") if match else []
        inside: Any = found
        for name in path:
            inside = inside.get(name) if isinstance(inside, type(found)) else None
        if path and inside is None:
            with (
                contextlib.suppress(KeyError),
                found.unlocked(),
            ):  # an unknown field's own message names those there are
                made: dict[str, Any] = {path[-1]: _default(schema, path)}
                for name in reversed(path[:-1]):
                    made = {name: made}
                found.update(made)


def parse_with_config(
    arguments: list[str], defaults: dict[str, Any], config: Path | None, schema: Callable[[], Any] | None = None
):
    """(parsed ConfigDict, flag values). schema: gives the dataclass that the config becomes; fields that the file
    leaves out can be changed, too. Raises UserError for an unknown flag or config field."""
    from absl import flags
    from ml_collections import config_flags

    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # config files import their siblings
    argv = ["tga", *arguments]
    values = flags.FlagValues()
    try:  # a default config file is read as soon as the flag is defined
        default = str(config) if config else None
        changed = [argument for argument in arguments if re.match(r"--?config\.", argument)]
        if schema is not None and changed:
            file = flags.FlagValues()
            config_flags.DEFINE_config_file("config", default, "a config file", flag_values=file, sys_argv=["tga"])
            file(["tga", *_only("config", arguments)])
            if (found := file.config) is not None:
                _complete(found, changed, schema())
                argv = ["tga", *(a for a in arguments if a not in set(_only("config", arguments)))]
                config_flags.DEFINE_config_dict("config", found, flag_values=values, sys_argv=argv)
        if "config" not in values:
            config_flags.DEFINE_config_file("config", default, "a config file", flag_values=values, sys_argv=argv)
        for name, value in defaults.items():
            _define(values, name, value)
        rest = values(argv)[1:]
        found = values.config
        if found is not None:
            dict(found)  # a file that could not be read raises here
    except flags.Error as error:
        lines = str(error).strip().splitlines()  # more than one: the traceback of a config file
        raise UserError(lines[0] if len(lines) == 1 else f"--config: {lines[-1]}") from error
    except Exception as error:  # a config file is a program and may raise anything
        raise UserError(f"--config: {_reason(error)}") from error
    if rest:
        raise UserError(f"unknown argument {rest[0]!r}, expected flags such as --config.seed=1")
    if found is None:
        raise UserError("--config: missing, expected a config file such as configs/own_data.py")
    _check_numbers(values, defaults)
    return found, values


def parse(
    arguments: list[str], defaults: dict[str, Any], places: int = 0, **choices: tuple[str, ...]
) -> dict[str, Any]:
    """Values of a command without a config, of the types of their defaults (None: text); choices: all that a flag may
    be; places: how many arguments may be no flags, found as "places". Raises UserError for an unknown flag, a value of
    another type, or a number that none of this name may be."""
    from absl import flags

    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    for name, default in defaults.items():
        if name in choices:
            flags.DEFINE_enum(name, default, choices[name], name, flag_values=values)
        else:
            _define(values, name, default)
    try:
        rest = values(["tga", *arguments])[1:]
    except flags.Error as error:
        raise UserError(str(error).splitlines()[0]) from error
    if len(rest) > places:
        raise UserError(f"unknown argument {rest[places]!r}, expected flags such as --seed=1")
    _check_numbers(values, defaults)
    return {name.replace("-", "_"): values[name].value for name in defaults} | ({"places": rest} if places else {})


def parse_counts(
    arguments: list[str], counts: dict[str, int], others: dict[str, Any], **choices: Any
) -> dict[str, Any]:
    """As `parse`; counts: flags that must be at least 1. `json` is among the flags, as a path or None."""
    flags = parse(arguments, {**counts, **others, "json": None}, **choices)
    for name in counts:
        if flags[name.replace("-", "_")] < 1:
            raise UserError(f"--{name}: {flags[name.replace('-', '_')]}, expected at least 1")
    return {**flags, "json": Path(flags["json"]) if flags["json"] else None}
