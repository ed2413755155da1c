"""``normplugins translate RUN [FILE]``: translate raw text with a trained model."""

import argparse
import sys
from functools import partial

from normplugins.commands._arguments import add_quantization, add_trained, report_unknown
from normplugins.export import ENGINES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_trained(parser, "runs/iwslt14/pn/seed1")
    parser.add_argument("--beam", type=int, metavar="N", help="width of the beam (default: as the run was scored)")
    text = "write the N best translations of each line, each after the line's number and a tab"
    parser.add_argument("--nbest", type=int, metavar="N", help=text)
    text = "write the natural log-probability, normalized by length, and a tab before each translation"
    parser.add_argument("--scores", action="store_true", help=text)
    text = "decoding engine (default: own); for the others, the model is exported to the run's folder when needed"
    parser.add_argument("--engine", choices=["own", *ENGINES], default="own", help=text)
    add_quantization(parser)
    text = "precision of our own engine: bf16 computes matrix products and activations in bfloat16 (default: float32)"
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32", help=text)


def execute(options: argparse.Namespace) -> None:
    """Write one line for each translation."""
    from normplugins.runs.trained import Engine, load
    from normplugins.utils.errors import UserError
    from normplugins.utils.files import read_text, write_text

    if options.engine == "own" and options.quantization:
        raise UserError("--quantization needs --engine ctranslate2")
    if options.engine != "own" and options.precision != "float32":
        raise UserError(
            f"--precision {options.precision} needs --engine own; for CTranslate2, use --quantization bfloat16"
        )
    run = load(options.run)
    engine: Engine = partial(run.search, precision=options.precision)
    if options.engine != "own" and run.translates:
        from normplugins.export.engines import open_engine

        directory = options.run if options.run.is_dir() else options.run.parent
        engine, comparison = open_engine(run, directory, options.engine, options.quantization or "float32")
        if comparison:
            print(f"{options.engine}: {comparison}", file=sys.stderr)
    lines, where = read_text(options.file)
    nbest = 1 if options.nbest is None else options.nbest
    found = run.translate_nbest(lines, nbest, options.beam, where, engine)
    report_unknown(run.unknown)
    rows = [
        (
            *([str(number)] if options.nbest is not None else []),
            *([f"{one.score:.4f}"] if options.scores else []),
            one.text,
        )
        for number, of_line in enumerate(found, 1)
        for one in of_line
    ]
    write_text(options.output, map("\t".join, rows))
