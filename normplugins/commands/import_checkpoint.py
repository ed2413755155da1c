"""``normplugins import-checkpoint``: convert a checkpoint of the PowerNorm authors' code or of stock fairseq."""

import argparse
from pathlib import Path

import normplugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the checkpoint file to convert")
    parser.add_argument("destination", type=Path, metavar="DESTINATION", help="the checkpoint file to write")


def execute(options: argparse.Namespace) -> None:
    """Write the converted checkpoint."""
    normplugins.register()
    from normplugins.models.import_checkpoint import import_checkpoint as convert

    convert(options.source, options.destination)
    print(f"written to {options.destination}")
