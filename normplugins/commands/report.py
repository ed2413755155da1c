"""``normplugins report``: print the tables of all published results and write the pages made from them."""

import argparse
from pathlib import Path

from normplugins.commands._arguments import add_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    text = "print the tables of the local runs, beside the published ones, and write nothing to results/"
    parser.add_argument("--local", action="store_true", help=text)
    text = "with --local: the folder in which runs are looked for (default: runs)"
    parser.add_argument("--runs", type=Path, metavar="DIR", help=text)
    add_results(parser)


def execute(options: argparse.Namespace) -> None:
    """Print the tables and write pages and figures; with ``--local``, do so for local runs, without the pages."""
    from normplugins.report.page import report, report_local
    from normplugins.utils.errors import UserError

    if options.local:
        report_local(options.runs or Path("runs"), options.results)
    elif options.runs:
        raise UserError("--runs names the folder of local runs: add --local")
    else:
        report(options.results)
