"""What users would otherwise do, without training, so that TGA is compared with it: a file each.

"none" just asks; "system-prompt" puts a safety text before. "ecso" and "guard" look at the answer and at the question;
"detector", "shift" and "steering" are calibrated, and look at or move hidden states.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tga_jax.errors import UserError
from tga_jax.evals.asking import Asker
from tga_jax.evals.defences import detector, ecso, guard, plain, shift, steering
from tga_jax.evals.defences.base import REFUSAL, Answered, Defence

__all__ = ["CALIBRATED", "DEFENCES", "REFUSAL", "Answered", "Defence", "describe", "make_defence"]

VERSION = 1  # rises whenever an answer could change
DEFENCES: dict[str, Callable[[dict[str, Any], Asker], Defence]] = {
    "none": lambda described, ask: plain.Plain(),
    "system-prompt": lambda described, ask: plain.Plain("system-prompt", plain.SAFETY_PROMPT),
    "ecso": lambda described, ask: ecso.Ecso(),
    "detector": detector.make,
    "shift": shift.make,
    "steering": steering.make,
    "guard": guard.make,
}
CALIBRATED = ("detector", "shift", "steering")


def describe(name: str, calibration: str | None = None, guard: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `make_defence` makes a defence from: JSON, for the settings of a run, with a hash of the calibration's file.

    guard: of "guard", as `guard.make` takes it. Raises UserError if the file cannot be read.
    """
    described = {"name": name, "version": VERSION, **({"guard": guard} if guard else {})}
    if calibration is None:
        return described
    try:
        digest = hashlib.sha256(Path(calibration).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"{calibration}: cannot be read ({error.strerror}), expected prompts to calibrate by"
        ) from error
    return {**described, "calibration": calibration, "sha256": digest}


def make_defence(described: dict[str, Any], ask: Asker) -> Defence:
    """A defence from `describe`. Raises UserError naming the line of a calibration file that is wrong."""
    return DEFENCES[described["name"]](described, ask)
