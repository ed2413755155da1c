"""Tracking with wandb: one wandb run for each seed, online if this machine is logged in and otherwise offline."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests.utils
import wandb


class Tracker:
    """Sends metrics to a wandb run, or nowhere without one."""

    def __init__(self, run: Any = None) -> None:
        self.run = run

    def log(self, prefix: str, metrics: dict[str, Any], update: int) -> None:
        """Add a point at this update to each of the curves ``prefix/name``."""
        if self.run is not None:
            self.run.log({f"{prefix}/{name}": value for name, value in metrics.items()}, step=update)

    def summarize(self, metrics: dict[str, Any]) -> None:
        """Add final metrics to the summary of the run."""
        if self.run is not None:
            self.run.summary.update(metrics)


@contextmanager
def tracked(options: dict[str, Any], curves: dict[str, list[dict[str, Any]]]) -> Iterator[Tracker]:
    """Open a wandb run, and close it at the end of the block. wandb asks no question and never stops a training run.

    Args:
        options: arguments of ``wandb.init``; a ``project`` of None turns tracking off.
        curves: the run's curves up to now. A resumed run that is tracked offline logs them again, because wandb writes
            a new file.
    """
    if options["project"] is None:
        yield Tracker()
        return
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    logged_in = os.environ.get("WANDB_API_KEY") or requests.utils.get_netrc_auth(host)  # `wandb login` writes netrc
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if logged_in else "offline")
    options = {**options, "settings": wandb.Settings(silent=True, console="off", init_timeout=60)}
    try:
        run = wandb.init(mode=mode, resume="allow" if mode == "online" else None, **options)
    except Exception as error:  # such as a server that cannot be reached
        print(f"wandb: {str(error).splitlines()[0] if str(error) else type(error).__name__}; tracking offline")
        mode, run = "offline", wandb.init(mode="offline", **options)
    tracker = Tracker(run)
    if mode == "offline":
        points = [(point["update"], prefix, point) for prefix, curve in curves.items() for point in curve]
        for update, prefix, point in sorted(points, key=lambda item: item[0]):
            tracker.log(prefix, {key: point[key] for key in point if key not in ("update", "epoch")}, update)
    status = 1
    try:
        yield tracker
        status = 0
    finally:
        run.finish(exit_code=status)
