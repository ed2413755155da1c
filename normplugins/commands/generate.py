"""``normplugins generate RUN [FILE]``: continue the lines of a text with a causal language model."""

import argparse

from normplugins.commands._arguments import add_trained, report_unknown
from normplugins.utils.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_trained(parser, "runs/wikitext103/pn/seed1")
    parser.add_argument("--prompt", metavar="TEXT", help="continue this text instead of a file's lines")
    text = "maximum number of new tokens in a line (default: %(default)s)"
    parser.add_argument("--max-tokens", type=int, default=100, metavar="N", help=text)
    text = "below 1 prefers probable tokens; 0 always takes the most probable one (default: %(default)s)"
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help=text)
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of sampling (default: %(default)s)")


def execute(options: argparse.Namespace) -> None:
    """Write each prompt with its continuation as one line."""
    from normplugins.evaluation.generation import Sampling
    from normplugins.runs.trained import load
    from normplugins.utils.files import read_text, write_text

    if options.prompt is not None and options.file is not None:
        raise UserError("--prompt and FILE are both given: give one of them")
    sampling = Sampling(options.temperature, options.seed)
    sampling.check()
    run = load(options.run)
    prompts, where = ([options.prompt], "--prompt") if options.prompt is not None else read_text(options.file)
    results = run.generate(prompts, sampling, options.max_tokens, where)
    report_unknown(run.unknown)
    write_text(options.output, results)
