"""Loads trained models for scoring."""

from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils

import normplugins


def load_model(checkpoint: Path, bin_dir: Path, cpu: bool) -> tuple[Any, Any]:
    """Return the model of a checkpoint, in evaluation mode, and its fairseq task, which reads data from ``bin_dir``.

    The model is on the GPU if there is one, unless ``cpu`` is True.
    """
    normplugins.register()
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(bin_dir)}
    )
    return model.eval().to("cuda" if torch.cuda.is_available() and not cpu else "cpu"), task
