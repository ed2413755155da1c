"""A run's folder: its lock, its config, and the provenance of the calls that worked on it."""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from normplugins.corpora import PreparedCorpus, PreparedText
from normplugins.evaluation.tasks import KINDS
from normplugins.runs import record
from normplugins.runs.cell import changes_result, flatten, same_setting
from normplugins.training.checkpoints import LAST
from normplugins.training.distributed import threads_per_process, world_size
from normplugins.training.progress import LOG
from normplugins.utils.errors import InUse, UserError
from normplugins.utils.files import whole_file
from normplugins.utils.locks import hold_lock

CONFIG = "config.yaml"
PROVENANCE = "provenance.json"
WANDB_ID = "wandb_id"
RECORD = "record.json"
SCORES = "scores.json"
# Old and new value of settings (None: the setting did not exist) that give the same result up to rounding, with the
# same state in checkpoints: a run that began with the old value continues with the new one.
EQUIVALENT_VALUES = {
    "optimizer._name": ("adam", "fused_adam"),
    "criterion._name": ("label_smoothed_cross_entropy", "label_smoothed_nll"),
    "norm.kernels": (None, "auto"),
    "model.norm_kernels": (None, "auto"),
    "train.bucket_by_length": (None, False),
    "corpus.seed": (1, None),
    "corpus.verify": (True, None),
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
        raise UserError(
            f"{directory} cannot be the run's folder: {error.strerror}. Choose another run_dir=..."
        ) from error
    with hold_lock(directory / "lock", refuse):
        yield


def completed(config: DictConfig) -> bool:
    """Whether the run's folder holds its record."""
    return record.read(Path(config.run_dir) / RECORD) is not None


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
        for path in directory.glob(pattern):  # the config last: a kill before that leaves a folder that can be cleared
            path.unlink()
    shutil.rmtree(directory / "wandb", ignore_errors=True)


def save_or_check_config(directory: Path, config: DictConfig) -> None:
    """Write the resolved config beside the checkpoints, or check that it is the one they were made with.

    Raises:
        UserError: the folder holds a run with other settings.
    """
    path = directory / CONFIG
    if not path.exists():
        with whole_file(path) as temporary:
            temporary.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
        return
    stored = OmegaConf.create(path.read_text(encoding="utf-8"))
    assert isinstance(stored, DictConfig)
    changed = changed_settings(dict(flatten(stored)), dict(flatten(config)))
    if changed:
        raise UserError(
            f"{directory} holds a run with other settings ({'; '.join(changed[:5])}). "
            "Give this one its own run_dir=..., or start it again with force=true"
        )


def changed_settings(before: dict[str, Any], today: dict[str, Any]) -> list[str]:
    """Describe the settings that can change a result and differ between two flat configs, one older than the other."""
    before, today = (
        settings | {key: new for key, (old, new) in EQUIVALENT_VALUES.items() if settings.get(key) == old}
        for settings in (before, today)
    )
    return [
        f"{key}: {before.get(key)} there, {today.get(key)} now"
        for key in sorted(before.keys() | today.keys())
        if changes_result(key) and not same_setting(key, before, today)
    ]


def check_corpus(directory: Path, corpus: PreparedCorpus | PreparedText) -> str:
    """Return the digest of a prepared corpus.

    Raises:
        UserError: the run in the folder began with another corpus, so its checkpoints do not fit this one.
    """
    path = directory / PROVENANCE
    notes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    digest = hashlib.sha256(json.dumps(corpus.manifest["sha256"], sort_keys=True).encode()).hexdigest()
    if notes.get("corpus", digest) != digest:
        raise UserError(
            f"the corpus in {corpus.folder} has changed since the run in {directory} began: "
            "restore its files, or start the run again with force=true"
        )
    return digest


def record_call_start(directory: Path, config: DictConfig, corpus: PreparedCorpus | PreparedText) -> None:
    """Record the code, kernels, versions, hardware and corpus of this call, and the load of the machine at its start.

    Calls that differ only in the load share one entry.

    Raises:
        UserError: the run was begun on another text, so that its checkpoints do not fit this one.
    """
    path = directory / PROVENANCE
    notes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"calls": []}
    notes["corpus"] = check_corpus(directory, corpus)
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
    record.write(path, notes)


def record_call_end(directory: Path) -> None:
    """Record the load of the machine at the end of the call that ``record_call_start`` recorded."""
    path = directory / PROVENANCE
    notes = json.loads(path.read_text(encoding="utf-8"))
    notes["load"][-1]["end"] = record.load()
    record.write(path, notes)


def provenance(directory: Path) -> dict[str, Any]:
    """What trained the run: the first call's commit, kernels, hardware and versions; those that differ under ``later``.

    ``hardware`` has the machine's ``load`` at each call's ``start`` and, unless that was killed, its ``end``.
    """
    notes = json.loads((directory / PROVENANCE).read_text(encoding="utf-8"))
    first, *later = notes["calls"]
    hardware = first["hardware"] | {"load": notes.get("load", [])}
    return {**first, "hardware": hardware, **({"later": later} if later else {})}


def wandb_id(directory: Path) -> str:
    """Return the run's id in wandb, which is created once, so that a resumed run stays one run there."""
    path = directory / WANDB_ID
    if not path.exists():
        with whole_file(path) as temporary:
            temporary.write_text(secrets.token_hex(8), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
