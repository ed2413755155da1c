"""A run's folder: its lock, its config, its identity and its record."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from normplugins.corpora import Prepared
from normplugins.evaluation.tasks import RUN_TASKS
from normplugins.runs import inventory
from normplugins.runs.cell import PATH_KEYS, changed_settings, flatten
from normplugins.runs.record import FORMAT
from normplugins.training.checkpoint_seal import Identity
from normplugins.training.progress import LOG
from normplugins.training.tracking import EVENTS
from normplugins.utils.errors import InUse, UserError
from normplugins.utils.files import whole_file, write_text
from normplugins.utils.json_file import json_digest, read_json
from normplugins.utils.locks import hold_lock

CONFIG, RECORD = inventory.CONFIG, inventory.RECORD
PROVENANCE = "provenance.json"
WANDB_ID = "wandb_id"
ENGINES = "engines"
CLEARED_BY = "cleared_by"
"""A file with the id of the Slurm job that cleared the folder."""
SCORES = "scores.json"
_NEEDED = (
    "experiment variant seed task._name norm.name data_dir corpus.name model._name evaluate.average common.cpu "
    "dataset.max_tokens hardware.threads optimization.max_update"
)
REMEDIES = {
    RECORD: "delete it, and the same command writes it again",
    SCORES: "delete it, and the same command scores the checkpoints again",
    PROVENANCE: "restore it, or start the run again with force=true",
    CONFIG: "restore it, or start the run again with force=true",
}


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, so that a second run in it is refused.

    Raises:
        InUse: another run holds the lock.
        UserError: the folder cannot be created or written.
    """

    def refuse(process: str) -> None:
        raise InUse(f"another run (process {process}) is working in {directory}")

    with hold_lock(directory / "lock", refuse):
        yield


def completed(config: DictConfig) -> bool:
    """Whether the run's folder holds its record."""
    return read_record(Path(config.run_dir), config) is not None


def clear(directory: Path) -> None:
    """Delete the files of a run from its folder, and nothing else.

    If Slurm has requeued this job, a folder that the job cleared before is left as it is, so that its run resumes.

    Raises:
        UserError: the folder holds files, but no run.
    """
    job, cleared_by = os.environ.get("SLURM_JOB_ID", ""), directory / CLEARED_BY
    if job and "SLURM_RESTART_COUNT" in os.environ and cleared_by.exists() and cleared_by.read_text().strip() == job:
        return
    present = {path.name for path in directory.iterdir() if not path.name.endswith(".tmp")} - {"lock", CLEARED_BY}
    if present and CONFIG not in present:
        raise UserError(f"{directory} holds files, but no run ({CONFIG} is missing): force=true does not delete them")
    for name in ("wandb", EVENTS, ENGINES):
        shutil.rmtree(directory / name, ignore_errors=True)
    saved = ("checkpoint*.pt*", ".checkpoint*.pt.tmp", "crash.pt")  # the second: a killed process was writing it
    outputs = [name for task in RUN_TASKS.values() for name in task.OUTPUTS]
    for pattern in (*saved, RECORD, SCORES, PROVENANCE, WANDB_ID, *outputs, LOG, CONFIG):
        for path in directory.glob(pattern):  # the config last, because a folder without it cannot be cleared
            path.unlink()
    if job:
        write_text(cleared_by, [job])


def save_or_check_config(directory: Path, config: DictConfig) -> None:
    """Write the resolved config beside the checkpoints, or check that they were made with the same settings.

    A run that was refused before it had a checkpoint leaves only its config, which this function replaces. Until a run
    has a record, settings that only affect how its checkpoints are scored may change: the new values are stored, and
    scores computed with the old ones are deleted.

    Raises:
        UserError: the folder holds a run with other settings.
    """
    path = directory / CONFIG
    if not path.exists() or not has_begun(directory):
        _write_config(path, config)
        return
    stored = stored_config(directory)
    before, today = dict(flatten(stored)), dict(flatten(config))
    scoring = {key for key in RUN_TASKS[config.task._name].RESCORABLE if before.get(key) != today.get(key)}
    changed = changed_settings(before, today)
    only_scoring = {text.partition(":")[0] for text in changed} <= {*scoring, "variant"}
    if scoring and only_scoring and not (directory / RECORD).exists():
        stored.evaluate, stored.variant = config.evaluate, config.variant
        (directory / SCORES).unlink(missing_ok=True)
        _write_config(path, stored)
    elif changed:
        raise UserError(
            f"{directory} holds a run with other settings ({'; '.join(changed[:5])}). "
            "Set another run_dir=..., or force=true, which deletes that run and starts again"
        )


def _write_config(path: Path, config: DictConfig) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")


def stored_config(directory: Path) -> DictConfig:
    """Return the config in a run's folder. Raises UserError if there is none, or a damaged one."""
    path = directory / CONFIG
    try:
        stored = OmegaConf.create(path.read_text(encoding="utf-8"))
        settings = dict(flatten(stored)) if isinstance(stored, DictConfig) else {}
    except FileNotFoundError as error:
        raise UserError(f"{directory} holds no run ({CONFIG} is needed)") from error
    except (OSError, ValueError, YAMLError, OmegaConfBaseException, RecursionError, AssertionError) as error:
        raise UserError(f"{path} cannot be read: {REMEDIES[CONFIG]}") from error
    known = settings if str(settings.get("task._name")) in RUN_TASKS else settings.keys() - {"task._name"}
    wrong = next((key for key in _NEEDED.split() if key not in known), None)
    if not isinstance(stored, DictConfig) or wrong:
        raise UserError(f"{path} is not the config of a run ({wrong} is missing or unknown): {REMEDIES[CONFIG]}")
    return stored


def identity(directory: Path, corpus: Prepared) -> Identity:
    """Return what distinguishes the run in a folder from all others; each of its checkpoints stores this identity.

    Raises as :func:`stored_config` does.
    """
    config = stored_config(directory)
    scoring = (*RUN_TASKS[config.task._name].RESCORABLE, "variant")  # these may change until the run has a record
    settings = {key: str(value) for key, value in flatten(config) if key not in (*PATH_KEYS, *scoring)}
    return {
        "cell": f"{config.experiment}/{config.norm.name}",  # the digest covers all other settings
        "seed": config.seed,
        "settings": json_digest(settings)[:16],
        "corpus": corpus_digest(corpus.manifest)[:16],
    }


def read_state(directory: Path, name: str) -> dict[str, Any] | None:
    """Return the content of a run's ``RECORD``, ``SCORES`` or ``PROVENANCE``, or None; UserError if it is damaged."""
    return read_json(directory / name, REMEDIES[name])


def read_record(directory: Path, config: DictConfig) -> dict[str, Any] | None:
    """Return the record of a run, or None. Raises UserError if it is damaged, has been edited, or is of another run."""
    done = read_state(directory, RECORD)
    if done is None:
        return None
    theirs, ours = ([each.get(key) for key in ("experiment", "variant", "seed")] for each in (done, config))
    if theirs != ours:
        path = directory / RECORD
        raise UserError(f"{path} is the record of another run ({theirs} there, {ours} here): {REMEDIES[RECORD]}")
    return done


def finished_run(directory: Path) -> tuple[DictConfig, dict[str, Any]]:
    """Return the config and the record of the finished run in a folder.

    Raises:
        UserError: there is no run, the run is not finished, or its record is damaged or of an older format.
    """
    config = stored_config(directory)
    done = read_record(directory, config)
    if done is None:
        raise UserError(f"the run in {directory} is not finished: its normplugins run command resumes it")
    if done.get("format") != FORMAT:
        raise UserError(
            f"{directory / RECORD} has the format {done.get('format')}, and format {FORMAT} is needed: "
            "start the run again with force=true"
        )
    return config, done


def has_begun(directory: Path) -> bool:
    """Whether the run in a folder has a checkpoint or a record."""
    return any(directory.glob("checkpoint*.pt")) or (directory / RECORD).exists()


def corpus_digest(manifest: dict[str, Any]) -> str:
    """Return a hash of the prepared files of a corpus, from its manifest."""
    return json_digest(manifest["sha256"])


def wandb_id(directory: Path) -> str:
    """Return the run's id in wandb. It is created once, so that a resumed run continues the same wandb run."""
    path = directory / WANDB_ID
    try:
        stored = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        stored = ""
    if not re.fullmatch(r"[0-9a-f]{16}", stored):
        stored = secrets.token_hex(8)
        write_text(path, [stored])
    return stored
