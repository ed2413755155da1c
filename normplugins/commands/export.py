"""``normplugins export RUN FOLDER``: write a trained model, its vocabulary and a model card to a folder."""

import argparse
from pathlib import Path

from normplugins.commands._arguments import add_quantization, add_run
from normplugins.export import ENGINES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser, "runs/iwslt14/pn/seed1")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to write; it must be new or empty")
    text = "averaged, last, best, or a file in the run's folder (default: the one that the recipe is scored by)"
    parser.add_argument("--checkpoint", metavar="NAME", help=text)
    text = "safetensors, or the decoding engine whose format to write (default: %(default)s)"
    parser.add_argument("--format", choices=["safetensors", *ENGINES], default="safetensors", help=text)
    add_quantization(parser)


def execute(options: argparse.Namespace) -> None:
    """Write the folder."""
    from normplugins.export import engines, safetensors
    from normplugins.utils.errors import UserError

    if options.format != "safetensors":
        found = engines.export(
            options.run, options.folder, options.format, options.quantization or "float32", options.checkpoint
        )
        print(f"{options.format} model written to {options.folder}\n{found}")
        return
    if options.quantization:
        raise UserError("--quantization: safetensors holds float32 weights; leave it out")
    path = safetensors.export(options.run, options.folder, options.checkpoint)
    print(f"{path.name} written to {options.folder}")
