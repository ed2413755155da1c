"""``normplugins analyze ANALYSIS RUN``: examine a trained model."""

import argparse

from normplugins.commands import add_results, add_run
from normplugins.utils.steps import loading

HELP = "examine a trained model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the analyses and their arguments."""
    analyses = parser.add_subparsers(required=True, metavar="ANALYSIS")
    text = "test whether a language model sees the words that it predicts"
    causality = analyses.add_parser("causality", help=text, description=f"T{text[1:]}.")
    add_run(causality, "runs/ptb/ln/seed1")
    text = "how often each text is scored with other words after a position (default: %(default)s)"
    causality.add_argument("--draws", type=int, default=2, metavar="N", help=text)
    text = "how many segments of the test text are examined (default: %(default)s)"
    causality.add_argument("--segments", type=int, default=32, metavar="N", help=text)
    add_results(causality)


def execute(options: argparse.Namespace) -> None:
    """Examine the model and write the page of all examined models."""
    with loading():
        from normplugins.report.causality_page import write_page
        from normplugins.runs.causality_audit import audit_causality

    audit_causality(options.run, options.results, options.draws, options.segments)
    for written in write_page(options.results):
        print(f"written: {written}")
