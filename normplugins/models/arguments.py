"""Command-line switches that can be turned on and off."""

import argparse
import typing
from dataclasses import fields
from typing import Any


def add_boolean_arguments(parser: Any, settings: type) -> None:
    """Add ``--name`` and ``--no-name`` for every bool or Optional[bool] field of the dataclass ``settings``.

    fairseq's own generator turns a bool with default True into a single ``--name`` that sets it to False. It skips
    names that the parser already has, so call this function first.
    """
    for f in fields(settings):
        if f.type in (bool, typing.Optional[bool]):  # noqa: UP045
            parser.add_argument(
                "--" + f.name.replace("_", "-"), action=argparse.BooleanOptionalAction, help=f.metadata.get("help")
            )
