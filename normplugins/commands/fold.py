"""``normplugins fold CHECKPOINT [DESTINATION]``: fold norms with fixed statistics into the linear layers after them."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    text = "a checkpoint file, such as runs/iwslt14/bn/seed1/checkpoint_best.pt"
    parser.add_argument("source", type=Path, metavar="CHECKPOINT", help=text)
    text = "the checkpoint file to write (default: NAME_folded.pt beside NAME.pt)"
    parser.add_argument("destination", type=Path, nargs="?", metavar="DESTINATION", help=text)


def execute(options: argparse.Namespace) -> None:
    """Write the folded checkpoint."""
    from normplugins.runs.fold_checkpoint import fold_checkpoint

    print(f"written to {fold_checkpoint(options.source, options.destination)}")
