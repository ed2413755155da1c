"""What a run has done so far: its curves, counts and times, kept in every checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normplugins.training import checkpoints


@dataclass
class History:
    """What a run has done so far. Saved in every checkpoint, so that a resumed run knows its own past.

    ``train`` and ``valid`` are the curves, a point each log interval and each epoch, with None for a perplexity that no
    float holds; ``words`` counts target tokens; ``seconds`` is time spent in updates, without validation and saving;
    ``wall_seconds`` everything; ``probe`` has a point for each update that :class:`StatisticsProbe` measured.
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
    probe: list[dict[str, Any]] = field(default_factory=list)

    @property
    def curves(self) -> dict[str, list[dict[str, Any]]]:
        """Both curves by name."""
        return {"train": self.train, "valid": self.valid}

    @property
    def words_per_second(self) -> float:
        """Target tokens per second of training."""
        return self.words / self.seconds if self.seconds else 0.0


def saved_history(directory: Path) -> History | None:
    """The history in the last checkpoint of a folder, or None when there is no checkpoint."""
    last = directory / checkpoints.LAST
    if not last.exists():
        return None
    state = checkpoints.load(last)
    return History(**state["extra_state"]["history"])


def last_good_checkpoint(directory: Path) -> str:
    """A sentence about what a failure has left in a run's folder, and what may help."""
    kept = saved_history(directory)
    left = (
        f"The last good checkpoint is {directory / checkpoints.LAST} (update {kept.updates})."
        if kept
        else "There is no checkpoint yet."
    )
    return f"{left} A lower optimization.lr or more lr_scheduler.warmup_updates may help."
