"""Runs one cell of a table from its config to its record, skipping every step whose output already exists."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from normplugins.corpora import corpus_config, prepare
from normplugins.evaluation import reestimate
from normplugins.evaluation.tasks import run_task
from normplugins.runs import folder, provenance, record
from normplugins.runs.cell import PATH_KEYS, display_name, flatten
from normplugins.runs.check import check
from normplugins.runs.compose import fairseq_config
from normplugins.runs.scoring import Files, describe_scores, score_checkpoints, set_up_process
from normplugins.training import checkpoints, distributed
from normplugins.training.checkpoint_seal import Identity
from normplugins.training.history import History, saved_history
from normplugins.training.loop import train
from normplugins.training.rendezvous import Rendezvous, file_sizes
from normplugins.training.tracking import Tracker, tracked
from normplugins.utils.errors import UserError
from normplugins.utils.json_file import write_json
from normplugins.utils.terminal import say

# Settings that may differ between the ranks of a run: paths on their machines, and settings only rank zero reads.
MAY_DIFFER = re.compile(
    rf"{'|'.join(map(re.escape, PATH_KEYS))}|variant|force|tracking\..*|hardware\.(?!timeout_seconds).*"
)


def run(config: DictConfig) -> None:
    """Complete one run: prepare the corpus, train, average checkpoints, score, record.

    In a run of several processes, each process calls this function. Rank zero carries out every step, and the other
    ranks only take part in training. If no launcher such as torchrun started this process, it launches the processes of
    the run itself.

    Raises:
        UserError: anything that the user can correct, such as another process that works in the run's folder, a folder
            that holds a run with other settings, or a missing GPU.
    """
    member = distributed.launched()
    if member is None:
        check(config)
        if distributed.world_size(config) == 1 or (folder.completed(config) and not config.force):
            run_rank_zero(config)
        else:
            plain = OmegaConf.to_container(config, enum_to_str=True)  # fairseq's enums cannot be pickled
            distributed.launch(run_plain, plain, distributed.world_size(config))
        return
    with Rendezvous(member, config.hardware.timeout_seconds) as rendezvous:
        check(config)
        rendezvous.compare(description(config))
        if member.rank == 0:
            run_rank_zero(config, rendezvous)
            return
        set_up_process(config)
        if message := rendezvous.receive():
            config.task.data, config.checkpoint.save_dir = message["data"], message["save_dir"]
            rendezvous.train_together(partial(train, config, fairseq_config(config), {}, "", Tracker()), config)


def description(config: DictConfig) -> dict[str, Any]:
    """Return what must be the same on all ranks of a run: the settings, the versions of packages, and the commit."""
    settings = {key: value for key, value in flatten(config) if not MAY_DIFFER.fullmatch(key)}
    return {**settings, **record.versions(), "git_commit": record.git_commit()}


def run_plain(config: dict[str, Any]) -> None:
    """Call :func:`run` with a config of plain dictionaries, which a launched process receives."""
    run(OmegaConf.create(config, flags={"struct": True}))


def run_rank_zero(config: DictConfig, rendezvous: Rendezvous | None = None) -> None:
    """Complete a run as its only process, or as rank zero, for which the other ranks wait at the ``rendezvous``."""
    set_up_process(config)
    directory = Path(config.run_dir)
    with folder.locked(directory):
        if config.force:
            folder.clear(directory)
        folder.save_or_check_config(directory, config)
        done = folder.read_record(directory, config)
        if done is None:
            done = complete_steps(config, directory, rendezvous)
        else:
            say(f"{run_title(config)}: already complete, in {directory} (force=true runs it again)")
    say(summary(done))
    print(f"recorded in {directory / folder.RECORD}")


def complete_steps(config: DictConfig, directory: Path, rendezvous: Rendezvous | None) -> dict[str, Any]:
    """Carry out the remaining steps of a run whose folder is locked; write its record to the folder and return it."""
    task = run_task(config.task._name)
    corpus = prepare(corpus_config(config.corpus), Path(config.data_dir))
    task.check_corpus(config, corpus)
    provenance.record_call_start(directory, config, corpus)
    config.task.data, config.checkpoint.save_dir = str(corpus.bin_dir), str(directory)
    run_identity = folder.identity(directory, corpus)
    history = saved_history(directory, run_identity)
    curves, updates = (history.curves, history.updates) if history else ({}, 0)
    with tracked(tracking(config, directory), curves, config.tracking.name, updates) as tracker:
        if history is None or history.stopped_by is None:
            (directory / checkpoints.AVERAGED).unlink(missing_ok=True)  # it can only come from an earlier training
            work = partial(train, config, fairseq_config(config), run_identity, run_title(config), tracker)
            if rendezvous:
                seen = file_sizes(corpus.bin_dir, directory / checkpoints.LAST)
                rendezvous.send({"data": config.task.data, "save_dir": config.checkpoint.save_dir, "files": seen})
                rendezvous.train_together(work, config)
                set_up_process(config)  # the other ranks have ended, so scoring may use their cores
            else:
                work()
            history = saved_history(directory, run_identity)
        assert history is not None
        took = timedelta(seconds=round(history.wall_seconds))
        say(
            f"trained {history.updates} updates in {history.epoch} epochs, {took} "
            f"({history.words_per_second:,.0f} words/s), stopped by {history.stopped_by}"
        )
        averaged = average_epochs(directory, config.evaluate.average, run_identity)
        say(f"{'averaged' if config.evaluate.average else 'scored'} {', '.join(averaged)}")
        scored, files = score_checkpoints(config, corpus, directory)
        statistics = reestimate.provenance(config, directory / files[scored["scored_by"]]["file"], averaged)
        provenance.verify_corpus(directory, corpus)
        provenance.record_call_end(directory)
        trained = {**training_of(history), "averaged": averaged, "statistics": statistics}
        done = make_record(config, corpus.manifest, history, trained, scored, files, provenance.call_history(directory))
        write_json(directory / folder.RECORD, done)
        tracker.summarize({f"test/{metric}": value["score"] for metric, value in scored["metrics"].items()})
        tracker.summarize({"signature": {metric: value["signature"] for metric, value in scored["metrics"].items()}})
    return done


def training_of(history: History) -> dict[str, Any]:
    """Return what a record says about the training alone."""
    return {
        "updates": history.updates,
        "epochs": history.epoch,
        "stopped_by": history.stopped_by,
        "best_valid_loss": history.best_loss,
        "words_per_second": round(history.words_per_second, 1),
        "wall_seconds": round(history.wall_seconds, 1),
        "parameters": history.parameters,
        "skipped": history.skipped,
    }


def make_record(
    config: DictConfig,
    manifest: Mapping[str, Any],
    history: History,
    training: Mapping[str, Any],
    scored: Mapping[str, Any],
    files: Files,
    work: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the record of a run, without absolute paths.

    ``scored`` and ``files`` are what :func:`score_checkpoints` returned, and ``work`` is the run's call history.
    """
    done = {
        "format": record.FORMAT,
        "experiment": config.experiment,
        "variant": config.variant,
        "norm": config.norm.name,
        "seed": config.seed,
        "label": run_label(config),
        **scored,
        "training": training,
        "corpus": manifest,
        "files": {"checkpoints": files, "kernels": work.get("kernels")},
        **{key: value for key, value in work.items() if key != "kernels"},
        "finished_at": record.now(),
        "curves": history.curves,
        **({"statistics_probe": history.probe} if history.probe else {}),
        "config": {key: value for key, value in flatten(config) if key not in PATH_KEYS},
    }
    return record.without_absolute_paths(done)


def average_epochs(directory: Path, count: int | None, run_identity: Identity) -> list[str]:
    """Average the last ``count`` epochs' checkpoints unless they already are; return the names of the averaged files.

    If ``count`` is None, nothing is averaged, and the only name is that of the checkpoint with the best validation
    loss. A damaged average is computed again.

    Raises:
        UserError: a checkpoint is damaged, or is not the run's own checkpoint of that epoch.
    """
    scored = checkpoints.scored(directory, count)
    if count is None:
        return [scored.name]
    paths = checkpoints.epoch_checkpoints(directory)[-count:]
    names = [path.name for path in paths]
    with suppress(UserError):  # a damaged average
        if checkpoints.averaged_from(scored, run_identity) == names:
            return names
    checkpoints.average(paths, scored, run_identity)
    return names


def run_title(config: DictConfig) -> str:
    """Return the short name of a run, with its label if it has one."""
    name, label = f"{config.experiment} {display_name(config.variant, config.seed)}", run_label(config)
    return f"{name} ({label})" if label else name


def run_label(config: DictConfig) -> str:
    """Return a warning to print with the run's scores, such as that its model sees the future; usually empty."""
    return run_task(config.task._name).label(dict(flatten(config)))


def tracking(config: DictConfig, directory: Path) -> dict[str, Any]:
    """Return the arguments of ``wandb.init``; the group is the experiment, and the name is the run's display name."""
    label = run_label(config)
    return {
        "project": config.tracking.project,
        "entity": config.tracking.entity,
        "group": config.experiment,
        "name": display_name(config.variant, config.seed),
        "tags": [config.experiment, config.norm.name, config.corpus.name, *([label] if label else [])],
        "dir": str(directory),
        "id": folder.wandb_id(directory) if config.tracking.project else "",
        "config": OmegaConf.to_container(config, resolve=True, enum_to_str=True),
    }


def summary(done: dict[str, Any]) -> str:
    """Return the lines printed at the end of a run: loss, metrics with their signatures, and the other checkpoints."""
    others = {name: scores["test"] for name, scores in done["scores"].items() if name != done["scored_by"]}
    lines = [
        f"best validation loss: {done['training']['best_valid_loss']:.3f}",
        *describe_scores(run_task(done["config"]["task._name"]), done["metrics"], others, done["config"]),
    ]
    if skipped := done["training"].get("skipped"):
        lines.append(f"  {skipped:,} training examples were skipped: they are longer than a batch or the model allows")
    if note := done["corpus"].get("note"):
        lines.append(f"  corpus: {note}")
    return "\n".join(lines)
