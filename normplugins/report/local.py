"""``normplugins report --local``: the runs at hand beside the published ones."""

from pathlib import Path

from normplugins.report import paper
from normplugins.report.page import MARKS, Writer, tables_of
from normplugins.report.records import LOCAL, read_results
from normplugins.report.table import terminal, terminal_width
from normplugins.runs.inventory import RECORD, find_runs
from normplugins.utils.errors import UserError

NOTE = f'Runs marked "{LOCAL}" are not published: `normplugins publish RUN` does that.'


def report_local(runs: Path, results: Path) -> None:
    """Print the tables of the experiments of the finished runs at hand, and draw their loss curves.

    The figures are written to ``figures/`` in the folder of the runs, and nothing is written to ``results``.

    Args:
        runs: the folder of the runs.
        results: the folder of the published records; it may be missing.

    Raises:
        UserError: no run is finished, a record is broken, or a figure cannot be written.
    """
    done = [run for run in find_runs(runs, results) if run.state in ("finished", "published")]
    if not done:
        raise UserError(f"no run in {runs} is finished: normplugins list --runs {runs} shows their states")
    found = read_results(results, [run.folder / RECORD for run in done if run.state == "finished"])
    writer = Writer(runs, terminal_width())
    for experiment in dict.fromkeys(run.experiment for run in done):
        if experiment in paper.CORPORA:
            writer.say(MARKS)
        for tables, members in tables_of(experiment, found):
            writer.printed += [terminal(table, writer.width) for table in tables]
            writer.draw(members)
    writer.say(NOTE)
    writer.tell(print)
