"""Loads a model that ``normplugins export`` has written, without unpickling any file."""

import json
from pathlib import Path
from typing import Any

from fairseq.data import Dictionary
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_model

import normplugins
from normplugins.evaluation.tasks import run_task
from normplugins.utils.errors import UserError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1


def load_exported(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Load, on the CPU, the model that ``normplugins export`` has written to a folder.

    Returns the model in evaluation mode, its fairseq task with the dictionaries, and the content of ``config.json``.
    Raises UserError for a file that is missing or damaged, or was written by a newer version.
    """
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["normplugins_format"] != FORMAT:
            raise UserError(f"{folder / CONFIG} was written by another version of normplugins: update this one")
        normplugins.register()
        words = [Dictionary.load(str(folder / name)) for name in config["dictionaries"]]
        settings = OmegaConf.create(config["task"])
        task = run_task(settings._name).bare_task(settings, *words)
        model = task.build_model(OmegaConf.create(config["model"]), from_checkpoint=True)
        load_model(model, folder / WEIGHTS)
    except FileNotFoundError as error:
        missing = Path(error.filename or WEIGHTS).name  # safetensors names no file
        raise UserError(f"{folder} is not an exported model: it has no {missing}") from error
    except (AttributeError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder} is damaged ({reason}): export the run again") from error
    return model.eval(), task, config
