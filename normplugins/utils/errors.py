"""Exceptions that are reported to the user as one line instead of a traceback."""


class UserError(Exception):
    """An error that the user can correct: the message says what is wrong, where, and what to do.

    The command line prints the message on one line and exits with status 1.
    """


class NotFinite(UserError):
    """A loss, gradient, parameter or statistic became infinite or NaN during training."""
