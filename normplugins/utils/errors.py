"""Exceptions that are reported to the user as one line instead of a traceback."""

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """An error that the user can correct: the message says what is wrong, where, and what to do.

    The command line prints the message on one line and exits with status 1.
    """


class InUse(UserError):
    """Another process holds the lock of a run's folder."""


class NotFinite(UserError):
    """A loss, gradient, parameter or statistic became infinite or NaN during training."""


def print_error(message: str) -> int:
    """Print one line on stderr and return the exit status 1."""
    print(f"normplugins: {' '.join(message.split())}", file=sys.stderr)
    return 1


def run_each(items: Iterable[T], work: Callable[[T], object], raise_first: bool) -> int:
    """Call ``work`` with each item, print the UserErrors, and return their number; ``raise_first`` raises the first."""
    refused = 0
    for item in items:
        try:
            work(item)
        except UserError as error:
            if raise_first:
                raise
            refused += print_error(str(error))
    return refused
