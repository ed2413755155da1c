"""Runs one cell of a table from its config to its record, skipping every step whose output is already there."""

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
from omegaconf import DictConfig, OmegaConf

from normplugins.corpora import PreparedCorpus, PreparedText, corpus_config, prepare
from normplugins.evaluation import reestimate
from normplugins.evaluation.tasks import kind_of
from normplugins.runs import folder, record
from normplugins.runs.cell import PLACES, flatten
from normplugins.runs.check import check
from normplugins.runs.compose import fairseq_config
from normplugins.runs.scoring import Scored, publish_translations, score_checkpoints
from normplugins.training import checkpoints, distributed
from normplugins.training.history import History, saved_history
from normplugins.training.loop import train
from normplugins.training.progress import clock
from normplugins.training.tracking import Tracker, tracked
from normplugins.utils.threads import use_threads
from normplugins.utils.worker_processes import available_cores


def run(config: DictConfig) -> dict[str, Any] | None:
    """Complete one run: prepare the corpus, train, average checkpoints, score, record.

    In a run of several processes each of them calls this function. Rank zero does everything, the other ranks train
    with it. A process that no launcher such as torchrun started launches them itself.

    Returns:
        The record, as written to ``results/runs/<experiment>/<variant>/seed<k>.json``; None in the other ranks.

    Raises:
        UserError: anything the user can put right, such as another process at work in the run's folder, a folder that
            holds a run with other settings, or a GPU that is not there.
    """
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    check(config)
    member = distributed.launched()
    if member is None:
        if distributed.world_size(config) == 1 or (folder.completed(config) and not config.force):
            return run_rank_zero(config)
        plain = OmegaConf.to_container(config, enum_to_str=True)  # fairseq's enums cannot be pickled
        return distributed.launch(run_plain, plain, distributed.world_size(config))
    rendezvous = distributed.Rendezvous(member)
    if member.rank:
        run_other_rank(config, rendezvous)
        return None
    with rendezvous.rank_zero():
        return run_rank_zero(config, rendezvous)


def run_plain(config: dict[str, Any]) -> dict[str, Any] | None:
    """:func:`run` with a config of plain dictionaries, as a launched process receives it."""
    return run(OmegaConf.create(config, flags={"struct": True}))


def run_other_rank(config: DictConfig, rendezvous: distributed.Rendezvous) -> None:
    """Train with rank zero, which prepares, writes and records; do nothing if there is nothing to train."""
    message = rendezvous.receive()
    if message:
        config.task.data, config.checkpoint.save_dir = message["data"], message["save_dir"]
        rendezvous.train_together(partial(train, config, fairseq_config(config), "", Tracker()), config)


def run_rank_zero(config: DictConfig, rendezvous: distributed.Rendezvous | None = None) -> dict[str, Any]:
    """Complete a run, as its only process or as the rank for which the others wait at the ``rendezvous``."""
    set_threads(config)
    directory = Path(config.run_dir)
    result = result_path(config)
    name = run_title(config)
    with folder.locked(directory):
        if config.force and "SLURM_RESTART_COUNT" not in os.environ:  # a requeued job resumes
            folder.clear(directory)
        folder.save_or_check_config(directory, config)
        done = record.read(directory / folder.RECORD)
        if done is None:
            done = complete_steps(config, directory, name, rendezvous)
        else:
            print(f"{name}: already complete, in {directory} (force=true runs it again)")
        publish_translations(done, directory, result.parent)
        if record.read(result) != done:
            record.write(result, done)
    print(summary(done))
    print(f"recorded in {result}")
    return done


def complete_steps(
    config: DictConfig, directory: Path, name: str, rendezvous: distributed.Rendezvous | None = None
) -> dict[str, Any]:
    """Carry out the steps that are left of a run whose folder is locked; return its record, written to the folder."""
    kind = kind_of(config.task._name)
    corpus = prepare(corpus_config(config.corpus), Path(config.data_dir))
    kind.check_corpus(config, corpus)
    folder.record_call_start(directory, config, corpus)
    config.task.data = str(corpus.bin_dir)
    config.checkpoint.save_dir = str(directory)
    before = saved_history(directory)
    with tracked(tracking(config, directory), before.curves if before else {}) as tracker:
        history = trained(config, directory, name, before, tracker, rendezvous)
        print(
            f"trained {history.updates} updates in {history.epoch} epochs, {clock(history.wall_seconds)} "
            f"({history.words_per_second:,.0f} words/s), stopped by {history.stopped_by}"
        )
        averaged = made_from(directory, config.evaluate.average)
        print(f"{'averaged' if config.evaluate.average else 'scored'} {', '.join(averaged)}")
        scored = score_checkpoints(config, corpus, directory)
        statistics = reestimate.provenance(config, scored.checkpoint, averaged)
        folder.record_call_end(directory)
        done = compose_record(config, corpus, history, scored, averaged, statistics)
        record.write(directory / folder.RECORD, done)
        tracker.summarize({f"test/{metric}": value["score"] for metric, value in scored.metrics.items()})
        tracker.summarize({"signature": {metric: value["signature"] for metric, value in scored.metrics.items()}})
    return done


def set_threads(config: DictConfig) -> None:
    """Let PyTorch use ``hardware.threads`` threads, or every core available to this process."""
    use_threads(config.hardware.threads or available_cores())


def trained(
    config: DictConfig,
    directory: Path,
    name: str,
    history: History | None,
    tracker: Tracker,
    rendezvous: distributed.Rendezvous | None = None,
) -> History:
    """Train to the end, unless that is done, and return the history.

    Args:
        config: the run's config.
        directory: the run's folder.
        name: the title of the progress display.
        history: what the folder's last checkpoint holds; reading it takes seconds for a large model.
        tracker: receives the curves.
        rendezvous: where the other ranks wait.
    """
    if history is None or history.stopped_by is None:
        work = partial(train, config, fairseq_config(config), name, tracker)
        if rendezvous:
            rendezvous.send({"data": config.task.data, "save_dir": config.checkpoint.save_dir})
            rendezvous.train_together(work, config)
            set_threads(config)  # the other ranks have ended: scoring may use their cores
        else:
            work()
        history = saved_history(directory)
    assert history is not None
    assert history.stopped_by is not None
    return history


def made_from(directory: Path, count: int | None) -> list[str]:
    """The names of the checkpoints that the one that the recipe is scored by was made from.

    It is the mean of the last ``count`` epochs, made unless that is done; for None the one with the best validation
    loss.
    """
    scored = checkpoints.scored(directory, count)
    if count is None:
        return [scored.name]
    paths = checkpoints.epoch_checkpoints(directory)[-count:]
    names = [path.name for path in paths]
    if checkpoints.averaged_from(scored) != names:
        checkpoints.average(paths, scored)
    return names


def run_title(config: DictConfig) -> str:
    """What a run is called, and what a reader of any figure of it has to know."""
    name, label = f"{config.experiment} {config.variant} seed {config.seed}", run_label(config)
    return f"{name} ({label})" if label else name


def run_label(config: DictConfig) -> str:
    """What a reader of any figure of this run has to know; mostly nothing."""
    label: str = kind_of(config.task._name).label(dict(flatten(config)))
    return label


def tracking(config: DictConfig, directory: Path) -> dict[str, Any]:
    """What the run is called in wandb: group = experiment, name = norm (with what else differs) and seed."""
    label = run_label(config)
    return {
        "project": config.tracking.project,
        "entity": config.tracking.entity,
        "group": config.experiment,
        "name": f"{config.variant}-seed{config.seed}",
        "tags": [config.experiment, config.norm.name, config.corpus.name, *([label] if label else [])],
        "dir": str(directory),
        "id": folder.wandb_id(directory) if config.tracking.project else "",
        "config": OmegaConf.to_container(config, resolve=True, enum_to_str=True),
    }


def result_path(config: DictConfig) -> Path:
    """Where the record of this run goes."""
    return Path(config.results_dir) / "runs" / config.experiment / config.variant / f"seed{config.seed}.json"


def compose_record(
    config: DictConfig,
    corpus: PreparedCorpus | PreparedText,
    history: History,
    scored: Scored,
    averaged: list[str],
    statistics: dict[str, Any] | None,
) -> dict[str, Any]:
    """Everything that the run's number depends on, figures first and the whole config last.

    ``corpus`` has the sha256 of the corpus's files, ``files`` that of the checkpoints and of the compiled kernels.
    """
    work = folder.provenance(Path(config.run_dir))
    return {
        "format": record.FORMAT,
        "experiment": config.experiment,
        "variant": config.variant,
        "norm": config.norm.name,
        "seed": config.seed,
        "label": run_label(config),
        "scored_by": scored.by,
        "metrics": scored.metrics,
        "scores": scored.scores,
        "translations": scored.translations,
        "training": {
            "updates": history.updates,
            "epochs": history.epoch,
            "stopped_by": history.stopped_by,
            "best_valid_loss": history.best_loss,
            "words_per_second": round(history.words_per_second, 1),
            "wall_seconds": round(history.wall_seconds, 1),
            "parameters": history.parameters,
            "averaged": averaged,
            "statistics": statistics,
        },
        "decoding": scored.decoding,
        "corpus": corpus.manifest,
        "files": {"checkpoints": scored.files, "kernels": work.pop("kernels", None)},
        **work,
        "finished_at": record.now(),
        "curves": history.curves,
        **({"statistics_probe": history.probe} if history.probe else {}),
        "config": {key: value for key, value in flatten(config) if key not in PLACES},
    }


def summary(done: dict[str, Any]) -> str:
    """The lines a user waits for, with the signatures that make them comparable, and a line a further checkpoint."""
    kind = kind_of(done["config"]["task._name"])
    lines = [f"best validation loss: {done['training']['best_valid_loss']:.3f}"]
    for metric, value in done["metrics"].items():
        lines.append(f"{metric}: {kind.describe(value)}")
        lines.append(f"  {value['signature']}")
    lines += [
        f"{name}: {kind.brief(scores['test'])}"
        for name, scores in done.get("scores", {}).items()
        if name != done["scored_by"]
    ]
    if label := kind.label(done["config"]):
        lines.append(f"  {label}")
    if note := done["corpus"].get("note"):
        lines.append(f"  corpus: {note}")
    return "\n".join(lines)
