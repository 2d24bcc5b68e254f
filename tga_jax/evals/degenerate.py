"""Answers that say more of a broken checkpoint or judge than of a model: empty, all alike, or undecidable.

A tokenizer or template that does not fit often gives no error, but one and the same answer to everything, or none.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

SHARE = 0.5  # more than this share of a benchmark's answers is worth a warning
FEW = 10  # so many answers may be alike by chance


def is_empty(answer: str) -> bool:
    """Whether it holds no letter and no digit."""
    return not any(c.isalnum() for c in answer)


def warnings(
    answers: Sequence[str], verdicts: Mapping[str, Sequence[str]], has_choices: bool, share: float = SHARE
) -> list[str]:
    """What is wrong with a benchmark's answers, a line each.

    verdicts: of each judge, by its name. A refusal may be the same everywhere. has_choices: whether right answers are
    few, such as yes and no: then all answers have to be alike for a warning.
    """
    count = len(answers)
    empty = sum(map(is_empty, answers))
    found = {"are empty": empty}
    first = next(iter(verdicts.values()), ["unknown"] * count)
    said = Counter(
        answer.strip()
        for answer, verdict in zip(answers, first, strict=True)
        if verdict != "refusal" and not is_empty(answer)
    )
    if said and count >= FEW:
        answer, alike = said.most_common(1)[0]
        if not has_choices or alike == count:
            found[f"are the same: {answer[:60]!r}"] = alike
    for judge, own in verdicts.items():
        found[f"could not be judged by {judge}"] = sum(
            verdict == "unknown" and not is_empty(answer) for answer, verdict in zip(answers, own, strict=True)
        )
    return [f"{n} of {count} answers {what}" for what, n in found.items() if n > share * count]
