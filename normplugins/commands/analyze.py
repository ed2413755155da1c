"""``normplugins analyze ANALYSIS``: examine a trained model, or models at their initialization."""

import argparse
from pathlib import Path

from normplugins.commands._arguments import add_results, add_run, add_runs, positive_numbers
from normplugins.utils.errors import UserError
from normplugins.utils.steps import loading, progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the analyses and their arguments."""
    analyses = parser.add_subparsers(required=True, metavar="ANALYSIS", dest="analysis")
    text = "test whether a language model sees the words that it predicts"
    causality = analyses.add_parser("causality", help=text, description=f"T{text[1:]}.")
    add_run(causality, "runs/ptb/ln/seed1")
    text = "how often each text is scored with other words after a position (default: %(default)s)"
    causality.add_argument("--draws", type=int, default=2, metavar="N", help=text)
    text = "how many segments of the test text are examined (default: %(default)s)"
    causality.add_argument("--segments", type=int, default=32, metavar="N", help=text)
    add_results(causality)
    text = "measure gradient norms by depth at initialization, for each placement of the norms"
    gradients = analyses.add_parser("gradients", help=text, description=f"M{text[1:]}. It trains nothing.")
    text = "the norm of both stacks (default: %(default)s)"
    gradients.add_argument("--norm", default="ln", metavar="NAME", help=text)
    text = "numbers of layers of each stack (default: %(default)s)"
    gradients.add_argument("--layers", default="6,12,18", metavar="N,N", help=text)
    add_results(gradients)
    text = "measure the singular values of the embeddings of trained runs"
    embedding = analyses.add_parser("embedding", help=text, description=f"M{text[1:]}. It only reads the runs.")
    add_runs(embedding)
    add_results(embedding)


def execute(options: argparse.Namespace) -> None:
    """Run the chosen analysis and print the path of each file that it has written."""
    analyze = {"causality": _causality, "gradients": _gradients, "embedding": _embedding}[options.analysis]
    for written in analyze(options):
        print(f"written: {written}")


def _causality(options: argparse.Namespace) -> list[Path]:
    with loading():
        from normplugins.report.causality_page import write_page
        from normplugins.runs.causality_audit import audit_causality

    audit_causality(options.run, options.results, options.draws, options.segments)
    return write_page(options.results)


def _gradients(options: argparse.Namespace) -> list[Path]:
    with loading():
        from normplugins.evaluation.gradients_by_depth import measure_gradients
        from normplugins.models.placement import PLACEMENTS
        from normplugins.report.gradients_figure import write_gradients

    depths = positive_numbers(options.layers)
    if not depths or len({*depths}) < len(depths):
        raise UserError(f"--layers {options.layers}: give different numbers of layers, such as 6,12,18")
    rows = measure_gradients(options.norm, depths)
    title = f"gradients with {options.norm}, {len(PLACEMENTS)} placements"
    layers = 2 * sum(depths) * len(PLACEMENTS)
    return write_gradients(options.results, list(progress(rows, title, "layers", total=layers)))


def _embedding(options: argparse.Namespace) -> list[Path]:
    with loading():
        from normplugins.report.embedding_figure import COLUMNS, KEYS, TABLE
        from normplugins.report.measured import add_measured
        from normplugins.runs.embedding_spectrum import measure_embeddings

    runs = progress(options.run, "reading embeddings", "runs")
    rows = [row for run in runs for row in measure_embeddings(run)]
    add_measured(options.results / TABLE, COLUMNS, KEYS, rows)
    return [options.results / TABLE]
