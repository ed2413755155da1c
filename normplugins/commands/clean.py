"""``normplugins clean [RUN...]``: delete the checkpoints that finished runs do not need any more."""

import argparse
import sys
from pathlib import Path

from normplugins.commands._arguments import add_runs, add_runs_folder
from normplugins.utils.errors import UserError, run_each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = (
        "Each epoch's checkpoint and the last one are deleted. The averaged and the best checkpoint, the scores, the "
        "translations and the record are kept. Unfinished runs are not changed."
    )
    add_runs(parser, required=False)
    add_runs_folder(parser)
    parser.add_argument("--yes", action="store_true", help="delete without asking")


def execute(options: argparse.Namespace) -> None:
    """Print what can be deleted, ask, and delete it."""
    from rich.filesize import decimal

    from normplugins.runs.clean import clean, freed, unneeded
    from normplugins.runs.inventory import finished_folders

    plan: dict[Path, list[Path]] = {}

    def look_at(run: Path) -> None:
        if paths := unneeded(run):
            plan[run] = paths
            print(f"{run}: {decimal(freed(paths))} in {', '.join(path.name for path in paths)}")

    refused = run_each(options.run or finished_folders(options.runs), look_at, raise_first=len(options.run) == 1)
    total = f"{sum(map(len, plan.values()))} files, {decimal(sum(map(freed, plan.values())))}"
    if not plan and not refused:
        print("no finished run has a checkpoint that it does not need")
    elif plan and (options.yes or _confirmed(total)):
        deleted: list[int] = []
        refused += run_each(plan, lambda run: deleted.append(clean(run)), raise_first=len(plan) == 1)
        print(f"deleted: {decimal(sum(deleted))}. The averaged and the best checkpoints are kept")
    else:
        print("nothing was deleted")
    if refused:
        raise UserError(f"{refused} run{'' if refused == 1 else 's'} not cleaned")


def _confirmed(total: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError(f"{total} can be deleted: confirm it with --yes")
    try:
        return input(f"Delete these {total}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
