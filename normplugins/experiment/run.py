"""Runs one cell of a table from its config to its record, skipping every step whose output is already there."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig, OmegaConf

from normplugins.corpora import CorpusConfig, PreparedCorpus, prepare
from normplugins.corpora.files import disk_errors
from normplugins.errors import UserError
from normplugins.experiment import checkpoints, record
from normplugins.experiment.config import fairseq_config, flatten, norm_config
from normplugins.experiment.evaluate import Score, Search, as_metrics, evaluate
from normplugins.experiment.progress import clock
from normplugins.experiment.tracking import Tracking, tracked
from normplugins.experiment.train import History, TrainSettings, saved_history, train
from normplugins.models.config import build_side_norm, resolve_config
from normplugins.norms import build_norm

# Where things lie on one machine: no part of what a record says.
PLACES = ("data_dir", "results_dir", "run_dir", "task.data", "checkpoint.save_dir")
# Settings that may change between two calls of one run without making another run of it.
FREE_TO_CHANGE = (
    "hardware",
    "common.cpu",
    "tracking",
    "train.checkpoint_minutes",
    "force",
    *PLACES,
)


def run(config: DictConfig) -> dict[str, Any]:
    """Bring one run to its end: prepare the corpus, train, average, translate, score, record.

    Returns:
        The record, as written to ``results/runs/<experiment>/<variant>/seed<k>.json``.

    Raises:
        UserError: anything the user can put right, among them: another process works in the run's folder, the folder
            holds a run with other settings, ``hardware`` asks for a GPU that is not there.
    """
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    check(config)
    set_threads(config)
    directory = Path(config.run_dir)
    result = result_path(config)
    name = f"{config.experiment} {config.variant} seed {config.seed}"
    with disk_errors(directory), locked(directory):
        if config.force:
            for path in directory.iterdir():
                if path.name != "lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            result.unlink(missing_ok=True)
        remember_settings(config, directory)
        done = record.read(result)
        if done is not None and (directory / checkpoints.AVERAGED).exists():
            print(f"{name}: already complete, {result} (force=true runs it again)")
            print(summary(done))
            return done
        corpus = prepare(CorpusConfig.from_mapping(config.corpus), Path(config.data_dir))
        config.task.data = str(corpus.bin_dir)
        config.checkpoint.save_dir = str(directory)
        if config.distributed_training.distributed_world_size > 1:
            trained(config, directory, name)  # the first of its processes opens the wandb run: none may be open here
        with tracked(tracking(config, directory)) as tracker:
            history = trained(config, directory, name)
            print(
                f"trained {history.updates} updates in {history.epoch} epochs, {clock(history.wall_seconds)} "
                f"({history.words_per_second:,.0f} words/s), stopped by {history.stopped_by}"
            )
            averaged = averaged_checkpoint(directory, config.evaluate.average)
            print(f"averaged {', '.join(averaged)}")
            scores: dict[str, Score] = {}
            decoding: dict[str, float] = {}
            if config.evaluate.translate:
                scores, decoding = evaluate(
                    directory / checkpoints.AVERAGED, corpus, search(config), directory, config.common.cpu
                )
            done = compose_record(config, corpus, history, scores, decoding, averaged)
            record.write(result, done)
            tracker.summarize({f"test/{metric}": value.score for metric, value in scores.items()})
            tracker.summarize({"signature": {metric: value.signature for metric, value in scores.items()}})
    print(summary(done))
    print(f"recorded in {result}")
    return done


def check(config: DictConfig) -> None:
    """Refuse what cannot work before anything is downloaded or trained."""
    try:
        build_norm(norm_config(config.norm), dim=config.model.encoder_embed_dim)
    except ValueError as error:
        raise UserError(f"norm: {error}") from error
    model = resolve_config(config.model)
    for side in ("encoder", "decoder"):
        build_side_norm(model, side)
    CorpusConfig.from_mapping(config.corpus).check()
    if config.hardware.name.startswith("gpu") and not torch.cuda.is_available():
        raise UserError(f"hardware={config.hardware.name}, but PyTorch sees no GPU here. hardware=cpu runs without one")
    if not (config.checkpoint.patience > 0 or config.optimization.max_epoch or config.optimization.max_update):
        raise UserError("nothing ends this run: set checkpoint.patience, optimization.max_epoch or .max_update")


def set_threads(config: DictConfig) -> None:
    """Let PyTorch use ``hardware.threads`` threads, or every core that this process may use."""
    torch.set_num_threads(config.hardware.threads or len(os.sched_getaffinity(0)))


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the run's folder: a second run in it is refused. The lock goes with the process, however it ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / "lock").open("a+")
    except OSError as error:
        raise UserError(
            f"{directory} cannot be the run's folder: {error.strerror}. Choose another run_dir=..."
        ) from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise UserError(f"another run (process {lock.read().strip()}) is at work in {directory}") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def remember_settings(config: DictConfig, directory: Path) -> None:
    """Write the resolved config beside the checkpoints, or check that it is the one they were made with."""
    path = directory / "config.yaml"
    if path.exists():
        before = dict(flatten(OmegaConf.create(path.read_text(encoding="utf-8"))))
        today = dict(flatten(config))
        changed = [
            f"{key}: {before.get(key)} there, {today.get(key)} now"
            for key in sorted(before.keys() | today.keys())
            if before.get(key) != today.get(key) and not key.startswith(FREE_TO_CHANGE)
        ]
        if changed:
            raise UserError(
                f"{directory} holds a run with other settings ({'; '.join(changed[:5])}). "
                "Give this one its own run_dir=..., or start it again with force=true"
            )
    else:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
        temporary.replace(path)


def trained(config: DictConfig, directory: Path, name: str) -> History:
    """Train unless that is done, in as many processes as the config asks for; returns what was done."""
    history = saved_history(directory)
    if history is None or history.stopped_by is None:
        settings = TrainSettings(
            name, config.train.checkpoint_minutes, config.evaluate.average, tracking(config, directory)
        )
        distributed_utils.call_main(fairseq_config(config), train, settings=settings)
        history = saved_history(directory)
    assert history is not None
    return history


def averaged_checkpoint(directory: Path, count: int) -> list[str]:
    """Average the last ``count`` epochs' checkpoints unless that is done; returns their names."""
    paths = checkpoints.epoch_checkpoints(directory)[-count:]
    names = [path.name for path in paths]
    if checkpoints.averaged_from(directory / checkpoints.AVERAGED) != names:
        checkpoints.average(paths, directory / checkpoints.AVERAGED)
    return names


def search(config: DictConfig) -> Search:
    """The beam search of the config's ``evaluate`` section."""
    section = config.evaluate
    return Search(section.beam, section.length_penalty, section.max_length_a, section.max_length_b, section.max_tokens)


def tracking(config: DictConfig, directory: Path) -> Tracking:
    """What the run is called in wandb: group = experiment, name = norm (with what else differs) and seed."""
    plain = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return Tracking(
        project=config.tracking.project,
        entity=config.tracking.entity,
        group=config.experiment,
        name=f"{config.variant}-seed{config.seed}",
        tags=[config.experiment, config.norm.name, config.corpus.name],
        directory=directory,
        config={str(key): value for key, value in plain.items()},
    )


def result_path(config: DictConfig) -> Path:
    """Where the record of this run goes."""
    return Path(config.results_dir) / "runs" / config.experiment / config.variant / f"seed{config.seed}.json"


def compose_record(
    config: DictConfig,
    corpus: PreparedCorpus,
    history: History,
    scores: dict[str, Score],
    decoding: dict[str, float],
    averaged: list[str],
) -> dict[str, Any]:
    """Everything that the run's number depends on, figures first and the whole config last."""
    return {
        "format": 1,
        "experiment": config.experiment,
        "variant": config.variant,
        "norm": config.norm.name,
        "seed": config.seed,
        "metrics": as_metrics(scores),
        "training": {
            "updates": history.updates,
            "epochs": history.epoch,
            "stopped_by": history.stopped_by,
            "best_valid_loss": history.best_loss,
            "words_per_second": round(history.words_per_second, 1),
            "wall_seconds": round(history.wall_seconds, 1),
            "parameters": history.parameters,
            "averaged": averaged,
        },
        "decoding": decoding,
        "corpus": corpus.manifest,
        "hardware": record.hardware(config.common.cpu, config.distributed_training.distributed_world_size),
        "versions": record.versions(),
        "git_commit": record.git_commit(),
        "finished_at": record.now(),
        "curves": {"train": history.train, "valid": history.valid},
        "config": {key: value for key, value in flatten(config) if key not in PLACES},
    }


def summary(done: dict[str, Any]) -> str:
    """The line a user waits for, and the signatures that make it comparable."""
    lines = [f"best validation loss: {done['training']['best_valid_loss']:.3f}"]
    for metric, value in done["metrics"].items():
        lines.append(f"{metric}: {Score(**value)}")
        lines.append(f"  {value['signature']}")
    note = done["corpus"].get("note")
    return "\n".join([*lines, *([f"  corpus: {note}"] if note else [])])
