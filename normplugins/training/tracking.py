"""wandb: one run a seed, online when logged in and offline without a question otherwise."""

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
    run_id: str
    config: dict[str, Any] = field(default_factory=dict)


NOWHERE = Tracking(None, None, "", "", [], Path(), "")


class Tracker:
    """Sends figures to the open wandb run, or nowhere."""

    def __init__(self, run: Any = None, blank: bool = False) -> None:
        self.run = run
        self.blank = blank  # whether what came before in this run is missing from where it is tracked

    def replay(self, curves: dict[str, list[dict[str, float]]]) -> None:
        """Log the curves so far where they are missing, because each call of a run starts a new offline file."""
        if self.blank:
            points = [(point["update"], prefix, point) for prefix, curve in curves.items() for point in curve]
            for update, prefix, point in sorted(points, key=lambda item: item[0]):
                figures = {name: value for name, value in point.items() if name not in ("update", "epoch")}
                self.log(prefix, figures, int(update))
            self.blank = False

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
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
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
    except Exception as error:  # whatever keeps it from its server must not keep the run from training
        print(f"wandb: {str(error).splitlines()[0] if str(error) else type(error).__name__}; tracking offline")
        mode, run = "offline", wandb.init(mode="offline", **{**options, "resume": None})
    try:
        yield Tracker(run, blank=mode == "offline")
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
