"""``normplugins score RUN [FILE]``: measure the log-probability and the perplexity of a text with a language model."""

import argparse
import sys

from normplugins.commands._arguments import add_trained, report_unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_trained(parser, "runs/ptb/ln/seed1")


def execute(options: argparse.Namespace) -> None:
    """Write a table, separated by tabs, and print the perplexity to stderr."""
    import math

    from normplugins.runs.trained import load
    from normplugins.utils.files import read_text, write_text

    run = load(options.run)
    lines, where = read_text(options.file)
    found = run.score(lines, where)
    report_unknown(run.unknown)
    rows = [f"{one.logprob:.4f}\t{one.tokens}\t{line}" for one, line in zip(found, lines, strict=True)]
    write_text(options.output, ["logprob_nats\ttokens\tline", *rows])
    words, nats = sum(one.words for one in found), -sum(one.logprob for one in found)
    if words:
        ppl = math.exp(min(nats / words, 709.0))
        units = "words and line ends"
        print(f"perplexity = {ppl:.2f} ({nats / words:.4f} nats for each of {words:,} {units})", file=sys.stderr)
    if run.label:
        print(f"  {run.label}", file=sys.stderr)
