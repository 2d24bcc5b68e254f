"""Judges of free chat answers: whether they refuse, or are safe."""

from collections.abc import Sequence
from typing import Protocol

from tga_jax.evals.judge import Verdict


class Judging(Protocol):
    """What judges have in common.

    name, version: written beside every verdict; the version rises whenever a verdict could change.
    rubric: "refusal", whose verdicts are "refusal", "partial" and "answer", or "safety", whose are "safe" and "unsafe".
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def rubric(self) -> str: ...

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Of every (question, answer); "unknown" for what cannot be judged, such as an answer without a word."""
        ...
