"""`tga <command>`: thin; what a command needs is imported when it runs."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from tga_jax.errors import UserError

_ROOT = Path(__file__).parents[1]
_USAGE = """usage: tga <command> [flags]

commands:
  demo    train the emoji world's models from scratch three ways, measure them, write report.html
            --config=FILE       a config such as configs/emoji.py (the default)
            --config.FIELD=V    change one field, such as --config.seed=1
            --workdir=DIR       results go here (default: runs/NAME-seedN-HASH)
            --parts=DIR         trained parts, shared between runs (default: runs/parts)
  sweep   the demo's rows over several seeds, and one table of them all
            --config=FILE       such as configs/emoji_ablation.py
            --seeds=0,1,2       (the default)
            --workdir=DIR       each seed's report and table.md go here
            --parts=DIR         as for demo
  train   one training from a config
            --config=FILE       such as configs/own_data.py
            --workdir=DIR       checkpoints and metrics go here; the same command resumes
"""


def _reason(error: BaseException) -> str:
    """What went wrong with a config file, in one line."""
    while error.args and isinstance(error.args[0], Exception):  # an AttributeError may hold the KeyError
        error = error.args[0]
    if isinstance(error, KeyError):
        return "unknown field " + "; ".join(str(error.args[0]).splitlines())
    error = error.__cause__ if isinstance(error, OSError) and error.__cause__ else error
    last = (str(error).strip().splitlines() or [""])[-1].strip()
    return last if isinstance(error, OSError) else f"{type(error).__name__}: {last}"


def _flags(arguments: list[str], defaults: dict[str, str], config: Path | None):
    """(parsed ConfigDict, flag values). Raises UserError for an unknown flag or config field."""
    from absl import flags
    from ml_collections import config_flags

    if str(_ROOT) not in sys.path:
        sys.path.append(str(_ROOT))  # config files import their siblings
    argv = ["tga", *arguments]
    values = flags.FlagValues()
    try:  # a default config file is read as soon as the flag is defined
        default = str(config) if config else None
        config_flags.DEFINE_config_file("config", default, "a config file", flag_values=values, sys_argv=argv)
        for name, value in defaults.items():
            flags.DEFINE_string(name, value, name, flag_values=values)
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
    return found, values


def _demo(arguments: list[str]) -> None:
    found, values = _flags(arguments, {"workdir": "", "parts": "runs/parts"}, _ROOT / "configs" / "emoji.py")
    import rich.console

    from tga_jax import config
    from tga_jax.demo import main as demo
    from tga_jax.demo.world import DemoConfig

    built = config.build(DemoConfig, found)
    workdir = Path(values.workdir) if values.workdir else demo.default_workdir(built)
    demo.run(built, workdir, Path(values.parts).absolute(), rich.console.Console())


def _sweep(arguments: list[str]) -> None:
    found, values = _flags(arguments, {"workdir": "", "parts": "runs/parts", "seeds": "0,1,2"}, None)
    if not values.workdir:
        raise UserError("--workdir: missing, expected a folder for the seeds' results and the table")
    try:
        seeds = [int(seed) for seed in values.seeds.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds: {values.seeds!r}, expected numbers such as 0,1,2") from error
    import rich.console

    from tga_jax import config
    from tga_jax.demo import sweep
    from tga_jax.demo.world import DemoConfig

    built = config.build(DemoConfig, found)
    sweep.run(built, seeds, Path(values.workdir), Path(values.parts).absolute(), rich.console.Console())


def _train(arguments: list[str]) -> None:
    found, values = _flags(arguments, {"workdir": ""}, None)
    if not values.workdir:
        raise UserError("--workdir: missing, expected a folder for checkpoints and metrics")
    from tga_jax import config, train

    train.run(config.build(train.TrainConfig, found), Path(values.workdir))


_COMMANDS: dict[str, Callable[[list[str]], None]] = {"demo": _demo, "sweep": _sweep, "train": _train}


def run(arguments: list[str]) -> int:
    """A command's exit status: 0 done, 2 the person's error (one line on stderr), 130 stopped with the state saved."""
    if not arguments or arguments[0] == "help" or {"-h", "--help"} & set(arguments):
        print(_USAGE)
        return 0 if arguments else 2
    if arguments[0] not in _COMMANDS:
        print(f"tga: unknown command {arguments[0]!r}, expected one of {', '.join(_COMMANDS)}", file=sys.stderr)
        return 2
    from absl import logging

    logging.set_verbosity(logging.FATAL)  # what libraries log as errors, with tracebacks, they raise too
    try:
        _COMMANDS[arguments[0]](arguments[1:])
    except UserError as error:
        print(f"tga {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"tga {arguments[0]}: {error or 'stopped; the same command continues'}", file=sys.stderr)
        return 130
    return 0


def main() -> None:
    """Entry point of `tga`."""
    status = run(sys.argv[1:])
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # at a usual exit, writers that failed on a full disk would fail again, with tracebacks
