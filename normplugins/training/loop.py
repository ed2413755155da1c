"""Trains one model with fairseq's trainer: resumable to the bit, stopped by patience, epochs or updates."""

import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import numpy as np
import torch
from fairseq import checkpoint_utils, tasks, utils
from fairseq.data import iterators
from fairseq.logging import metrics
from omegaconf import DictConfig

import normplugins
from normplugins.models.layers import compile_layers, not_compiled
from normplugins.norms import running_statistics, using_batch_statistics
from normplugins.training import checkpoints, distributed, nonfinite, statistics_drift
from normplugins.training.batches import bucket_by_length
from normplugins.training.history import History, last_good_checkpoint
from normplugins.training.progress import LOG, Progress
from normplugins.training.statistics_probe import StatisticsProbe
from normplugins.training.tracking import NOWHERE, Tracker, Tracking, tracked
from normplugins.training.trainer import Trainer
from normplugins.utils.errors import NotFinite, UserError


@dataclass(frozen=True)
class TrainSettings:
    """What training needs beside fairseq's own config. Picklable: each process of a run gets a copy."""

    title: str
    checkpoint_minutes: float
    keep_epochs: int
    tracking: Tracking
    bucket_by_length: bool = False
    compile: bool = False
    probe: bool = False


def train(config: DictConfig, settings: TrainSettings) -> None:
    """Train to the end, from the last checkpoint in ``checkpoint.save_dir`` if there is one.

    Called once in each process of a run. Leaves ``checkpoint_last.pt``, ``checkpoint_best.pt`` and the last
    ``settings.keep_epochs`` epochs' checkpoints.

    Raises:
        NotFinite: the loss or a gradient is not finite (the message names the layer and the update).
        UserError: a checkpoint cannot be written.
    """
    normplugins.register()
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    logging.getLogger("fairseq.checkpoint_utils").setLevel(logging.CRITICAL)  # its traceback: we say it in a line
    np.random.seed(config.common.seed)
    utils.set_torch_seed(config.common.seed)
    metrics.reset()
    task = tasks.setup_task(config.task)
    if settings.bucket_by_length:
        bucket_by_length(task, config.dataset.train_subset)
    model = task.build_model(config.model)
    if settings.compile:
        compile_layers(model)
    trainer = Trainer(config, task, model, task.build_criterion(config.criterion))
    for subset in config.dataset.valid_subset.split(","):
        task.load_dataset(subset)
    extra_state, epoch_itr = checkpoint_utils.load_checkpoint(config.checkpoint, trainer)
    if extra_state:  # fairseq forgets its means at the end of an epoch; the curve's points know no epochs
        metrics.load_state_dict(extra_state["metrics"])
    history = History(**extra_state["history"]) if extra_state else History()
    if len(set(distributed.all_gather(history.updates))) > 1:
        raise UserError(f"{config.checkpoint.save_dir} is not on a file system that all processes of the run share")
    if extra_state and (states := extra_state.get("statistics")):
        statistics_drift.load_state(model, states[trainer.data_parallel_rank])
    history.parameters = sum(parameter.numel() for parameter in model.parameters())
    master = trainer.is_data_parallel_master
    run = _Run(config, settings, trainer, epoch_itr, history)
    title = f"{settings.title} on {run.device}"
    log = run.directory / LOG if master else None
    with Progress(title, run.most_updates(), history.updates, silent=not master, log=log) as progress:
        if extra_state:
            progress.line(f"resuming from update {history.updates} (epoch {history.epoch})")
        with tracked(settings.tracking if master else NOWHERE) as tracker:
            tracker.replay(history.curves)
            run.to_the_end(progress, tracker)


class _Run:
    """One process's training: the objects that every step needs."""

    def __init__(
        self, config: DictConfig, settings: TrainSettings, trainer: Trainer, epoch_itr: Any, history: History
    ) -> None:
        self.config = config
        self.settings = settings
        self.trainer = trainer
        self.epoch_itr = epoch_itr
        self.history = history
        self.directory = Path(config.checkpoint.save_dir)
        self.probe = StatisticsProbe(trainer.get_model(), settings.probe and trainer.is_data_parallel_master)
        self.started = time.perf_counter() - history.wall_seconds
        # Rank zero's time, which differs from the others' before the first update: all ranks save at the same updates.
        self.saved_at = distributed.all_gather(trainer.cumulative_training_time())[0]

    @property
    def device(self) -> str:
        if self.trainer.cuda:
            return f"{self.trainer.data_parallel_world_size} x {torch.cuda.get_device_name()}"
        size, threads = self.trainer.data_parallel_world_size, torch.get_num_threads()
        return f"CPU with {f'{size} processes of ' if size > 1 else ''}{threads} thread{'s' if threads > 1 else ''}"

    def update_freq(self, epoch: int) -> int:
        """Batches per update in this epoch."""
        per_epoch = self.config.optimization.update_freq
        return int(per_epoch[min(epoch, len(per_epoch)) - 1])

    def most_updates(self) -> int | None:
        """The update after which training ends at the latest, or None when only patience can end it."""
        limits = [self.config.optimization.max_update] if self.config.optimization.max_update else []
        if self.config.optimization.max_epoch:
            batches = len(self.epoch_itr)
            limits.append(
                sum(
                    math.ceil(batches / self.update_freq(epoch))
                    for epoch in range(1, self.config.optimization.max_epoch + 1)
                )
            )
        return min(limits) if limits else None

    def to_the_end(self, progress: Progress, tracker: Tracker) -> None:
        """Train epoch after epoch until something stops it."""
        while self.history.stopped_by is None:
            if self.trainer.get_lr() <= self.config.optimization.stop_min_lr and self.history.updates:
                self.history.stopped_by = "stop_min_lr"
                self.save()
                return
            self.train_epoch(progress, tracker)
            self.epoch_itr = self.trainer.get_train_iterator(self.epoch_itr.next_epoch_idx, load_dataset=False)

    def train_epoch(self, progress: Progress, tracker: Tracker) -> None:
        """Train to the end of the epoch (or to ``max_update``), validate, save."""
        batches = self.epoch_itr.next_epoch_itr(shuffle=self.epoch_itr.next_epoch_idx > self.config.dataset.curriculum)
        self.history.epoch = self.epoch_itr.epoch
        updates = iterators.GroupedIterator(batches, self.update_freq(self.epoch_itr.epoch))
        self.trainer.begin_epoch(self.epoch_itr.epoch)
        for samples in updates:
            self.update(samples, progress, tracker)
            if self.history.updates >= (self.config.optimization.max_update or math.inf):
                self.history.stopped_by = "max_update"
                break
            minutes = (self.trainer.cumulative_training_time() - self.saved_at) / 60  # the same in every process
            if updates.has_next() and minutes >= self.settings.checkpoint_minutes:
                self.save()
        self.finish_epoch(progress, tracker)

    def update(self, samples: list[dict[str, Any]], progress: Progress, tracker: Tracker) -> None:
        """One update, logged each ``common.log_interval``."""
        begun = time.perf_counter()
        try:
            with metrics.aggregate("train_inner"), self.probe.watch(self.trainer.get_num_updates() + 1) as probed:
                figures = self.trainer.train_step(samples, raise_oom=True)
        except FloatingPointError as error:
            self.stop_not_finite(samples, str(error))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"update {self.trainer.get_num_updates() + 1}: out of GPU memory. Halve dataset.max_tokens or "
                "dataset.batch_size and double optimization.update_freq, or train.batches_per_update where that is "
                "set: an update then has as many tokens as before"
            ) from error
        if figures is not None and not math.isfinite(figures["loss"]):
            self.stop_not_finite(samples, "the loss is not finite")
        if figures is None:  # a batch that fairseq skipped, after an overflow of half precision
            return
        history = self.history
        history.updates = self.trainer.get_num_updates()
        self.trainer.get_model().set_num_updates(history.updates)  # the norms' statistics take their step
        history.probe += probed
        history.words += int(figures["sample_size"])
        history.seconds += time.perf_counter() - begun
        history.wall_seconds = time.perf_counter() - self.started
        progress.step(history.updates, figures["loss"], history.words_per_second)
        if history.updates % self.config.common.log_interval == 0:
            mean = metrics.get_smoothed_values("train_inner")
            metrics.reset_meters("train_inner")
            point = {
                "loss": float(mean["loss"]),
                "ppl": _finite(mean.get("ppl", math.nan)),
                "lr": self.trainer.get_lr(),
                "gnorm": float(mean["gnorm"]),
                "words_per_second": round(history.words_per_second, 1),
            }
            history.train.append({"update": history.updates, "epoch": history.epoch, **point})
            tracker.log("train", point, history.updates)
            pace = history.wall_seconds / history.updates
            progress.figures(
                history.epoch, history.updates, point["loss"], point["ppl"], history.words_per_second, pace
            )

    def finish_epoch(self, progress: Progress, tracker: Tracker) -> None:
        """Validate, decide whether to stop, save the epoch's checkpoint.

        As in the released loop, and not in fairseq's, the epoch by which ``checkpoint.patience`` ends the run is not
        saved as an epoch, so that the mean is over the epochs before it: the last checkpoint alone holds its state.
        """
        history = self.history
        states = statistics_drift.gather(self.trainer.get_model())
        drifted = statistics_drift.measure(self.trainer.get_model(), states)
        # each validates a part, all with what will be saved
        with statistics_drift.rank_zero_statistics(self.trainer.get_model(), states), not_compiled():
            figures = self.validate() | self.validate_in_training_mode() | (drifted.figures if drifted else {})
        loss = figures["loss"]
        if not math.isfinite(loss):
            raise NotFinite(
                f"the validation loss is not finite after update {history.updates} (epoch {history.epoch}). "
                f"{last_good_checkpoint(self.directory)}"
            )
        better = history.best_loss is None or loss < history.best_loss
        history.best_loss = loss if better else history.best_loss
        history.epochs_without_progress = 0 if better else history.epochs_without_progress + 1
        history.valid.append({"update": history.updates, "epoch": history.epoch, **figures})
        tracker.log("valid", figures, history.updates)
        mark = "  best" if better else ""
        ppl = f"  ppl {figures['ppl']:.2f}" if figures.get("ppl") is not None else ""
        progress.line(f"epoch {history.epoch:3d}  validation loss {loss:.3f}{ppl}{mark}")
        if drifted:
            progress.line(f"epoch {history.epoch:3d}  {drifted}")
        if history.stopped_by is None:
            if 0 < self.config.checkpoint.patience <= history.epochs_without_progress:
                history.stopped_by = "patience"
            elif self.epoch_itr.next_epoch_idx > (self.config.optimization.max_epoch or math.inf):
                history.stopped_by = "max_epoch"
        self.save(epoch_end=history.stopped_by != "patience", best=better)

    def validate(self) -> dict[str, Any]:
        """Loss (in bits, as the criterion counts it) and perplexity on the first validation set."""
        subset = self.config.dataset.valid_subset.split(",")[0]
        batches = self.trainer.get_valid_iterator(subset).next_epoch_itr(shuffle=False, set_dataset_epoch=False)
        with metrics.aggregate(new_root=True) as aggregate:
            for sample in batches:
                self.trainer.valid_step(sample)
        mean = aggregate.get_smoothed_values()
        return {
            "loss": float(mean["loss"]),
            **{name: _finite(mean[name]) for name in ("nll_loss", "ppl") if name in mean},
        }

    def validate_in_training_mode(self) -> dict[str, Any]:
        """The validation loss where norms divide by what they do in training; nothing if no norm makes a difference."""
        model = self.trainer.get_model()
        if not (self.settings.probe and running_statistics(model)):
            return {}
        with using_batch_statistics(model):
            return {"train_mode_loss": _finite(self.validate()["loss"])}

    def save(self, epoch_end: bool = False, best: bool = False) -> None:
        """Save the whole state: as the epoch's checkpoint and the last one, or as the last one only.

        Raises:
            NotFinite: a parameter or statistic is not finite: nothing is written over the last good checkpoint.
        """
        broken = distributed.first_not_none(nonfinite.first_nonfinite_state(self.trainer.get_model()))
        if broken:
            raise NotFinite(
                f"update {self.history.updates}: {broken} is not finite. {last_good_checkpoint(self.directory)}"
            )
        self.history.wall_seconds = time.perf_counter() - self.started
        extra_state = {"train_iterator": self.epoch_itr.state_dict(), "history": asdict(self.history)}
        if states := statistics_drift.gather(self.trainer.get_model()):
            extra_state["statistics"] = utils.move_to_cpu(states)
        name = f"checkpoint{self.history.epoch}.pt" if epoch_end else checkpoints.LAST
        also = ([checkpoints.BEST] if best else []) + ([checkpoints.LAST] if epoch_end else [])
        checkpoints.save(self.trainer, self.directory / name, extra_state, also)
        if self.trainer.is_data_parallel_master:
            checkpoints.keep_newest(self.directory, self.settings.keep_epochs)
        self.saved_at = self.trainer.cumulative_training_time()

    def stop_not_finite(self, samples: list[dict[str, Any]], reason: str) -> NoReturn:
        """End the run with a line that says where, and keep what was good. ``reason``: what fairseq said."""
        (self.directory / "crash.pt").unlink(missing_ok=True)  # fairseq's copy of the broken state
        update = self.trainer.get_num_updates() + 1
        with not_compiled():  # where no hook would be called; other dropout masks than the step's, then
            where = distributed.first_not_none(nonfinite.locate(self.trainer, samples))
        what = f"{where} is not finite" if where else reason.rstrip(".")
        raise NotFinite(f"update {update}: {what}. {last_good_checkpoint(self.directory)}")


def _finite(value: float) -> float | None:
    """A number as JSON holds it: None for what is not finite."""
    return float(value) if math.isfinite(value) else None
