"""Exports a run for another decoding engine, CTranslate2 or onnxruntime, and compares its translations with ours."""

import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from normplugins.corpora import PreparedCorpus
from normplugins.evaluation import bleu
from normplugins.export import ENGINES, QUANTIZATIONS
from normplugins.export.safetensors import load_finished, preprocessing, subword_model
from normplugins.runs import folder
from normplugins.runs.trained import Engine, TrainedRun
from normplugins.training.checkpoint_seal import digest
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines, whole_folder
from normplugins.utils.json_file import read_json_or_none, write_json

ABOUT = "normplugins.json"
COMPARED_SENTENCES = 200
"""Number of test sentences whose translations are compared."""
MIN_IDENTICAL = 0.98
"""The required share of identical translations in float32, where rounding decides between almost equal hypotheses."""


def export(directory: Path, destination: Path, engine: str, quantization: str, name: str | None = None) -> str:
    """Write a completed run's model to a new folder in an engine's format, and compare its translations with ours.

    ``name`` is ``averaged``, ``last``, ``best`` or a checkpoint file; None: the one that the recipe scores. Returns the
    result of the comparison in words.

    Raises:
        UserError: as for :func:`normplugins.export.safetensors.export`; or a package is missing, or the engine cannot
            express the model or translates differently from our beam search.
    """
    require(engine)
    run, _ = load_finished(directory, destination, name)
    return _write(run, destination, engine, quantization)


def open_engine(run: TrainedRun, directory: Path, engine: str, quantization: str) -> tuple[Engine, str]:
    """Return an engine for a run's model, which is exported to the run's folder ``engines`` first if necessary.

    Also returns the result of the export's comparison in words, empty if nothing was exported now.

    Raises:
        UserError: as for :func:`export`.
    """
    require(engine)
    place, comparison = directory / folder.ENGINES / f"{engine}-{quantization}", ""
    about = read_json_or_none(place / ABOUT) or {}
    if about.get("weights_sha256") != digest(run.model.state_dict()):
        comparison = _write(run, place, engine, quantization)
    return module_of(engine).Engine(place, quantization, run.model, run.task), comparison


def require(engine: str) -> None:
    """Raise UserError if a package of an engine is not installed."""
    missing = [package for package in ENGINES[engine] if find_spec(package) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed: pip install 'normplugins[{engine}]'")


def compare(run: TrainedRun, engine: Engine) -> dict[str, Any]:
    """Translate the beginning of the run's test set with our beam search and with an engine, and score both.

    Returns the numbers of sentences and of identical translations, and BLEU of both on these sentences.
    """
    run.task.load_dataset("test")
    source, corpus = run.task.dataset("test").src, run.corpus
    assert isinstance(corpus, PreparedCorpus)
    sentences = [source[number].long() for number in range(min(COMPARED_SENTENCES, len(source)))]
    search = run.config.evaluate.copy()
    OmegaConf.set_struct(search, False)
    search.max_tokens = max([search.max_tokens, *map(len, sentences)])
    target = run.task.target_dictionary
    texts = [  # not decoded by the pipeline, which leaves the tokens of a corpus of given tokens
        corpus.to_text(run.pipeline.join(target.string(best["tokens"])) for best, *_ in found(sentences, search))
        for found in (run.search, engine)
    ]
    references = read_lines(corpus.reference_text)[: len(sentences)]
    lower = bool(corpus.manifest["lowercase"])
    ours, theirs = (bleu.bleu(text, references, lowercase=lower, tokenize=corpus.score_tokenizer) for text in texts)
    return {
        "sentences": len(sentences),
        "identical": sum(one == other for one, other in zip(*texts, strict=True)),
        "bleu": theirs["score"],
        "our_bleu": ours["score"],
        "bleu_difference": theirs["score"] - ours["score"],
        "signature": ours["signature"],
    }


def _write(run: TrainedRun, destination: Path, engine: str, quantization: str) -> str:
    """Write the folder; return the result of the comparison in words."""
    if not run.translates:
        raise UserError(f"{engine} takes only translation models, not language models: use --format safetensors")
    module = module_of(engine)
    if quantization not in QUANTIZATIONS[engine]:
        raise UserError(f"--quantization {quantization}: {engine} supports {', '.join(QUANTIZATIONS[engine])}")
    with whole_folder(destination) as temporary:
        module.write(run.model, run.task, temporary, quantization)
        for file in subword_model(run.corpus):
            shutil.copyfile(file, temporary / file.name)
        translates = module.Engine(temporary, quantization, run.model, run.task)
        found = compare(run, translates)
        comparison = (
            f"{found['identical']} of {found['sentences']} test sentences translated as by our beam search; "
            f"BLEU {found['bleu']:.2f}, ours {found['our_bleu']:.2f}, difference {found['bleu_difference']:+.2f}"
        )
        if quantization == "float32" and found["identical"] < MIN_IDENTICAL * found["sentences"]:
            raise UserError(f"{destination} is not written, because {engine} translates differently: {comparison}")
        content = {
            "engine": engine,
            "quantization": quantization,
            "computes_in": translates.computes_in,
            "checkpoint": run.checkpoint,
            "weights_sha256": digest(run.model.state_dict()),
            "search": {key: run.config.evaluate[key] for key in bleu.SEARCH},
            "check": found,
            "preprocessing": preprocessing(run.corpus),
        }
        write_json(temporary / ABOUT, content)
    return comparison


def module_of(engine: str) -> Any:
    """Return the module of an engine, with ``write`` and ``Engine``."""
    return import_module(f"normplugins.export.{engine}")
