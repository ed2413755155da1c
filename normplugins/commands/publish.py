"""``normplugins publish RUN...``: copy the records of finished runs and their translations into results/."""

import argparse
from pathlib import Path

from normplugins.commands._arguments import add_results, add_runs
from normplugins.utils.errors import UserError, run_each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_runs(parser)
    add_results(parser)
    text = "publish even if the code was not committed, and replace another record of the same cell and seed"
    parser.add_argument("--force", action="store_true", help=text)


def execute(options: argparse.Namespace) -> None:
    """Publish each run, even after another one was refused."""
    from normplugins.runs.publish import publish

    if not options.results.is_dir():
        raise UserError(f"there is no folder {options.results}: create it, or name another with --results DIR")

    def publish_one(run: Path) -> None:
        print(f"{run}: published as {publish(run, options.results, options.force)}")

    if refused := run_each(options.run, publish_one, raise_first=len(options.run) == 1):
        raise UserError(f"{refused} of {len(options.run)} runs were not published")
