"""Refuses norm settings without effect when fairseq builds a new model, but not when it loads a checkpoint."""

from typing import Any

from fairseq import models

from normplugins.models.config import NORM_KEYS
from normplugins.models.num_updates import EndsUpdates
from normplugins.models.placement import refuse_unread_settings

_build_model = models.build_model


def check_everywhere() -> None:
    """Make fairseq's tasks, and thereby its command lines, check the settings of each new model of this package."""
    models.build_model = build_model


def build_model(cfg: Any, task: Any, from_checkpoint: bool = False) -> Any:
    """Build a model as fairseq does, and check the norms' settings unless they come ``from_checkpoint``.

    Raises:
        UserError: a norm's setting is not at its default, and no norm of the model reads it.
    """
    model = _build_model(cfg, task, from_checkpoint)
    if isinstance(model, EndsUpdates) and not from_checkpoint:
        refuse_unread_settings(model.decoder.cfg, NORM_KEYS)
    return model
