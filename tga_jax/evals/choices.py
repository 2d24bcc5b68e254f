"""Multiple choice: putting the choices into a prompt, and reading the letter out of an answer."""

import re
from collections.abc import Sequence

from tga_jax.evals.benchmark import BenchmarkSample
from tga_jax.evals.questions import instructed

LETTERS = "ABCDE"
INSTRUCTION = "Answer with the option's letter from the given choices directly."

_FIRST = re.compile(rf"([{LETTERS}])(?:\.\s|\n|\.?$)")
_SAID = re.compile(rf"The answer is ([{LETTERS}])\b")


def prompt(question: str, choices: Sequence[str], instruction: str = INSTRUCTION) -> str:
    """The question, each choice on a line of its own behind its letter, and the instruction."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return instructed("\n".join([question, *lines]), instruction)


def letter(answer: str) -> str | None:
    """`A`, `A. ...`, `The answer is A`; None for an answer that names none, or names it in another way.

    LLaVA's rules for ScienceQA, save for its slips: it reads nothing in `A.` alone, and A in `The answer is Apple`.
    An answer that says `The answer is` of two letters names none.
    """
    text = answer.strip()
    if first := _FIRST.match(text):
        return first[1]
    said = set(_SAID.findall(text))
    return said.pop() if len(said) == 1 else None


def score(sample: BenchmarkSample, answer: str) -> dict[str, float]:
    """Of a sample whose target is a letter, nothing where it has none. An answer that names no letter is wrong."""
    if sample.target is None:
        return {}
    named = letter(answer)
    return {"accuracy": float(named == sample.target), "unparsed": float(named is None)}
