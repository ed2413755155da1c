"""A run's folder: its lock, its config, and the provenance of the calls that worked on it.

A call is one execution of the command; a run that was interrupted has several.
"""

import hashlib
import json
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

from normplugins.corpora import PreparedCorpus, PreparedText, changed_files
from normplugins.evaluation.tasks import KINDS
from normplugins.runs import inventory, record
from normplugins.runs.cell import PLACES, changed_settings, flatten
from normplugins.training.checkpoint_seal import Identity
from normplugins.training.checkpoints import LAST
from normplugins.training.distributed import threads_per_process, world_size
from normplugins.training.progress import LOG
from normplugins.training.tracking import EVENTS
from normplugins.utils.errors import InUse, UserError
from normplugins.utils.files import whole_file
from normplugins.utils.json_file import read_json, write_json
from normplugins.utils.locks import hold_lock

CONFIG, RECORD = inventory.CONFIG, inventory.RECORD
PROVENANCE = "provenance.json"
WANDB_ID = "wandb_id"
ENGINES = "engines"
SCORES = "scores.json"
_NEEDED = (
    *("experiment", "variant", "seed", "task._name", "norm.name", "data_dir", "corpus.name", "model._name"),
    *("evaluate.average", "common.cpu", "dataset.max_tokens", "hardware.threads", "optimization.max_update"),
)
REMEDIES = {
    RECORD: "delete it, and the same command makes it again",
    SCORES: "delete it, and the same command scores the checkpoints again",
    PROVENANCE: "restore it, or start the run again with force=true",
    CONFIG: "restore it, or start the run again with force=true",
}


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, so that a second run in it is refused.

    Raises:
        InUse: another run holds the lock.
        UserError: the folder cannot be created.
    """

    def refuse(process: str) -> None:
        raise InUse(f"another run (process {process}) is at work in {directory}")

    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "lock").touch()
    except OSError as error:
        raise UserError(f"{directory} cannot be the run's folder: {error.strerror}. Set another run_dir") from error
    with hold_lock(directory / "lock", refuse):
        yield


def completed(config: DictConfig) -> bool:
    """Whether the run's folder holds its record."""
    return read_record(Path(config.run_dir), config) is not None


def clear(directory: Path) -> None:
    """Delete the files of a run from its folder, and nothing else.

    Raises:
        UserError: the folder holds files, but no run.
    """
    present = {path.name for path in directory.iterdir()} - {"lock"}
    if present and CONFIG not in present:
        raise UserError(f"{directory} holds files but no run of ours ({CONFIG} is missing): force=true leaves it alone")
    outputs = [name for kind in KINDS.values() for name in kind.OUTPUTS]
    for pattern in ("checkpoint*.pt*", "crash.pt", RECORD, SCORES, PROVENANCE, WANDB_ID, *outputs, LOG, CONFIG):
        for path in directory.glob(pattern):  # the config last, because a folder without it cannot be cleared
            path.unlink()
    for name in ("wandb", EVENTS, ENGINES):
        shutil.rmtree(directory / name, ignore_errors=True)


def save_or_check_config(directory: Path, config: DictConfig) -> None:
    """Write the resolved config beside the checkpoints, or check that it is the one they were made with.

    A run that was refused before it had a checkpoint leaves only its config, which the next call replaces. Until a run
    has a record, the settings that only say how its checkpoints are scored may change: the stored config then gets the
    new ones, and scores with the old ones are deleted.

    Raises:
        UserError: the folder holds a run with other settings.
    """
    path = directory / CONFIG
    if not path.exists() or not _has_begun(directory):
        _write_config(path, config)
        return
    stored = stored_config(directory)
    before, today = dict(flatten(stored)), dict(flatten(config))
    scoring = {key for key in KINDS[config.task._name].RESCORABLE if before.get(key) != today.get(key)}
    changed = changed_settings(before, today)
    only_scoring = {text.partition(":")[0] for text in changed} <= {*scoring, "variant"}
    if scoring and only_scoring and not (directory / RECORD).exists():
        stored.evaluate, stored.variant = config.evaluate, config.variant
        (directory / SCORES).unlink(missing_ok=True)
        _write_config(path, stored)
    elif changed:
        raise UserError(
            f"{directory} holds a run with other settings ({'; '.join(changed[:5])}). "
            "Give this one its own run_dir=..., or start it again with force=true"
        )


def _write_config(path: Path, config: DictConfig) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")


def stored_config(directory: Path) -> DictConfig:
    """Return the config in a run's folder.

    Raises:
        UserError: the folder holds no config, or a damaged one.
    """
    path = directory / CONFIG
    try:
        stored = OmegaConf.create(path.read_text(encoding="utf-8"))
        settings = dict(flatten(stored)) if isinstance(stored, DictConfig) else {}
    except FileNotFoundError as error:
        raise UserError(f"{directory} holds no run ({CONFIG} is needed)") from error
    except (OSError, ValueError, YAMLError, OmegaConfBaseException, RecursionError, AssertionError) as error:
        raise UserError(f"{path} cannot be read: {REMEDIES[CONFIG]}") from error
    wrong = [key for key in _NEEDED if key not in settings or (key == "task._name" and settings[key] not in [*KINDS])]
    if not isinstance(stored, DictConfig) or wrong:
        raise UserError(f"{path} is no config of a run ({wrong[0]} is missing or unknown): {REMEDIES[CONFIG]}")
    return stored


def identity(directory: Path, corpus: PreparedCorpus | PreparedText) -> Identity:
    """Return what tells the run in a folder from all others; its checkpoints name it.

    Raises:
        UserError: the folder holds no config, or a damaged one.
    """
    config = stored_config(directory)
    scoring = (*KINDS[config.task._name].RESCORABLE, "variant")  # these may change when training has ended
    settings = {key: str(value) for key, value in flatten(config) if key not in (*PLACES, *scoring)}
    return {
        "cell": f"{config.experiment}/{config.norm.name}",  # the digest of the settings tells the rest of its name
        "seed": config.seed,
        "settings": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
        "corpus": _digest(corpus.manifest)[:16],
    }


def read_record(directory: Path, config: DictConfig) -> dict[str, Any] | None:
    """Return the record of the run in a folder, or None if there is none yet.

    Raises:
        UserError: the record is damaged, has been edited, or is of another run.
    """
    path = directory / RECORD
    done = read_json(path, REMEDIES[RECORD])
    if done is None:
        return None
    theirs, ours = ([each.get(key) for key in ("experiment", "variant", "seed")] for each in (done, config))
    if theirs != ours:
        raise UserError(f"{path} is the record of another run ({theirs} there, {ours} here): {REMEDIES[RECORD]}")
    return done


def finished_run(directory: Path, otherwise: str) -> tuple[DictConfig, dict[str, Any]]:
    """Return the config and the record of the finished run in a folder.

    Raises:
        UserError: there is no run, its record is damaged, or it is not finished; then the message ends ``otherwise``.
    """
    config = stored_config(directory)
    done = read_record(directory, config)
    if done is None:
        raise UserError(f"the run in {directory} {otherwise}")
    return config, done


def check_corpus(directory: Path, corpus: PreparedCorpus | PreparedText) -> bool:
    """Return whether the folder tells which corpus its run was trained on: in its provenance, or in its record.

    Raises:
        UserError: the run in the folder began with another corpus, so its checkpoints do not fit this one.
    """
    if not _has_begun(directory):
        return False
    digest, done = _notes(directory).get("corpus"), read_json(directory / RECORD, REMEDIES[RECORD])
    if digest is None and done:
        digest = _digest(done["corpus"])
    if digest not in (None, _digest(corpus.manifest)):
        raise UserError(
            f"the corpus in {corpus.folder} has changed since the run in {directory} began: "
            "restore its files, or start the run again with force=true"
        )
    return digest is not None


def verify_corpus(directory: Path, corpus: PreparedCorpus | PreparedText) -> None:
    """Compare the content of all prepared files with the manifest before a result is recorded.

    Raises:
        UserError: a file has changed while the run was at work. If training may have read it, the run is refused until
            it is started again; otherwise the same command scores the checkpoints again.
    """
    changed = changed_files(corpus.folder, corpus.manifest)
    if not changed:
        return
    if any((corpus.folder / name).is_relative_to(corpus.bin_dir) for name in changed):
        write_json(directory / PROVENANCE, _notes(directory) | {"corpus": f"changed: {', '.join(changed)}"})
        remedy = "force=true prepares the corpus again and starts the run again"
    else:
        (directory / SCORES).unlink(missing_ok=True)
        remedy = "the same command prepares the corpus again and scores the checkpoints again"
    raise UserError(
        f"{corpus.folder / changed[0]} has changed since the run in {directory} began, so its result is not recorded: "
        + remedy
    )


def _has_begun(directory: Path) -> bool:
    return any(directory.glob("checkpoint*.pt")) or (directory / RECORD).exists()


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest["sha256"], sort_keys=True).encode()).hexdigest()


def _notes(directory: Path) -> dict[str, Any]:
    return read_json(directory / PROVENANCE, REMEDIES[PROVENANCE]) or {"calls": []}


def record_call_start(directory: Path, config: DictConfig, corpus: PreparedCorpus | PreparedText) -> None:
    """Record the code, kernels, versions, hardware and corpus of this call, and the load of the machine at its start.

    Calls that differ only in the load share one entry.

    Raises:
        UserError: the run in the folder began with another corpus, so its checkpoints do not fit this one.
    """
    check_corpus(directory, corpus)
    notes = _notes(directory) | {"corpus": _digest(corpus.manifest)}
    if not (directory / LAST).exists():
        notes["calls"], notes["load"] = [], []  # without a checkpoint, nothing of the earlier calls is left
    call = {
        "git_commit": record.git_commit(),
        "hardware": record.hardware(config.common.cpu, world_size(config), threads_per_process(config)),
        "versions": record.versions(),
        "kernels": record.kernels(),
    }
    if call not in notes["calls"]:
        notes["calls"].append(call)
    notes.setdefault("load", []).append({"start": record.load()})
    write_json(directory / PROVENANCE, notes)


def record_call_end(directory: Path) -> None:
    """Record the load of the machine at the end of the call that ``record_call_start`` recorded."""
    notes = _notes(directory)
    notes["load"][-1]["end"] = record.load()
    write_json(directory / PROVENANCE, notes)


def provenance(directory: Path) -> dict[str, Any]:
    """Return the commit, kernels, hardware and versions of the first call, and those of different calls in ``later``.

    ``hardware`` contains the machine's ``load`` at each call's ``start`` and, unless it was killed, at its ``end``.
    """
    notes = _notes(directory)
    first, *later = notes["calls"]
    hardware = first["hardware"] | {"load": notes.get("load", [])}
    return {**first, "hardware": hardware, **({"later": later} if later else {})}


def wandb_id(directory: Path) -> str:
    """Return the run's id in wandb. It is created once, so that a resumed run continues the same run there."""
    path = directory / WANDB_ID
    try:
        stored = path.read_bytes().strip() if path.exists() else b""
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): move it away") from error
    if not re.fullmatch(rb"[0-9a-f]{16}", stored):
        stored = secrets.token_hex(8).encode()
        with whole_file(path) as temporary:
            temporary.write_bytes(stored)
    return stored.decode()
