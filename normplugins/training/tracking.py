"""One interface to track runs with wandb, in the mode that the user has chosen there, or with TensorBoard."""

import json
import math
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from normplugins.utils.errors import UserError

EVENTS = "tensorboard"  # the folder of TensorBoard's event files in a run's folder

CONNECT_SECONDS = 12  # if the server does not answer in this time, the run is tracked offline
UPLOAD_SECONDS = 60  # how long the end of a run waits for its upload at most; `wandb sync` uploads the rest


class Tracker:
    """Receives the metrics of a run. This base class discards them."""

    def log(self, prefix: str, metrics: dict[str, Any], update: int) -> None:
        """Add a point at this update to each of the curves ``prefix/name``."""

    def summarize(self, metrics: dict[str, Any]) -> None:
        """Add final metrics, such as the scores of the test set."""


class _WandbTracker(Tracker):
    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, prefix: str, metrics: dict[str, Any], update: int) -> None:
        self.run.log({f"{prefix}/{name}": value for name, value in metrics.items()}, step=update)

    def summarize(self, metrics: dict[str, Any]) -> None:
        self.run.summary.update(metrics)


class _TensorBoardTracker(Tracker):
    """Writes numbers as curves. Other values of a summary are written as text; other logged values are left out."""

    def __init__(self, writer: Any, update: int) -> None:
        self.writer, self.update = writer, update

    def log(self, prefix: str, metrics: dict[str, Any], update: int) -> None:
        self.update = update
        for name, value in metrics.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self.writer.add_scalar(f"{prefix}/{name}", value, update)
        self.writer.flush()  # a checkpoint may follow, after which these points are not computed again

    def summarize(self, metrics: dict[str, Any]) -> None:
        for name, value in metrics.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, self.update)
            else:
                text = json.dumps(value, indent=1, default=str, ensure_ascii=False)
                self.writer.add_text(name, textwrap.indent(text, "    "), 0)  # a block of Markdown


def check_installed(tracking: str) -> None:
    """Raise UserError if ``tracking=tensorboard`` is chosen and TensorBoard is not installed."""
    if tracking == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError(
            "tracking=tensorboard needs TensorBoard, which is not installed: pip install 'normplugins[tensorboard]'"
        )


@contextmanager
def tracked(
    options: dict[str, Any], curves: dict[str, list[dict[str, Any]]], backend: str = "wandb", update: int = 0
) -> Iterator[Tracker]:
    """Open the tracker of a run, and close it at the end of the block.

    Args:
        options: arguments of ``wandb.init``; a ``project`` of None turns wandb off. TensorBoard uses ``dir`` and
            ``config``.
        curves: the run's curves up to now. A resumed run that wandb tracks offline logs them again, because wandb
            writes a new file.
        backend: the name of the tracking config.
        update: the number of updates that the run resumes from, or 0. TensorBoard drops later points that an
            interrupted run has written, because they are computed again.
    """
    if backend == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(options["dir"]) / EVENTS
        with SummaryWriter(str(folder), purge_step=update + 1 if update else 0) as writer:
            tracker = _TensorBoardTracker(writer, update)
            if not update:
                tracker.summarize({"config": options["config"]})
            yield tracker
    elif options["project"] is None or (mode := chosen_mode()) == "disabled":
        yield Tracker()
    else:
        with _wandb_run(options, curves, mode) as run:
            yield run


@contextmanager
def _wandb_run(options: dict[str, Any], curves: dict[str, list[dict[str, Any]]], mode: Any) -> Iterator[Tracker]:
    """Open a wandb run, and close it at the end of the block. wandb never prompts and never stops a training run."""
    import wandb  # here, because runs without tracking do not need it

    settings = wandb.Settings(silent=True, console="off", init_timeout=CONNECT_SECONDS, finish_timeout=UPLOAD_SECONDS)
    try:
        run = wandb.init(mode=mode, resume=None if mode == "offline" else "allow", settings=settings, **options)
    except Exception as error:  # such as a server that does not answer, or that refuses the API key
        print(f"wandb: {str(error).splitlines()[0] if str(error) else type(error).__name__}; tracking offline")
        wandb.teardown()  # otherwise the run's id stays in use
        mode, run = "offline", wandb.init(mode="offline", settings=settings, **options)
    tracker = _WandbTracker(run)
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

    If that mode is online, which is wandb's default, but nobody is logged in, return offline. Raises UserError if
    wandb's own settings are invalid.
    """
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes"):  # wandb itself no longer reads it
        return "disabled"
    import wandb  # here, because runs without tracking do not need it

    try:
        mode = wandb.setup(wandb.Settings(silent=True)).settings.mode
    except ValueError as error:
        raise UserError(f"wandb's settings are invalid: {' '.join(str(error).split())}") from error
    if mode in ("offline", "dryrun"):
        return "offline"
    return mode if mode == "disabled" or wandb.login(prompt=False, verify=False) else "offline"
