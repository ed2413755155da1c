"""``normplugins campaign PLAN...``: run every cell of a plan that has no published result yet."""

import argparse
from pathlib import Path

from normplugins.commands._arguments import add_results
from normplugins.utils.steps import loading

RESUMABLE = True
TIME_IS_UP = 75  # EX_TEMPFAIL: the same command resumes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    text = "files that list experiments, cells and seeds, such as configs/campaign/multi30k.yaml"
    parser.add_argument("plans", type=Path, nargs="+", metavar="PLAN", help=text)
    text = "stop after N minutes; the same command resumes where it stopped"
    parser.add_argument("--minutes", type=float, metavar="N", help=text)
    add_results(parser)
    parser.add_argument("--force", action="store_true", help="run even if the code has uncommitted changes")
    parser.add_argument("--show", action="store_true", help="print which cells are done, and run nothing")


def execute(options: argparse.Namespace) -> int:
    """Run the plans; return 0 if no run is left or with ``--show``, and EX_TEMPFAIL otherwise."""
    with loading():
        from normplugins.runs.campaign import campaign, overview, read_plan

    if options.show:
        print(overview(read_plan(*options.plans, results=options.results)))
        return 0
    return 0 if campaign(options.plans, options.minutes, options.results, options.force) else TIME_IS_UP
