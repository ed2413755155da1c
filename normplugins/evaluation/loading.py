"""Loads trained models for scoring."""

from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils

import normplugins


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
