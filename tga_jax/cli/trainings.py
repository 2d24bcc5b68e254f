"""`tga demo`, `tga reproduce`, `tga train`, `tga sweep`."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tga_jax.cli.flags import ROOT, parse_with_config, training
from tga_jax.errors import UserError

USAGE = """\
  demo    train the emoji world's models from scratch, align them in four ways, measure them, write report.html
            --quick             two rows, trained too short for rates: to see all parts at work
            --world=smollm2     the same question to a real language model, which is `tga reproduce`
            --config=FILE       a config such as configs/emoji.py (the default)
            --config.FIELD=V    change one field, such as --config.seed=1
            --workdir=DIR       results go here (default: runs/NAME-seedN-HASH)
            --parts=DIR         trained parts, shared between runs (default: runs/parts)
            --pictures-to=DIR   trains nothing: writes the test pictures, for chat, and their captions, as evaluate
                                --data=DIR and analyze --data=DIR/pairs.jsonl --images=DIR read them
  reproduce  the paper's claims in a real language model, SmolLM2: a grid of rows and seeds, and report.html of it
            --scale=quick|full  shorter trainings of the core rows with one seed (the default), or all rows with three
            --rows=A,B --seeds=0,1   other ones
            --workdir=DIR       finished cells, tables and report (default: runs/NAME); the same command continues
            --jobs=N            rows made at once, each in a process of its own: for an accelerator (default: 1)
            --tables            only tables and report of the cells that are there
            --config=FILE       another grid, such as configs/emoji_ablation.py (default: configs/reproduce.py:SCALE)
            --parts=DIR         as for demo
  train   one training from a config
            --config=FILE       such as configs/own_data.py
            --workdir=DIR       checkpoints and metrics go here, or to gs://BUCKET/DIR; the same command resumes
            --distributed       one process of several; launch/ has scripts that start them
  sweep   one training for each combination of values, one after the other, and a table of how they ended
            --config=FILE, --config.FIELD=V, --distributed   as for train
            --vary.FIELD=A,B    values of a field, such as --vary.seed=0,1,2; may be given for several fields; the table
                                has the mean over seeds
            --workdir=DIR       DIR/FIELD=A each, and sweep.json; the same command continues
"""


WORLDS = ("emoji", "smollm2")
SCALES = ("quick", "full")
_TRAIN = {"workdir": "", "distributed": False}  # flags beside the config's, with their defaults


def _taken_out(arguments: list[str], name: str, choices: tuple[str, ...]) -> tuple[str, list[str]]:
    """The value of a flag that decides what the others mean, by default the first choice, and the other arguments.
    Raises UserError for a value that is no choice."""
    value, rest, left = choices[0], [], iter(arguments)
    for argument in left:
        flag, equals, given = argument.partition("=")
        if flag not in (f"--{name}", f"-{name}"):
            rest.append(argument)
            continue
        value = given if equals else next(left, "")
        if value not in choices:
            raise UserError(f"--{name}: {value!r}, expected {' or '.join(choices)}")
    return value, rest


def _demo(arguments: list[str]) -> None:
    world, arguments = _taken_out(arguments, "world", WORLDS)
    if world == "smollm2":
        if "--quick" in arguments:
            raise UserError("--quick: is of the emoji world, expected none beside --world=smollm2")
        _reproduce(arguments)
        return
    quick = "--quick" in arguments
    if quick and any(re.match("--?config(=|$)", argument) for argument in arguments):
        raise UserError("--quick: stands for --config=configs/emoji.py:quick, expected no other --config beside it")
    default = ROOT / "configs" / ("emoji.py:quick" if quick else "emoji.py")
    rest = [argument for argument in arguments if argument != "--quick"]
    found, values = parse_with_config(rest, {"workdir": "", "parts": "runs/parts", "pictures-to": ""}, default)
    import rich.console

    from tga_jax import config
    from tga_jax.demo import main as demo
    from tga_jax.demo.config import DemoConfig

    built = config.build(DemoConfig, found)
    if pictures := values["pictures-to"].value:
        if values.workdir:
            raise UserError("--workdir: without use beside --pictures-to, expected one of them")
        demo.write_pictures(built, Path(pictures), Path(values.parts).absolute(), rich.console.Console())
        return
    workdir = Path(values.workdir) if values.workdir else demo.default_workdir(built)
    demo.run(built, workdir, Path(values.parts).absolute(), rich.console.Console())


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise UserError(f"--{flag}: {text!r}, expected numbers such as 0,1,2") from error


def _reproduce(arguments: list[str]) -> None:
    scale, arguments = _taken_out(arguments, "scale", SCALES)
    flags: dict[str, object] = {"workdir": "", "parts": "runs/parts", "seeds": "", "rows": "", "jobs": 1}
    found, values = parse_with_config(arguments, {**flags, "tables": False}, ROOT / "configs" / f"reproduce.py:{scale}")
    import rich.console

    from tga_jax import config
    from tga_jax.demo import reproduce
    from tga_jax.demo.config import DemoConfig

    built = config.build(DemoConfig, found)
    quick = scale == "quick"
    seeds = _numbers("seeds", values.seeds or ("0" if quick else "0,1,2"))
    others = () if quick else tuple(row for row in built.rows if row not in built.core_rows)
    rows = values.rows.split(",") if values.rows else (*built.core_rows, *others)
    workdir, parts = Path(values.workdir or f"runs/{built.name}"), Path(values.parts).absolute()
    reproduce.run(built, seeds, rows, workdir, parts, rich.console.Console(), values.tables, values.jobs)


def _train(arguments: list[str]) -> None:
    found, values = parse_with_config(arguments, _TRAIN, None, training)
    if not values.workdir:
        raise UserError("--workdir: missing, expected a folder for checkpoints and metrics")
    import jax
    import rich.console

    from tga_jax import config
    from tga_jax.models import xla_flags
    from tga_jax.train import distributed, fetch, loop
    from tga_jax.train.config import TrainConfig
    from tga_jax.workdir import located

    xla_flags.reserve_gpu_memory()
    built, workdir = config.build(TrainConfig, found), located(values.workdir)
    distributed.initialize(values.distributed)
    with _stopped_in_order("train"):
        built = fetch.fetched(built, rich.console.Console(quiet=jax.process_index() > 0), workdir)
        loop.run(built, workdir, verbose=True)


@contextlib.contextmanager
def _stopped_in_order(command: str) -> Iterator[None]:
    """A training that was asked to stop by its scheduler has ended well; one that a person stopped raises."""
    import jax

    from tga_jax.train import stopping

    try:
        yield
    except stopping.Interrupted as stopped:
        jax.distributed.shutdown()  # waits for the others; `main` leaves without it, and they would be aborted
        if not stopped.preempted:
            raise
        print(f"tga {command}: {stopped}", file=sys.stderr)


def _values(text: str) -> list[str]:
    """Parted at the commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _sweep(arguments: list[str]) -> int:
    vary: dict[str, list[str]] = {}
    rest, left = [], iter(arguments)
    for argument in left:
        flag, equals, given = argument.partition("=")
        if not (match := re.fullmatch(r"--?vary\.(.+)", flag)):
            rest.append(argument)
            continue
        if match[1] in vary:
            raise UserError(f"{flag}: is there twice, expected all its values in one, such as --vary.seed=0,1,2")
        vary[match[1]] = _values(given if equals else next(left, ""))
    _, flags = parse_with_config(rest, _TRAIN, None, training)
    if not vary:
        raise UserError("--vary: missing, expected a field and its values, such as --vary.seed=0,1,2")
    if not flags.workdir:
        raise UserError("--workdir: missing, expected a folder for the trainings")
    import jax
    import rich.console

    from tga_jax import config
    from tga_jax.models import xla_flags
    from tga_jax.train import distributed, sweep
    from tga_jax.train.config import TrainConfig
    from tga_jax.workdir import located

    xla_flags.reserve_gpu_memory()
    configs = []
    for values in sweep.combinations(vary):
        fields = [f"--config.{field}={value}" for field, value in values.items()]
        configs.append(
            (values, config.build(TrainConfig, parse_with_config([*rest, *fields], _TRAIN, None, training)[0]))
        )
    workdir = located(flags.workdir)
    distributed.initialize(flags.distributed)
    failed: list[str] = []
    with _stopped_in_order("sweep"):
        failed = sweep.run(configs, workdir, rich.console.Console(quiet=jax.process_index() > 0))
    if failed:
        print(f"tga sweep: {len(failed)} of {len(configs)} trainings failed: {'; '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "demo": _demo,
    "reproduce": _reproduce,
    "train": _train,
    "sweep": _sweep,
}
