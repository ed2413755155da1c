"""Base class of the models: their command-line arguments, the end of an update, the check of a new model's norms."""

import argparse
import typing
from dataclasses import fields
from typing import Any

from fairseq import models
from fairseq.models import BaseFairseqModel

from normplugins.models.placement import refuse_unread_settings
from normplugins.norms import end_update


class NormModel(BaseFairseqModel):
    """Base class of the models: a new number of updates ends the update for the norms' running statistics.

    fairseq's tasks pass the number of updates before each batch. With its own trainer, pending statistics
    (``per_update``, ``sync=deferred``) are therefore applied when the next update begins. A trainer that passes the
    number right after an update has them applied before validation and checkpoints.
    """

    _updates = 0

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Add one argument per setting; switches come as ``--name`` and ``--no-name``.

        fairseq turns a bool with default True into a single ``--name`` that sets it to False, but skips names that the
        parser already has.
        """
        for f in fields(getattr(cls, "__dataclass")):  # set by register_model
            if f.type in (bool, typing.Optional[bool]):  # noqa: UP045
                parser.add_argument(
                    "--" + f.name.replace("_", "-"), action=argparse.BooleanOptionalAction, help=f.metadata.get("help")
                )
        super().add_args(parser)

    def set_num_updates(self, num_updates: int) -> None:
        """Set the number of updates so far; every process must call it with the same number."""
        super().set_num_updates(num_updates)
        if num_updates != self._updates:
            self._updates = num_updates
            end_update(self)


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
    if isinstance(model, NormModel) and not from_checkpoint:
        refuse_unread_settings(model.decoder.cfg)
    return model
