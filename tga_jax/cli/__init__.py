"""`tga <command>`: thin; what a command needs is imported when it runs."""

import io
import os
import re
import signal
import sys
import textwrap
from collections.abc import Sequence

from tga_jax.cli import bench, checkpoints, data, evaluation, trainings
from tga_jax.errors import UserError

_PARTS = (trainings, checkpoints, data, evaluation, bench)
COMMANDS = {name: command for part in _PARTS for name, command in part.COMMANDS.items()}


# The commands in the order of a first week.
_STORY = {
    "try it": ("demo", "serve", "chat", "reproduce", "doctor"),
    "your checkpoint": ("convert", "analyze", "evaluate", "compare"),
    "your data": ("validate-data", "build-data", "caption", "retrieve"),
    "training": ("train", "sweep", "bench"),
}
# With what `tga demo` leaves behind, so that each can be tried.
_RUN = "runs/emoji-seed0-*"
EXAMPLES = {
    "demo": "demo --quick",
    "serve": "serve",
    "chat": f"chat --checkpoint {_RUN}/models/tga --image {_RUN}/examples/scenes/knife/kitchen*.png "
    "--question 'describe this'",
    "reproduce": "reproduce --scale=quick",
    "convert": f"convert --from {_RUN}/models/text-model --to-hub runs/text-model-hub",
    "analyze": f"analyze --checkpoint {_RUN}/models/base --data {_RUN}/examples/pairs.jsonl --images {_RUN}/examples "
    "--window 1 --to runs/inside",
    "evaluate": f"evaluate --checkpoint {_RUN}/models/tga --suite scenes --data {_RUN}/examples --to runs/eval-tga",
    "compare": "compare runs/eval-base runs/eval-tga",
    "validate-data": f"validate-data {_RUN}/examples/pairs.jsonl --images {_RUN}/examples --decode",
    "build-data": f"build-data {_RUN}/examples/pairs.jsonl --images {_RUN}/examples --to runs/built",
    "caption": f"caption --checkpoint {_RUN}/models/tga --data {_RUN}/examples/pairs.jsonl --images {_RUN}/examples "
    "--question 'describe this' --again --to runs/captioned.jsonl",
    "retrieve": f"retrieve --data {_RUN}/examples/pairs.jsonl --images {_RUN}/examples "
    "--clip openai/clip-vit-base-patch32 --to runs/retrieved.jsonl",
    "train": "train --config configs/own_data.py --config.data.source.own.path=train.json --workdir runs/own",
    "sweep": "sweep --config configs/own_data.py --config.data.source.own.path=train.json --vary.seed 0,1,2 "
    "--workdir runs/seeds",
    "doctor": "doctor",
    "bench": "bench decode --preset llm-emoji",
}

DISTRIBUTED = ("train", "sweep", "evaluate", "caption")  # the commands that several processes run together


def _sections() -> dict[str, str]:
    """The flags of each command."""
    parts = [text for part in _PARTS for text in re.split(r"\n(?=  \w)", part.USAGE.rstrip())]
    return {text.split()[0]: text for text in parts}


def _overview() -> str:
    lines = ["usage: tga COMMAND [flags]; tga help COMMAND for its flags; tga help all"]
    sections = _sections()
    for title, names in _STORY.items():
        lines.append(f"\n{title}")
        for name in names:
            first = re.split(r"\n {9,}(?=-|bench )", sections[name])[0].split(maxsplit=1)[1]
            said = " ".join(re.split("[:;]", re.sub("^([A-Z]+ )+", "", first))[0].split())
            lines += textwrap.wrap(said, 79, initial_indent=f"  {name:15}", subsequent_indent=" " * 17)
    return "\n".join(lines)


def _usage(words: Sequence[str]) -> str:
    """words: nothing, "all", a command, or `bench` and one of its measurements."""
    sections = _sections()
    if list(words[:1]) == ["all"]:
        return "\n".join(["usage: tga COMMAND [flags]\n", *sections.values()])
    if not words or words[0] not in sections:
        return _overview()
    command, text = words[0], sections[words[0]]
    if command == "bench" and len(words) > 1:
        head, *measurements = re.split(r"\n(?=          bench )", text)
        own = [part for part in measurements if part.split()[1].rstrip(":") == words[1]]
        text = "\n".join([head, *(own or measurements)])
    example = f"for example:\n  tga {EXAMPLES[command]}"
    return f"usage: tga {command} [flags]\n\n{text}\n\n{example}"


def run(arguments: list[str]) -> int:
    """A command's exit status: 0 done, 1 done and something is wrong with what it looked at, 2 the person's error (one
    line on stderr), 130 stopped with the state saved."""
    if not arguments or arguments[0] == "help" or {"-h", "--help"} & set(arguments):
        words = [word for word in arguments if not word.startswith("-")]
        print(_usage(words[1:] if words[:1] == ["help"] else words))
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        print(f"tga: unknown command {arguments[0]!r}, expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    from absl import logging

    logging.set_verbosity(logging.FATAL)  # what libraries log as errors, with tracebacks, they raise too
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would tell of torch, which is not needed
    try:
        if os.environ.get("JAX_NUM_PROCESSES", "1") != "1" and arguments[0] not in DISTRIBUTED:
            raise UserError(
                f"runs as one process and JAX_NUM_PROCESSES is {os.environ['JAX_NUM_PROCESSES']}; "
                f"{', '.join(DISTRIBUTED)} share their work among several"
            )
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
