"""The one exception that reaches the user as a line of text instead of a traceback."""


class UserError(Exception):
    """Something the person at the terminal can put right: the message says what was wrong, where, and what to do.

    The command line prints it on one line and exits with status 1.
    """


class NotFinite(UserError):
    """Training has come to a loss, a gradient, a parameter or a statistic that is not finite."""
