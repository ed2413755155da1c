"""The fairseq ``--user-dir``: importing it registers the project's models, criterions and optimizers with fairseq."""

import sys
from typing import TYPE_CHECKING

from normplugins import compat

if TYPE_CHECKING:
    from pathlib import Path

    from normplugins.runs.trained import TrainedRun

__version__ = "0.5.0.dev0"


def load(run: "str | Path") -> "TrainedRun":
    """Load the model of a run: a run's folder, or a checkpoint file in one.

    The result has ``translate``, ``score`` and ``generate``, and ``model``, ``config`` and ``record``.

    Raises:
        UserError: the folder holds no such run, its checkpoint is damaged, or its corpus has changed.
    """
    from normplugins.runs import trained

    return trained.load(run)


def register() -> None:
    """Register all models, architectures, criterions and optimizers with fairseq, and the beam search."""
    from normplugins.evaluation import beam_search
    from normplugins.models import base
    from normplugins.training import criterion, loss_terms, optimizer  # noqa: F401

    beam_search.use_everywhere()
    base.check_everywhere()
    loss_terms.add_everywhere()


compat.install()
# ``normplugins.norms`` is plain PyTorch: importing it must not pull fairseq in. Under ``--user-dir`` fairseq is
# already there, and importing this package is all it does to find the plugin.
if "fairseq" in sys.modules:
    register()
