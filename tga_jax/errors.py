"""The one exception that is meant for the person at the terminal."""

_LONGEST = 4000


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
