"""`tga <command>`: thin; what a command needs is imported when it runs."""

import io
import os
import re
import signal
import sys

from tga_jax.cli import bench, checkpoints, data, evaluation, trainings
from tga_jax.errors import UserError

_PARTS = (trainings, checkpoints, data, evaluation, bench)
COMMANDS = {name: command for part in _PARTS for name, command in part.COMMANDS.items()}


def _usage(command: str) -> str:
    """Of one command, or of all where there is none of that name."""
    parts = [text for part in _PARTS for text in re.split(r"\n(?=  \w)", part.USAGE.rstrip())]
    own = [text for text in parts if text.split()[0] == command]
    return "\n".join(["usage: tga <command> [flags]\n\ncommands:", *(own or parts)])


def run(arguments: list[str]) -> int:
    """A command's exit status: 0 done, 1 done and something is wrong with what it looked at, 2 the person's error (one
    line on stderr), 130 stopped with the state saved."""
    if not arguments or arguments[0] == "help" or {"-h", "--help"} & set(arguments):
        print(_usage(arguments[0] if arguments else ""))
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        print(f"tga: unknown command {arguments[0]!r}, expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    from absl import logging

    logging.set_verbosity(logging.FATAL)  # what libraries log as errors, with tracebacks, they raise too
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would tell of torch, which is not needed
    try:
        return COMMANDS[arguments[0]](arguments[1:]) or 0
    except UserError as error:
        print(f"tga {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"tga {arguments[0]}: {error or 'stopped; the same command continues'}", file=sys.stderr)
        return 130


def main() -> None:
    """Entry point of `tga`. What a console cannot show is replaced. If the reader goes away (`tga help | head`), the
    command ends without a word, with the status that a shell's own commands have then. A stream that was closed before
    (`>&-`) shows nothing."""
    nowhere = open(os.devnull, "w")  # noqa: SIM115 as long as the process
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # at a usual exit, writers that failed on a full disk would fail again, with tracebacks
