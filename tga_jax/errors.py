"""The one exception that is meant for the person at the terminal."""


class UserError(Exception):
    """A bad config, file, sample or flag. The message is one line that names it and says what was expected.

    The command line prints the message without a traceback and exits with status 2.
    """
