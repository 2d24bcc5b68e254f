"""The one exception that is meant for the person at the terminal, and the check of numbers in configs."""

import math
from typing import Any

_LONGEST = 4000
_LARGEST = 3.4e38  # of float32, in which most of them are computed


class UserError(Exception):
    """A bad config, file, sample or flag. The message is one line that names it and says what was expected.

    The command line prints the message without a traceback and exits with status 2. What a file from outside brings
    into a message cannot make more lines of it, control the terminal, or fill it: such characters are written as
    escapes, and the middle of a long message is left out.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if not text.isprintable():
            text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1000]} ... {text[-900:]}"


def check_range(
    config: Any, at: str, *names: str, least: float = 0, most: float = math.inf, above: float = -math.inf
) -> None:
    """Raises ValueError for a field of a config that is no finite number in this range; None, where it is the default,
    is none to be checked. at: what the config is called, such as "optim"; least: "at least", above: "more than"."""
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
        if not number or not (least <= value <= most and value > above):
            lower = f"more than {above:g}" if above >= least else f"at least {least:g}"
            upper = f", at most {most:,}" if most < math.inf else ""
            field = f"{at}.{name}" if at else name
            finite = "" if number else "a finite number, "
            raise ValueError(f"{field}: {value!r}, expected {finite}{lower}{upper}")
