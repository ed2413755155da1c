"""``normplugins evaluate RUN [KEY=VALUE ...]``: score a trained model again, with other settings."""

import argparse
from pathlib import Path

from normplugins.commands._arguments import add_overrides, add_run
from normplugins.utils.steps import loading


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser, "runs/iwslt14/pn/seed1")
    text = "a folder for the translations, or for the log-probabilities of a language model"
    parser.add_argument("--save", type=Path, metavar="DIR", help=text)
    add_overrides(parser, "evaluate.beam=10")


def execute(options: argparse.Namespace) -> None:
    """Print the scores without changing the record."""
    with loading():
        from normplugins.runs.scoring import rescore

    rescore(options.run, options.overrides, options.save)
