"""``normplugins analyze causality``: measures how much of the future the model of a finished run sees."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor, nn

from normplugins.corpora import PreparedText, corpus_config, prepare
from normplugins.evaluation.causality import (
    Measured,
    in_warmup,
    measure_evaluation,
    measure_training,
    norms_of,
    warmup_progress,
)
from normplugins.evaluation.language_modeling import OUTPUT
from normplugins.evaluation.perplexity import load_model_and_text
from normplugins.evaluation.reestimate import batches_asked
from normplugins.models.config import is_causal
from normplugins.runs import folder, record
from normplugins.runs.scoring import set_threads
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError

FORMAT = 1
SEED = 1


@dataclass(frozen=True)
class TrainedLanguageModel:
    """The model of a finished run, in evaluation mode.

    ``text`` holds the word indices (N,) of the test text, and ``inputs`` (N,) the token before each of them.
    """

    directory: Path
    checkpoint: Path
    config: DictConfig
    record: Mapping[str, Any]
    model: nn.Module
    corpus: PreparedText
    inputs: Tensor
    text: Tensor

    @property
    def segment(self) -> int:
        """Tokens in a training segment."""
        return int(self.config.task.tokens_per_sample)

    @property
    def batch_size(self) -> int:
        """Segments in a training batch of one process."""
        dataset = self.config.dataset
        limits = [dataset.batch_size, dataset.max_tokens and dataset.max_tokens // self.segment]
        return max(1, min(limit for limit in limits if limit))

    def segments(self, count: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets (B, T) of up to ``count`` whole segments, spread evenly over the text.

        Raises:
            UserError: the text is shorter than a segment.
        """
        whole = len(self.text) // self.segment
        if not whole:
            raise UserError(f"the test text has {len(self.text):,} tokens, and a segment has {self.segment}")
        first = torch.linspace(0, whole - 1, min(count, whole)).long() * self.segment
        places = first[:, None] + torch.arange(self.segment)
        return self.inputs[places], self.text[places]


def load_trained(directory: Path) -> TrainedLanguageModel:
    """Load the model that the record of a run is about, and prepare its corpus.

    Raises:
        UserError: the folder holds no finished run of a language model, or its checkpoint is gone.
    """
    done = record.read(directory / folder.RECORD)
    if done is None or not (directory / folder.CONFIG).exists():
        raise UserError(f"{directory} holds no finished run ({folder.CONFIG} and {folder.RECORD} are needed)")
    config = OmegaConf.load(directory / folder.CONFIG)
    assert isinstance(config, DictConfig)
    if config.task._name != "language_modeling":
        raise UserError(f"the run in {directory} is of task {config.task._name}; language_modeling is needed")
    checkpoint = checkpoints.scored(directory, config.evaluate.average, batches_asked(config))
    if not checkpoint.exists():
        raise UserError(f"the model of the run in {directory} is gone ({checkpoint.name})")
    set_threads(config)
    corpus = prepare(corpus_config(config.corpus), Path(config.data_dir))
    assert isinstance(corpus, PreparedText)
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    model, inputs, text = load_model_and_text(checkpoint, corpus.bin_dir, config.common.cpu)
    device = next(model.parameters()).device
    return TrainedLanguageModel(directory, checkpoint, config, done, model, corpus, inputs.to(device), text.to(device))


def audit_causality(
    directory: Path,
    results: Path,
    draws: int = 2,
    segments: int = 32,
    echo: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure how much of the future the model of a run sees, and write the record.

    Args:
        directory: the run's folder.
        results: folder in which ``causality/<experiment>/<variant>/seed<k>.json`` is written.
        draws: replacements of each future in evaluation mode.
        segments: segments of the test text that are scored in evaluation mode, and trials in training mode.
        echo: called with each line of output.

    Returns:
        The record.

    Raises:
        UserError: the run is not a finished run of a language model, its text is shorter than a segment, or a number
            is below 1.
    """
    for name, value in (("--draws", draws), ("--segments", segments)):
        if value < 1:
            raise UserError(f"{name} {value}: at least 1 is needed")
    trained = load_trained(Path(directory))
    if trained.segment < 2:
        raise UserError("segments of one token: nothing comes after any position")
    begun = time.perf_counter()
    measured = _measure(trained, draws, segments, echo)
    done = _record(trained, draws, segments, measured, time.perf_counter() - begun)
    path = Path(results) / "causality" / done["experiment"] / done["variant"] / f"seed{done['seed']}.json"
    record.write(path, done)
    echo(f"written: {path}")
    return done


def _measure(
    trained: TrainedLanguageModel, draws: int, segments: int, echo: Callable[[str], None]
) -> dict[str, dict[str, Any] | None]:
    """Return the figures of each mode, by its name in the record; None for a mode that the model does not have."""
    scored, batch = trained.segments(segments), trained.segments(trained.batch_size)
    evaluate = partial(measure_evaluation, trained.model, *scored, trained.text, draws)
    train = partial(measure_training, trained.model, *batch, trained.text, segments)
    modes: dict[str, tuple[str, Callable[[torch.Generator], Measured]]] = {
        "evaluation": ("evaluation mode", partial(evaluate, size=min(trained.batch_size, 64))),
        "training": ("training mode", train),
    }
    if any(warmup_progress(norm) for norm in norms_of(trained.model)):
        modes["training_in_warmup"] = ("training mode, as in PN's warmup", partial(train, warmup=True))
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(("evaluation", "training", "training_in_warmup"))
    for name, (title, measure) in modes.items():
        with Console(stderr=True).status(title):
            found[name] = figures = measure(torch.Generator().manual_seed(SEED)).figures()
        size = f"mean {figures['mean']:.3g}, max {figures['max']:.3g} nats"
        echo(
            f"{title}: |change of log p| {'0, to the bit' if figures['identical'] else size}; "
            f"ppl {figures['ppl_true']:.4g} with the true future, {figures['ppl_replaced']:.4g} with a replaced one"
        )
    return found


def _record(
    trained: TrainedLanguageModel, draws: int, trials: int, measured: dict[str, Any], seconds: float
) -> dict[str, Any]:
    config, run, manifest = trained.config, trained.record, trained.corpus.manifest
    norms = norms_of(trained.model)
    masked = bool(config.model.get("causal", True))  # the attention of the published tensor transformer is not masked
    whole = len(trained.text) // trained.segment
    return {
        "format": FORMAT,
        "experiment": config.experiment,
        "variant": config.variant,
        "seed": config.seed,
        "norm": config.norm.name,
        "model": {
            "name": config.model._name,
            "causal": is_causal(config.model.norm, masked),
            "masked": masked,
            "normalize_before": config.model.normalize_before,
        },
        "run": {
            "checkpoint": trained.checkpoint.name,
            "updates": run["training"]["updates"],
            "git_commit": run.get("git_commit"),
            "ppl": run["metrics"]["ppl"]["score"],
            "budget": config.budget.name if "budget" in config else "full",
            "batch": [trained.batch_size, trained.segment],
        },
        "corpus": {"name": manifest["corpus"], "split": "test", "tokens": len(trained.text), "note": manifest["note"]},
        "probe": {
            "draws": draws,
            "segments": min(trials, whole),
            "trials": trials,
            "seed": SEED,
            "batch": [min(trained.batch_size, whole), trained.segment],
        },
        "warmup": next(
            ({"updates": updates, "of": of} for updates, of in filter(None, map(warmup_progress, norms))), None
        ),
        "warming": any(map(in_warmup, norms)),
        "by_place": _perplexity_by_position(trained),
        "measured": measured,
        "seconds": round(seconds, 1),
        "git_commit": record.git_commit(),
        "hardware": record.hardware(trained.text.device.type == "cpu", 1),
        "versions": record.versions(),
        "date": record.now(),
    }


def _perplexity_by_position(trained: TrainedLanguageModel) -> dict[str, float] | None:
    """Return the run's own perplexity at the last position of its segments, and at the other positions.

    At the last position, no model has a future token to see. Returns None if the run's log-probabilities are gone, or
    if they belong to other windows than its training segments.
    """
    path, section = trained.directory / f"test.{OUTPUT}", trained.config.evaluate
    if not path.exists() or section.context or section.segment not in (None, trained.segment):
        return None
    logprobs = np.load(path).astype(np.float64)
    whole = len(logprobs) // trained.segment
    if len(logprobs) != len(trained.text) or not whole:
        return None
    nats = -logprobs[: whole * trained.segment].reshape(whole, trained.segment)
    return {"last": float(np.exp(nats[:, -1].mean())), "others": float(np.exp(nats[:, :-1].mean())), "segments": whole}
