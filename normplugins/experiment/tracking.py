"""wandb: one run a seed, online when logged in and offline without a question otherwise."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests.utils


@dataclass(frozen=True)
class Tracking:
    """What a tracked run is called and where it goes. ``project`` None means no tracking."""

    project: str | None
    entity: str | None
    group: str
    name: str
    tags: list[str]
    directory: Path
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """The same for the same run folder, so that a run which goes on after a kill stays one run in wandb."""
        return hashlib.sha256(str(self.directory.resolve()).encode()).hexdigest()[:16]


class Tracker:
    """Sends figures to the open wandb run, or nowhere."""

    def __init__(self, run: Any = None) -> None:
        self.run = run

    def log(self, prefix: str, figures: dict[str, float], update: int) -> None:
        """Add a point to each curve ``prefix/name`` at this update."""
        if self.run is not None:
            self.run.log({f"{prefix}/{name}": value for name, value in figures.items()}, step=update)

    def summarize(self, figures: dict[str, Any]) -> None:
        """Put final figures into the run's summary."""
        if self.run is not None:
            self.run.summary.update(figures)


def logged_in() -> bool:
    """Whether wandb has credentials on this machine: its environment variable, or the file ``wandb login`` writes."""
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY") or requests.utils.get_netrc_auth(host))


@contextmanager
def tracked(tracking: Tracking) -> Iterator[Tracker]:
    """Open the run (or join the one already open in this process) and close it at the end.

    Never asks anything and never stops a run from training: when the server cannot be reached, it tracks offline.
    """
    if tracking.project is None:
        yield Tracker()
        return
    import wandb  # takes a second that runs without tracking need not wait

    if wandb.run is not None and wandb.run.id == tracking.run_id:
        yield Tracker(wandb.run)
        return
    mode = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    options: dict[str, Any] = {
        "project": tracking.project,
        "entity": tracking.entity,
        "group": tracking.group,
        "name": tracking.name,
        "tags": tracking.tags,
        "id": tracking.run_id,
        "resume": "allow" if mode == "online" else None,
        "dir": str(tracking.directory),
        "config": tracking.config,
        "settings": wandb.Settings(silent=True, console="off", init_timeout=60),
    }
    try:
        run = wandb.init(mode=mode, **options)
    except wandb.Error:
        run = wandb.init(mode="offline", **{**options, "resume": None})
    try:
        yield Tracker(run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
