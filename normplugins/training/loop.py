"""The training loop around fairseq's trainer. It resumes exactly, and ends by patience, epochs or updates."""

import math
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

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
from normplugins.training.batches import bucket_by_length, prefetched
from normplugins.training.checkpoint_seal import Identity
from normplugins.training.history import History
from normplugins.training.progress import LOG, Progress
from normplugins.training.statistics_probe import StatisticsProbe, is_on
from normplugins.training.tracking import Tracker
from normplugins.training.trainer import Trainer
from normplugins.utils.errors import NotFinite, UserError
from normplugins.utils.signals import deferred_signals
from normplugins.utils.threads import return_memory


def train(config: DictConfig, fairseq_config: DictConfig, run: Identity, title: str, tracker: Tracker) -> None:
    """Train until the run ends, from the last checkpoint in ``checkpoint.save_dir`` if there is one.

    Each process of a run calls this function. It leaves ``checkpoint_last.pt``, ``checkpoint_best.pt`` and the
    checkpoints of the last ``evaluate.average`` epochs. On SIGTERM or SIGALRM a single process finishes the current
    update and saves a checkpoint before it ends. Several processes, which can only save together, end at once.

    Args:
        config: the run's config; ``fairseq_config`` is the part of it that fairseq's trainer takes.
        run: the identity of the run, which is stored in its checkpoints.
        title: the title of the progress display.
        tracker: receives the curves in rank zero.

    Raises:
        NotFinite: the loss or a gradient is not finite; the message names the layer and the update.
        UserError: a checkpoint cannot be written, or the GPU runs out of memory.
    """
    normplugins.register()
    np.random.seed(config.common.seed)
    utils.set_torch_seed(config.common.seed)
    metrics.reset()
    task = tasks.setup_task(fairseq_config.task)
    if config.train.bucket_by_length:
        bucket_by_length(task, config.dataset.train_subset)
    model = task.build_model(fairseq_config.model)
    if config.train.compile:
        compile_layers(model)
    trainer = Trainer(fairseq_config, task, model, task.build_criterion(fairseq_config.criterion))
    task.load_dataset(config.dataset.valid_subset)
    _Training(config, trainer, run, title, tracker).train()


class _Training:
    """The training loop of one process."""

    def __init__(self, config: DictConfig, trainer: Trainer, run: Identity, title: str, tracker: Tracker) -> None:
        self.config, self.trainer, self.identity, self.tracker = config, trainer, run, tracker
        self.directory = Path(config.checkpoint.save_dir)
        extra_state, self.epoch_itr = checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
        if extra_state:  # fairseq does not restore its running means at the end of an epoch, but the curves need them
            metrics.load_state_dict(extra_state["metrics"])
        self.history = History(**extra_state["history"]) if extra_state else History()
        if len(set(distributed.all_gather(self.history.updates))) > 1:
            raise UserError(f"{self.directory} is not on a file system that all processes of the run share")
        states = extra_state.get("statistics", []) if extra_state else []
        if len(states) == trainer.data_parallel_world_size:  # otherwise every rank begins with rank zero's
            statistics_drift.load_state(trainer.get_model(), states[trainer.data_parallel_rank])
        self.history.parameters = sum(parameter.numel() for parameter in trainer.get_model().parameters())
        examples = len(trainer.task.dataset(config.dataset.train_subset))
        self.history.skipped = examples - sum(map(len, self.epoch_itr.frozen_batches))
        self.started = time.perf_counter() - self.history.wall_seconds
        self.saved_at, self.saved_update = trainer.cumulative_training_time(), self.history.updates
        master = trainer.is_data_parallel_master
        self.probed = is_on(config)
        self.probe = StatisticsProbe(trainer.get_model(), self.probed and master)
        log = self.directory / LOG if master else None
        self.progress = Progress(f"{title} on {_device(trainer)}", self.max_updates(), self.history.updates, log)
        self.stopping: list[int] = []  # the signals that end this process

    def update_freq(self, epoch: int) -> int:
        """Return the number of batches per update in this epoch."""
        per_epoch = self.config.optimization.update_freq
        return int(per_epoch[min(epoch, len(per_epoch)) - 1])

    def max_updates(self) -> int | None:
        """Return the update after which training ends at the latest, or None if only patience can end it."""
        optimization, batches = self.config.optimization, len(self.epoch_itr)
        epochs = range(1, (optimization.max_epoch or 0) + 1)
        of_epochs = sum(math.ceil(batches / self.update_freq(epoch)) for epoch in epochs)
        return min(filter(None, (optimization.max_update, of_epochs)), default=None)

    def train(self) -> None:
        """Train epoch after epoch until the run ends."""
        signals = (signal.SIGTERM, signal.SIGALRM) if self.trainer.data_parallel_world_size == 1 else ()
        with deferred_signals(*signals) as self.stopping, self.progress:
            if self.history.updates:
                self.progress.line(f"resuming from update {self.history.updates} (epoch {self.history.epoch})")
            if skipped := self.history.skipped:
                most = self.config.dataset.max_tokens
                limit = f"a batch (dataset.max_tokens={most}) or the model takes" if most else "the model takes"
                self.progress.line(f"{skipped:,} training examples will be skipped: longer than {limit}")
            while not self.ended():
                self.train_epoch()
                if not self.ended():
                    self.epoch_itr = self.trainer.get_train_iterator(self.epoch_itr.next_epoch_idx, load_dataset=False)

    def ended(self) -> bool:
        """Whether the run has ended, or a signal ends this process."""
        return self.history.stopped_by is not None or bool(self.stopping)

    def train_epoch(self) -> None:
        """Train to the end of the epoch or to ``max_update``, validate and save."""
        shuffle = self.epoch_itr.next_epoch_idx > self.config.dataset.curriculum
        with prefetched(self.epoch_itr, shuffle=shuffle) as batches:
            self.history.epoch = self.epoch_itr.epoch
            updates = iterators.GroupedIterator(batches, self.update_freq(self.history.epoch))
            self.trainer.begin_epoch(self.history.epoch)
            for samples in updates:
                self.update(samples)
                if self.history.updates >= (self.config.optimization.max_update or math.inf):
                    self.history.stopped_by = "max_update"
                    break
                minutes = (self.trainer.cumulative_training_time() - self.saved_at) / 60  # the same in every process
                if updates.has_next() and (self.stopping or minutes >= self.config.train.checkpoint_minutes):
                    self.save()
                    if self.stopping:
                        self.progress.line(f"stopped by a signal; update {self.history.updates} is saved")
                        return
        self.finish_epoch()

    def update(self, samples: list[dict[str, Any]]) -> None:
        """Make one update; after every ``common.log_interval`` updates, add a point to the training curve."""
        history, number, begun = self.history, self.trainer.get_num_updates() + 1, time.perf_counter()
        try:
            with metrics.aggregate("train_inner"), self.probe.watch(number) as probed:
                figures = self.trainer.train_step(samples, raise_oom=True)
        except FloatingPointError as error:
            self.stop_not_finite(samples, str(error))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"update {number}: out of GPU memory. Halve dataset.max_tokens or dataset.batch_size and double "
                "optimization.update_freq, or train.batches_per_update if that is set; an update then has as many "
                "tokens as before"
            ) from error
        if not math.isfinite(figures["loss"]):
            self.stop_not_finite(samples, "the loss is not finite")
        history.updates = self.trainer.get_num_updates()
        self.trainer.get_model().set_num_updates(history.updates)  # updates the norms' running statistics
        history.probe += probed
        sizes = [size for size in (history.largest_nu, self.probe.largest_nu()) if size is not None]
        history.largest_nu = float(np.max(sizes)) if sizes else None  # unlike max(), it returns NaN if one is NaN
        history.words += int(figures["sample_size"])
        history.seconds += time.perf_counter() - begun
        history.wall_seconds = time.perf_counter() - self.started
        self.progress.step(history, figures["loss"])
        if history.updates % self.config.common.log_interval == 0:
            self.add_point()

    def add_point(self) -> None:
        """Add a point to the training curve: the means since the previous point."""
        history, mean = self.history, metrics.get_smoothed_values("train_inner")
        metrics.reset_meters("train_inner")
        point = {
            "loss": float(mean["loss"]),
            "ppl": _finite(mean.get("ppl", math.nan)),
            "lr": self.trainer.get_lr(),
            "gnorm": float(mean["gnorm"]),
            "words_per_second": round(history.words_per_second, 1),
        }
        history.train.append({"update": history.updates, "epoch": history.epoch, **point})
        self.tracker.log("train", point, history.updates)
        self.progress.point(history)

    def finish_epoch(self) -> None:
        """Validate, decide whether the run ends, and save the epoch's checkpoint.

        If ``checkpoint.patience`` ends the run, its last epoch is saved as the last checkpoint, but not as an epoch's
        checkpoint, so the averaged checkpoint leaves it out. The released loop does this too; fairseq's does not.
        """
        history, model = self.history, self.trainer.get_model()
        states = statistics_drift.gather(model)
        drift, drift_line = statistics_drift.measure(model, states)
        # Each process validates a part of the batches, all with the statistics that will be saved.
        with statistics_drift.rank_zero_statistics(model, states), not_compiled():
            figures = self.validate()
            if self.probed and running_statistics(model):
                with using_batch_statistics(model):
                    figures["train_mode_loss"] = _finite(self.validate()["loss"])
        if history.largest_nu is not None:
            figures["largest_nu"], history.largest_nu = _finite(history.largest_nu), None
        figures |= drift
        loss = figures["loss"]
        if not math.isfinite(loss):
            where = f"update {history.updates} (epoch {history.epoch})"
            raise self.not_finite(f"the validation loss is not finite after {where}")
        better = history.best_loss is None or loss < history.best_loss
        history.best_loss = loss if better else history.best_loss
        history.epochs_without_progress = 0 if better else history.epochs_without_progress + 1
        history.valid.append({"update": history.updates, "epoch": history.epoch, **figures})
        self.tracker.log("valid", figures, history.updates)
        ppl = f"  ppl {figures['ppl']:.2f}" if figures.get("ppl") is not None else ""
        self.progress.line(f"epoch {history.epoch:3d}  validation loss {loss:.3f}{ppl}{'  best' if better else ''}")
        if drift_line:
            self.progress.line(f"epoch {history.epoch:3d}  {drift_line}")
        if history.stopped_by is None:
            if 0 < self.config.checkpoint.patience <= history.epochs_without_progress:
                history.stopped_by = "patience"
            elif self.epoch_itr.next_epoch_idx > (self.config.optimization.max_epoch or math.inf):
                history.stopped_by = "max_epoch"
            elif self.trainer.get_lr() <= self.config.optimization.stop_min_lr:
                history.stopped_by = "stop_min_lr"
        self.save(epoch_end=history.stopped_by != "patience", best=better)

    def validate(self) -> dict[str, Any]:
        """Return the loss, in bits as the criterion logs it, and the perplexity on the validation set."""
        epoch_itr = self.trainer.get_valid_iterator(self.config.dataset.valid_subset)
        with (
            metrics.aggregate(new_root=True) as aggregate,
            prefetched(epoch_itr, shuffle=False, set_dataset_epoch=False) as batches,
        ):
            for sample in batches:
                self.trainer.valid_step(sample)
        mean = aggregate.get_smoothed_values()
        others = {name: _finite(mean[name]) for name in ("nll_loss", "ppl") if name in mean}
        return {"loss": float(mean["loss"]), **others}

    def save(self, epoch_end: bool = False, best: bool = False) -> None:
        """Save the training state as the last checkpoint, and at the end of an epoch also as the epoch's checkpoint.

        Raises:
            NotFinite: a parameter or statistic is not finite; the last good checkpoint is not overwritten.
        """
        history, model = self.history, self.trainer.get_model()
        broken = distributed.first_not_none(nonfinite.first_nonfinite_state(model))
        if broken:
            raise self.not_finite(f"update {history.updates}: {broken} is not finite")
        history.wall_seconds = time.perf_counter() - self.started
        extra_state = {
            "train_iterator": self.epoch_itr.state_dict(),
            "history": asdict(history),
            "processes": self.trainer.data_parallel_world_size,
            "seal": {"run": dict(self.identity)},
        }
        if states := statistics_drift.gather(model):
            extra_state["statistics"] = states
        name = f"checkpoint{history.epoch}.pt" if epoch_end else checkpoints.LAST
        also = ([checkpoints.BEST] if best else []) + ([checkpoints.LAST] if epoch_end else [])
        checkpoints.save(self.trainer, self.directory / name, extra_state, also)
        if self.trainer.is_data_parallel_master:
            for old in checkpoints.epoch_checkpoints(self.directory)[: -(self.config.evaluate.average or 1)]:
                old.unlink()
        self.saved_at, self.saved_update = self.trainer.cumulative_training_time(), history.updates
        return_memory()

    def stop_not_finite(self, samples: list[dict[str, Any]], reason: str) -> NoReturn:
        """Raise NotFinite with the name of the first bad tensor, or with fairseq's ``reason`` if none is found."""
        (self.directory / "crash.pt").unlink(missing_ok=True)  # fairseq's copy of the broken state
        with not_compiled():  # hooks need uncompiled layers, whose dropout masks differ from those of the update
            where = distributed.first_not_none(nonfinite.locate(self.trainer, samples))
        what = f"{where} is not finite" if where else reason.rstrip(".")
        raise self.not_finite(f"update {self.trainer.get_num_updates() + 1}: {what}")

    def not_finite(self, what: str) -> NotFinite:
        """Return a NotFinite error that names the last good checkpoint and settings that may help."""
        last = f"The last good checkpoint is {self.directory / checkpoints.LAST} (update {self.saved_update})."
        left = last if self.saved_update else "There is no checkpoint yet."
        return NotFinite(f"{what}. {left} A lower optimization.lr or more lr_scheduler.warmup_updates may help.")


def _device(trainer: Trainer) -> str:
    processes, threads = trainer.data_parallel_world_size, torch.get_num_threads()
    if trainer.cuda:
        return f"{processes} x {torch.cuda.get_device_name()}"
    of_each = f"{threads} thread{'s' if threads > 1 else ''}"
    return f"CPU with {processes} processes of {of_each}" if processes > 1 else f"CPU with {of_each}"


def _finite(value: float) -> float | None:
    """Return a number that JSON can represent: None if ``value`` is not finite."""
    return float(value) if math.isfinite(value) else None
