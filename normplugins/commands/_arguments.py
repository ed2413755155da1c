"""Arguments that several commands share."""

import argparse
import sys
from pathlib import Path

from normplugins.export import QUANTIZATIONS


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    """Add settings KEY=VALUE as the last arguments."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"settings to change, such as {example}")


def add_run(parser: argparse.ArgumentParser, example: str) -> None:
    """Add the folder of a run as an argument."""
    parser.add_argument("run", type=Path, metavar="RUN", help=f"the folder of a completed run, such as {example}")


def add_runs(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the folders of several runs as arguments."""
    text = "the folders of finished runs, such as runs/iwslt14/pn/seed1"
    parser.add_argument("run", type=Path, nargs="+" if required else "*", metavar="RUN", help=text)


def add_runs_folder(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--runs DIR``."""
    text = "the folder in which runs are looked for (default: %(default)s)"
    parser.add_argument("--runs", type=Path, default="runs", metavar="DIR", help=text)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--results DIR``."""
    text = "the folder with the records of published runs (default: %(default)s)"
    parser.add_argument("--results", type=Path, default="results", metavar="DIR", help=text)


def add_quantization(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--quantization``."""
    text = "type of a CTranslate2 model's weights: float32 (default), int8 or bfloat16"
    parser.add_argument("--quantization", choices=QUANTIZATIONS["ctranslate2"], help=text)


def add_trained(parser: argparse.ArgumentParser, example: str) -> None:
    """Add the arguments of a command that applies a trained model to text: the run, the input and the output file."""
    text = f"the folder of a run, such as {example}, or a checkpoint file in it, such as {example}/checkpoint_last.pt"
    parser.add_argument("run", type=Path, metavar="RUN", help=text)
    text = "a text file in UTF-8, plain or .gz, one sentence per line (default: stdin)"
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help=text)
    text = "the file to write; it appears when it is complete (default: stdout)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=text)


def report_unknown(words: list[str]) -> None:
    """Print to stderr which words of a text a model's vocabulary cannot spell."""
    if not words:
        return
    different = list(dict.fromkeys(words))
    first = " ".join(different[:5]) + (" ..." if len(different) > 5 else "")
    plural = "word" if len(words) == 1 else "words"
    print(f"{len(words):,} {plural} that the vocabulary cannot spell, read as <unk>: {first}", file=sys.stderr)


def positive_numbers(text: str) -> list[int]:
    """Return the whole numbers of a list such as ``6,12,18``; an empty list unless all are at least 1."""
    numbers = [int(word) if word.strip().isdecimal() else 0 for word in text.split(",")]
    return numbers if all(numbers) else []
