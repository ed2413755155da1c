"""``normplugins report``: print the tables of all published results and write results/README.md."""

import argparse

from normplugins.commands import add_results

HELP = "print the tables of all published results and write results/README.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_results(parser)


def execute(options: argparse.Namespace) -> None:
    """Print the tables and write the page and the figures."""
    from normplugins.report.page import report

    report(options.results)
