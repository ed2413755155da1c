"""``normplugins compare BASELINE RUN...``: compare runs or published cells: differences, intervals, tests."""

import argparse
from pathlib import Path

from normplugins.commands._arguments import add_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    text = "a run's folder, a folder of one cell's runs, or a published cell such as multi30k/pn (first: baseline)"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=text)
    text = "averaged, last or best (default: the one that the recipe is scored by)"
    parser.add_argument("--checkpoint", metavar="NAME", help=text)
    parser.add_argument("--sentences", type=int, default=0, metavar="N", help="show the N sentences that differ most")
    text = "the folder of prepared corpora, for source and reference (default: %(default)s)"
    parser.add_argument("--data", type=Path, default="data", metavar="DIR", help=text)
    add_results(parser)


def execute(options: argparse.Namespace) -> None:
    """Print the comparison."""
    from normplugins.report import comparison
    from normplugins.runs.scored_runs import read_system
    from normplugins.utils.errors import UserError
    from normplugins.utils.terminal import terminal_width

    if len(options.runs) < 2:
        raise UserError("compare needs at least two runs or cells; the first is the baseline")
    if options.sentences < 0:
        raise UserError(f"--sentences {options.sentences}: give a number of sentences, such as 5")
    systems = [read_system(name, options.results, options.checkpoint) for name in options.runs]
    if options.sentences and not systems[0].first.lines:
        raise UserError("--sentences needs translations, and these runs have none")
    found = comparison.compare(systems)
    width = terminal_width()
    print(comparison.as_text(systems, found, width))
    for system in systems[1:] if options.sentences else []:
        print(f"\n{comparison.sentences(system, systems[0], options.sentences, options.data, width)}")
