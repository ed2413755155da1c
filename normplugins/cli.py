"""The ``normplugins`` command: parses a command line and executes a subcommand of ``normplugins.commands``."""

import argparse
import importlib
import io
import os
import pickle
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import normplugins
from normplugins import commands, compat, fairseq_tools
from normplugins.utils.errors import UserError, print_error
from normplugins.utils.files import NO_SPACE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    options = parse(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # flush each line, so that a log file keeps the order with stderr
        sys.stdout.reconfigure(line_buffering=True)
    return call(lambda: options.execute(options), options.resumable)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; an unknown option ends the program with status 2."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if unknown := [word for word in rest if word.startswith("--") or "overrides" not in options]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def fairseq_tool() -> int:
    """Entry point of the console scripts ``fairseq-TOOL``: run the fairseq tool that the script is named after."""
    tool = Path(sys.argv[0]).stem.removeprefix("fairseq-")
    return call(lambda: fairseq_tools.run_tool(tool, sys.argv[1:]))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line with a subcommand for each module in ``normplugins.commands``."""
    parser = argparse.ArgumentParser(
        prog="normplugins",
        description="Train and score fairseq transformers whose normalization is a config choice.",
        epilog="normplugins COMMAND --help describes the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"normplugins {normplugins.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for found in pkgutil.iter_modules(commands.__path__):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"normplugins.commands.{found.name}")
        text = (module.__doc__ or "").partition("\n")[0].partition("``: ")[2]  # empty with python -OO
        description = f"{text[:1].upper()}{text[1:]}"
        command = subparsers.add_parser(
            found.name.replace("_", "-"), help=text.removesuffix("."), description=description
        )
        module.add_arguments(command)
        command.set_defaults(execute=module.execute, parser=parser, resumable=getattr(module, "RESUMABLE", False))
    return parser


def call(execute: Callable[[], int | None], resumable: bool = False) -> int:
    """Run a command and return its exit status; print a one-line message for an error that the user can correct."""
    try:
        status = execute() or 0
        print(end="", flush=True)
        return status
    except UserError as error:
        return print_error(str(error))
    except pickle.UnpicklingError as error:
        return print_error(f"a checkpoint was refused: {compat.why_refused(error)}")
    except ModuleNotFoundError as error:
        if error.name not in ("fairseq", "fairseq_cli"):
            raise
        return print_error("fairseq is not installed; install it with: pip install --no-deps fairseq==0.12.2")
    except KeyboardInterrupt:
        print_error("interrupted; the same command resumes where it stopped" if resumable else "interrupted")
        return 130
    except BrokenPipeError:  # the reader of the output has ended, as in `normplugins report | head`
        _discard_output()
        return 1
    except OSError as error:
        if error.errno not in NO_SPACE or error.filename:
            raise
        _discard_output()
        return print_error("no space left to write the output: free some, and run the same command again")


def _discard_output() -> None:
    """Redirect stdout to the null device, so that flushing it at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
