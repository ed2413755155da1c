"""Tracking with wandb: one wandb run for each seed, in the mode that the user has chosen in wandb."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import wandb

CONNECT_SECONDS = 12  # if the server does not answer in this time, the run is tracked offline
UPLOAD_SECONDS = 60  # how long the end of a run waits for its upload at most; `wandb sync` uploads the rest


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
    mode: Any = chosen_mode()
    if mode == "disabled":
        yield Tracker()
        return
    settings = wandb.Settings(silent=True, console="off", init_timeout=CONNECT_SECONDS, finish_timeout=UPLOAD_SECONDS)
    try:
        run = wandb.init(mode=mode, resume=None if mode == "offline" else "allow", settings=settings, **options)
    except Exception as error:  # such as a server that does not answer, or that refuses the API key
        print(f"wandb: {str(error).splitlines()[0] if str(error) else type(error).__name__}; tracking offline")
        wandb.teardown()  # otherwise the run's id is in use
        mode, run = "offline", wandb.init(mode="offline", settings=settings, **options)
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


def chosen_mode() -> str:
    """Return the mode that the user has chosen in wandb's environment variables and settings files.

    If it is online, which is wandb's default, and nobody is logged in, it is offline.
    """
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes"):  # wandb itself no longer reads it
        return "disabled"
    mode: str = wandb.setup(wandb.Settings(silent=True)).settings.mode
    if mode in ("offline", "dryrun"):
        return "offline"
    return mode if mode == "disabled" or wandb.login(prompt=False, verify=False) else "offline"
