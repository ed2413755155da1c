"""The history of a run: its curves, counts and times, which every checkpoint contains."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normplugins.training import checkpoints
from normplugins.training.checkpoint_seal import Identity
from normplugins.utils.errors import UserError


@dataclass
class History:
    """The curves, counts and times of a run up to now. A resumed run continues them.

    Attributes:
        train: curve with a point for each log interval; None stands for a perplexity that overflows a float.
        valid: curve with a point for each epoch.
        words: target tokens.
        seconds: time spent in updates, without validation and checkpoints.
        wall_seconds: time including validation and checkpoints.
        skipped: training examples that fairseq leaves out of all batches because they are too long.
        probe: points of the :class:`~normplugins.training.statistics_probe.StatisticsProbe`.
        largest_nu: the largest ‖ν‖/d of all norms after any update of this epoch so far; None without ν, NaN if one
            was not finite.
    """

    train: list[dict[str, Any]] = field(default_factory=list)
    valid: list[dict[str, Any]] = field(default_factory=list)
    best_loss: float | None = None
    epochs_without_progress: int = 0
    epoch: int = 0
    updates: int = 0
    words: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0
    stopped_by: str | None = None
    parameters: int = 0
    skipped: int = 0
    probe: list[dict[str, Any]] = field(default_factory=list)
    largest_nu: float | None = None

    @property
    def curves(self) -> dict[str, list[dict[str, Any]]]:
        """Both curves by name."""
        return {"train": self.train, "valid": self.valid}

    @property
    def words_per_second(self) -> float:
        """Target tokens per second of training."""
        return self.words / self.seconds if self.seconds else 0.0


def saved_history(directory: Path, run: Identity | None = None) -> History | None:
    """Return the history in the last checkpoint of a folder, or None if there is no checkpoint.

    Raises:
        UserError: the checkpoint is refused, as by :func:`normplugins.training.checkpoints.load`.
    """
    last = directory / checkpoints.LAST
    if not last.exists():
        return None
    state = checkpoints.load(last, run)
    try:
        return History(**state["extra_state"]["history"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{last} is a checkpoint of another program or of another version: it has no history"
        ) from error
