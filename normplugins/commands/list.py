"""``normplugins list [PATTERN...]``: show the local runs: state, updates, score, disk use."""

import argparse

from normplugins.commands._arguments import add_results, add_runs_folder
from normplugins.utils.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    text = "show only runs whose EXPERIMENT/CELL/seedN contains PATTERN; * and ? work as in a shell"
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help=text)
    text = "show only runs that are running, stopped, finished, published, diverged or damaged"
    parser.add_argument("--state", help=text)
    parser.add_argument("--json", action="store_true", help="print a JSON list, with folders, bytes and times")
    add_runs_folder(parser)
    add_results(parser)


def execute(options: argparse.Namespace) -> None:
    """Print the table or the JSON list."""
    import json
    from fnmatch import fnmatchcase

    from normplugins.report.run_list import run_list
    from normplugins.runs.inventory import STATES, FoundRun, find_runs
    from normplugins.utils.terminal import terminal_width

    if options.state not in (None, *STATES):
        raise UserError(f"--state {options.state}: the states are {', '.join(STATES)}")

    def wanted(run: FoundRun) -> bool:
        name = f"{run.experiment}/{run.cell}/seed{run.seed}"
        fits = not options.patterns or any(fnmatchcase(name, f"*{pattern}*") for pattern in options.patterns)
        return fits and options.state in (None, run.state)

    found = find_runs(options.runs, options.results)
    shown = [run for run in found if wanted(run)]
    if options.json:
        print(json.dumps([run.plain() for run in shown], indent=1, ensure_ascii=False))
    elif shown:
        print(run_list(shown, terminal_width()))
    elif found:
        print(f"none of the {len(found)} runs in {options.runs} matches")
    else:
        print(f"{options.runs} has no runs")
