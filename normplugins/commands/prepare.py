"""``normplugins prepare CORPUS [KEY=VALUE ...]``: download a corpus, verify it and convert it for training."""

import argparse
from pathlib import Path

from normplugins.commands._arguments import add_overrides
from normplugins.utils.steps import loading

RESUMABLE = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("experiment", metavar="CORPUS", help="an experiment whose corpus to prepare, such as iwslt14")
    add_overrides(parser, "data_dir=/scratch/data")


def execute(options: argparse.Namespace) -> None:
    """Prepare the corpus and print its folder."""
    with loading():
        from normplugins.corpora import corpus_config, prepare
        from normplugins.runs.compose import compose_config

    config = compose_config(options.experiment, options.overrides)
    prepared = prepare(corpus_config(config.corpus), Path(config.data_dir))
    print(f"ready in {prepared.bin_dir}")
