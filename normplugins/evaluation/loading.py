"""Loads trained models for scoring."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from fairseq import checkpoint_utils
from rich.console import Console
from rich.progress import track

import normplugins

T = TypeVar("T")


def load_model(checkpoint: Path, bin_dir: Path, cpu: bool) -> tuple[Any, Any]:
    """Return the model of a checkpoint, in evaluation mode on its device, and its fairseq task.

    Args:
        checkpoint: a fairseq checkpoint.
        bin_dir: the folder of the binarized corpus.
        cpu: use the CPU even if there is a GPU.
    """
    normplugins.register()
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(bin_dir)}
    )
    return model.eval().to("cuda" if torch.cuda.is_available() and not cpu else "cpu"), task


def progress(items: Sequence[T] | Iterable[T], title: str, stderr: bool = False) -> Iterable[T]:
    """Iterate over ``items`` with a progress bar if stdout, or ``stderr``, is a terminal."""
    console = Console(stderr=stderr)
    return track(items, title, console=console, disable=not console.is_terminal)
