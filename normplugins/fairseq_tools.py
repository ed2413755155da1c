"""Runs fairseq's command-line tools on current Python versions, with or without our models; averages checkpoints."""

import argparse
import importlib
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import normplugins
from normplugins.utils.errors import UserError
from normplugins.utils.paths import PACKAGE

AVERAGE = "average-checkpoints"
TOOLS = ("train", "hydra-train", "validate", "generate", "interactive", "score", "eval-lm", "preprocess", AVERAGE)
WITHOUT_MODELS = ("score", AVERAGE)


def run_tool(tool: str, arguments: Sequence[str], our_models: bool = False) -> None:
    """Run ``fairseq-TOOL``, one of ``TOOLS``, with command-line arguments, as fairseq's own script of that name does.

    With ``our_models``, our models are registered, as ``--user-dir normplugins`` does.

    Raises:
        UserError: fairseq refused the arguments or a file, or eval-lm scored no token.
    """
    if tool == AVERAGE:
        average_checkpoints(arguments)
        return
    arguments = list(arguments)
    if our_models and tool not in WITHOUT_MODELS:
        normplugins.register()
        if not any(item.startswith(("--user-dir", "common.user_dir=")) for item in arguments):  # the user's own plugin
            arguments += [f"common.user_dir={PACKAGE}"] if tool == "hydra-train" else ["--user-dir", str(PACKAGE)]
    from hydra.errors import HydraException

    from normplugins.utils.threads import keep_memory  # imports PyTorch

    keep_memory()
    module: Any = importlib.import_module(f"fairseq_cli.{tool.replace('-', '_')}")
    if tool == "eval-lm":
        module.eval_lm = check_tokens_scored(module.eval_lm)
    logging.getLogger("fairseq").setLevel(logging.NOTSET)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints errors itself, with part of a traceback
    sys.argv = [f"fairseq-{tool}", *arguments]
    try:
        module.cli_main()
    except Exception as error:
        if isinstance(error, KeyError) and error.args == (None,):  # fairseq looks the task up
            raise UserError(f"fairseq-{tool}: name the task, --task translation or --task language_modeling") from error
        # fairseq and Hydra raise these classes for mistakes of the user; every other error keeps its traceback.
        known = isinstance(error, (OSError, AssertionError, HydraException)) or type(error) is Exception
        if not known or not str(error):
            raise
        raise UserError(f"fairseq-{tool}: {type(error).__name__}: {error}") from error


def check_tokens_scored(eval_lm: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Wrap ``eval_lm`` to raise UserError if all segments are too long, where fairseq reports a perplexity of 1."""

    def checked(models: Sequence[Any], *arguments: Any, **options: Any) -> dict[str, Any]:
        results = eval_lm(models, *arguments, **options)
        if isinstance(results["loss"], int):  # it is a tensor if any token was scored
            longest = min(model.max_positions() for model in models)
            raise UserError(f"no token was scored; the model takes segments of --tokens-per-sample {longest} at most")
        return results

    return checked


def average_checkpoints(arguments: Sequence[str]) -> None:
    """Average checkpoints, with the options of fairseq's ``scripts/average_checkpoints.py``.

    Raises:
        UserError: the number of checkpoints is invalid, there are fewer, or one cannot be read.
    """
    from normplugins.training import checkpoints

    parser = argparse.ArgumentParser(prog=f"fairseq-{AVERAGE}", description="Write the mean of several checkpoints.")
    parser.add_argument("--inputs", required=True, nargs="+", type=Path, help="checkpoint files, or one folder of them")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the checkpoint to write")
    last = parser.add_mutually_exclusive_group()
    last.add_argument("--num-epoch-checkpoints", type=int, metavar="N", help="take the last N checkpoint<epoch>.pt")
    text = "take the last N checkpoint_<epoch>_<update>.pt"
    last.add_argument("--num-update-checkpoints", type=int, metavar="N", help=text)
    text = "leave out epochs or updates after this one"
    parser.add_argument("--checkpoint-upper-bound", type=int, metavar="NUMBER", help=text)
    options = parser.parse_args(arguments)
    epochs, updates, paths = options.num_epoch_checkpoints, options.num_update_checkpoints, options.inputs
    count = updates if epochs is None else epochs
    if count is not None:
        if count < 1 or len(paths) > 1:
            raise UserError("give one folder, and the number N of its last checkpoints, at least 1")
        pattern = r"checkpoint(\d+)\.pt" if epochs else r"checkpoint_\d+_(\d+)\.pt"
        bound = math.inf if options.checkpoint_upper_bound is None else options.checkpoint_upper_bound
        found = checkpoints.epoch_checkpoints(paths[0], pattern, bound)[-count:]
        if len(found) < count:
            raise UserError(f"{paths[0]} holds {len(found)} of the {count} checkpoints to average")
        paths = found
    elif options.checkpoint_upper_bound is not None:
        parser.error("--checkpoint-upper-bound needs --num-epoch-checkpoints or --num-update-checkpoints")
    checkpoints.average(paths, options.output)
    print(f"the mean of {', '.join(str(path) for path in paths)} is in {options.output}")
