"""Records which calls worked on a run and which corpus they used, and checks that corpus.

A call is one execution of the command; a run that was interrupted has several.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from normplugins.corpora import Prepared, changed_files
from normplugins.runs import record
from normplugins.runs.folder import PROVENANCE, RECORD, SCORES, corpus_digest, has_begun, read_state
from normplugins.training.checkpoints import LAST
from normplugins.training.distributed import threads_per_process, world_size
from normplugins.utils.errors import UserError
from normplugins.utils.json_file import write_json


def check_corpus(directory: Path, corpus: Prepared) -> bool:
    """Check that the run in a folder was trained on this corpus; return False if the folder does not name a corpus.

    A run names its corpus in its provenance or in its record.

    Raises:
        UserError: the run in the folder began with another corpus, so its checkpoints do not fit this one.
    """
    if not has_begun(directory):
        return False
    digest, done = _notes(directory).get("corpus"), read_state(directory, RECORD)
    if digest is None and done:
        digest = corpus_digest(done["corpus"])
    if digest not in (None, corpus_digest(corpus.manifest)):
        raise UserError(
            f"the corpus in {corpus.folder} has changed since the run in {directory} began: "
            "restore its files, or start the run again with force=true"
        )
    return digest is not None


def verify_corpus(directory: Path, corpus: Prepared) -> None:
    """Compare the content of all prepared files with the manifest before a result is recorded.

    Raises:
        UserError: a file has changed during the run. If training may have read it, the run is refused until it is
            started again; otherwise the same command scores the checkpoints again.
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


def _notes(directory: Path) -> dict[str, Any]:
    return read_state(directory, PROVENANCE) or {"calls": [], "load": []}


def record_call_start(directory: Path, config: DictConfig, corpus: Prepared) -> None:
    """Record the code, kernels, versions, hardware and corpus of this call, and the load of the machine at its start.

    Calls that differ only in the load share one entry.

    Raises:
        UserError: the run in the folder began with another corpus, so its checkpoints do not fit this one.
    """
    check_corpus(directory, corpus)
    notes = _notes(directory) | {"corpus": corpus_digest(corpus.manifest)}
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
    notes["load"].append({"start": record.load()})
    write_json(directory / PROVENANCE, notes)


def record_call_end(directory: Path) -> None:
    """Record the load of the machine at the end of the call that ``record_call_start`` recorded."""
    notes = _notes(directory)
    notes["load"][-1]["end"] = record.load()
    write_json(directory / PROVENANCE, notes)


def call_history(directory: Path) -> dict[str, Any]:
    """Return the commit, kernels, hardware and versions of the first call; ``later`` lists calls that differ from it.

    ``hardware`` contains the machine's ``load`` at the ``start`` of each call and, unless the call was killed, at its
    ``end``.
    """
    notes = _notes(directory)
    first, *later = notes["calls"]
    hardware = first["hardware"] | {"load": notes["load"]}
    return {**first, "hardware": hardware, **({"later": later} if later else {})}
