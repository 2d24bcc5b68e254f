"""A peer: another implementation in a process of its own, which measures whenever it is asked."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tga_jax.errors import UserError


@contextlib.contextmanager
def start(script: Path, arguments: Sequence[Any]) -> Iterator[Callable[[], float]]:
    """What asks the script for one figure. It says "ready" first, then answers each line with a line.

    Raises UserError if it fails.
    """
    command = [str(part) for part in (sys.executable, script, *arguments)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdin=-1, stdout=-1, stderr=errors, text=True) as process,
    ):
        asked, answers = process.stdin, process.stdout
        assert asked is not None
        assert answers is not None

        def line() -> str:
            if not (found := answers.readline()):
                errors.seek(0)
                raise UserError(f"{script}: {(errors.read().strip().splitlines() or ['failed'])[-1]}")
            return found

        def ask() -> float:
            asked.write("\n")
            asked.flush()
            return float(line())

        try:
            line()  # it is ready
            yield ask
        finally:
            process.kill()
