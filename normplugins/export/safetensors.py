"""``normplugins export --format safetensors``: a folder that can be uploaded to a model hub unchanged."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model

from normplugins.corpora import Prepared, PreparedCorpus
from normplugins.corpora.subwords import FILES as SUBWORD_FILES
from normplugins.evaluation.exported import CONFIG, FORMAT, WEIGHTS, load_exported
from normplugins.export.model_card import model_card
from normplugins.runs import folder
from normplugins.runs.record import without_absolute_paths
from normplugins.runs.trained import TrainedRun, load
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError
from normplugins.utils.files import sha256, whole_folder


def export(directory: Path, destination: Path, checkpoint: str | None = None) -> Path:
    """Write a completed run's model to a new folder, load it again and compare it with the checkpoint.

    The folder may exist if it is empty. ``checkpoint`` is ``averaged``, ``last``, ``best``, or the name of a checkpoint
    file in the run's folder, such as a folded one; None: the one that the recipe scores. Returns that file's path.

    Raises:
        UserError: the run has not ended, one of its files is damaged, its corpus has changed, or the destination is not
            empty or cannot be written.
    """
    run, record = load_finished(directory, destination, checkpoint)
    path = directory / run.checkpoint
    fairseq_config = torch.load(path, weights_only=True, mmap=True)["cfg"]  # mapped: no tensor is read again
    model, dictionaries = run.model.cpu(), _dictionaries(run.corpus)
    settings: dict[str, Any] = {
        "normplugins_format": FORMAT,
        "experiment": record["experiment"],
        "variant": record["variant"],
        "seed": record["seed"],
        "checkpoint": {"file": path.name, "sha256": sha256(path)},
        "norm": {key: value for key, value in record["config"].items() if key.startswith("norm.")},
        "task": without_absolute_paths(fairseq_config["task"]),
        "model": without_absolute_paths(fairseq_config["model"]),
        "dictionaries": [file.name for file in dictionaries],
        "preprocessing": preprocessing(run.corpus),
    }
    with whole_folder(destination) as temporary:
        save_model(model, str(temporary / WEIGHTS), metadata={"format": "pt"})
        (temporary / WEIGHTS).chmod(0o644)  # safetensors makes it readable only for its owner
        for file in (*dictionaries, *subword_model(run.corpus)):
            shutil.copyfile(file, temporary / file.name)
        text = json.dumps(settings, indent=1, ensure_ascii=False, default=str)
        (temporary / CONFIG).write_text(f"{text}\n", encoding="utf-8")
        (temporary / "README.md").write_text(model_card(record, path.name), encoding="utf-8")
        loaded = load_exported(temporary)[0].state_dict()
        if different := [name for name, value in model.state_dict().items() if not torch.equal(value, loaded[name])]:
            raise UserError(f"{path} cannot be exported: {different[0]} changes when it is written and read")
    return path


def load_finished(directory: Path, destination: Path, checkpoint: str | None) -> tuple[TrainedRun, dict[str, Any]]:
    """Load a checkpoint of a completed run; return it with the run's record.

    Raises UserError as :func:`export` does. A checkpoint that the record names must be the file that was scored.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination} exists and is not empty: name another folder to write")
    _, record = folder.finished_run(directory)
    name = checkpoint or record["scored_by"]
    scored = record["files"]["checkpoints"].get(name, {})
    path = directory / scored.get("file", checkpoints.FILES.get(name, name))
    if Path(name).name != name or not path.is_file():
        known = sorted(file.name for file in directory.glob("checkpoint*.pt"))
        raise UserError(f"{directory} has no checkpoint '{name}'. Known: {', '.join([*checkpoints.FILES, *known])}")
    if scored and sha256(path) != scored["sha256"]:
        raise UserError(f"{path} is not the checkpoint that was scored: it has changed since the run ended")
    return load(path), record


def _dictionaries(corpus: Prepared) -> list[Path]:
    if isinstance(corpus, PreparedCorpus):
        return [corpus.bin_dir / f"dict.{language}.txt" for language in (corpus.source, corpus.target)]
    return [corpus.bin_dir / "dict.txt"]


def subword_model(corpus: Prepared) -> list[Path]:
    """Return the files of a corpus's subword model."""
    kind = corpus.manifest.get("subword", {}).get("kind")
    return [corpus.folder / "subword" / SUBWORD_FILES[kind]] if kind else []


def preprocessing(corpus: Prepared) -> dict[str, Any]:
    """Return how raw text becomes the model's input."""
    keys = ("corpus", "source", "target", "lowercase", "tokenizer", "subword", "settings")
    files = [path.name for path in subword_model(corpus)]
    return {key: corpus.manifest[key] for key in keys if key in corpus.manifest} | {"files": files}
