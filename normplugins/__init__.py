"""The fairseq ``--user-dir``: importing it registers the project's models, criterions and optimizers with fairseq."""

import sys
from typing import TYPE_CHECKING

from normplugins import compat

if TYPE_CHECKING:
    from pathlib import Path

    from normplugins.runs.trained import TrainedRun

__version__ = "0.5.0.dev0"


def load(run: "str | Path") -> "TrainedRun":
    """Load the model of a run from the run's folder or from a checkpoint file in it.

    The result has the methods ``translate``, ``score`` and ``generate``, and the attributes ``model``, ``config`` and
    ``record``.

    Raises:
        UserError: the folder holds no such run, its checkpoint is damaged, or its corpus has changed.
    """
    from normplugins.runs import trained

    return trained.load(run)


def register() -> None:
    """Register all models, architectures, criterions and optimizers with fairseq; patch its beam search and losses."""
    from normplugins.evaluation import beam_search
    from normplugins.models import base
    from normplugins.training import criterion, optimizer  # noqa: F401

    beam_search.patch_fairseq()
    base.patch_fairseq()


compat.install()
# ``normplugins.norms`` is plain PyTorch: importing it must not import fairseq. With ``--user-dir``, fairseq is already
# imported when it imports this package, and expects the import to register the classes.
if "fairseq" in sys.modules:
    register()
