"""``normplugins analyze causality``: measures how much of the future the model of a finished run sees."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normplugins.evaluation.causality import Measured, measure_evaluation, measure_training, warmups
from normplugins.evaluation.perplexity import load_test_text
from normplugins.models.language_model_config import future_label
from normplugins.runs import folder, record
from normplugins.runs.trained import load
from normplugins.utils.errors import UserError
from normplugins.utils.json_file import write_json
from normplugins.utils.steps import step
from normplugins.utils.terminal import say

FORMAT = 1
SEED = 1


def audit_causality(directory: Path, results: Path, draws: int, segments: int) -> None:
    """Measure how much of the future the model of a run sees, print it and write the record.

    The record is ``causality/<experiment>/<variant>/seed<k>.json`` in ``results``. Evaluation mode uses ``segments``
    segments of the test text, and ``draws`` random replacements of each future. Training mode makes ``segments``
    trials.

    Raises:
        UserError: the run is not a finished run of a language model, its checkpoint or its corpus has changed, its text
            is shorter than a segment, or ``draws`` or ``segments`` is below 1.
    """
    for name, value in (("--draws", draws), ("--segments", segments)):
        if value < 1:
            raise UserError(f"{name} {value}: at least 1 is needed")
    config, run = folder.finished_run(directory)
    if config.task._name != "language_modeling":
        raise UserError(f"the run in {directory} is of task {config.task._name}; language_modeling is needed")
    trained = load(directory)
    model, device = trained.model, next(trained.model.parameters()).device
    inputs, text = (tokens.to(device) for tokens in load_test_text(trained.task, trained.corpus.bin_dir))
    segment = int(config.task.tokens_per_sample)
    whole = len(text) // segment
    if segment < 2:
        raise UserError("segments of one token have no future: train a run with task.tokens_per_sample=2 or more")
    if not whole:
        raise UserError(f"the test text has {len(text):,} tokens, and a segment has {segment}")
    limits = [config.dataset.batch_size, config.dataset.max_tokens and config.dataset.max_tokens // segment]
    batch = max(1, min(limit for limit in limits if limit))  # segments in a training batch of one process

    def spread(count: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets (B, T) of up to ``count`` whole segments, spread evenly over the text."""
        first = torch.linspace(0, whole - 1, min(count, whole)).long() * segment
        places = first[:, None] + torch.arange(segment)
        return inputs[places], text[places]

    begun = time.perf_counter()
    evaluate = partial(measure_evaluation, model, *spread(segments), text, draws, size=min(batch, 64))
    train = partial(measure_training, model, *spread(batch), text, segments)
    warmup = warmups(model)
    measured = {
        "evaluation": _figures("evaluation mode", evaluate),
        "training": _figures("training mode", train),
        "training_in_warmup": _figures("training mode, as in PN's warmup", partial(train, in_warmup=True))
        if warmup
        else None,
    }
    manifest = trained.corpus.manifest
    masked = bool(config.model.get("causal", True))  # the published tensor transformer does not mask its attention
    done = {
        "format": FORMAT,
        "experiment": config.experiment,
        "variant": config.variant,
        "seed": config.seed,
        "norm": config.norm.name,
        "model": {
            "name": config.model._name,
            "causal": not future_label(config.model.norm, masked),
            "masked": masked,
            "normalize_before": config.model.normalize_before,
        },
        "run": {
            "checkpoint": trained.checkpoint,
            "updates": run["training"]["updates"],
            "git_commit": run.get("git_commit"),
            "budget": config.budget.name if "budget" in config else "full",
            "batch": [batch, segment],
        },
        "corpus": {"name": manifest["corpus"], "split": "test", "tokens": len(text), "note": manifest["note"]},
        "probe": {
            "draws": draws,
            "segments": min(segments, whole),
            "trials": segments,
            "seed": SEED,
            "batch": [min(batch, whole), segment],
        },
        "warmup": {"updates": warmup[0][0], "of": warmup[0][1]} if warmup else None,
        "warming": any(updates < of for updates, of in warmup),
        "measured": measured,
        "seconds": round(time.perf_counter() - begun, 1),
        "git_commit": record.git_commit(),
        "hardware": record.hardware(device.type == "cpu", 1),
        "versions": record.versions(),
        "date": record.now(),
    }
    path = results / "causality" / config.experiment / config.variant / f"seed{config.seed}.json"
    write_json(path, done)
    print(f"written: {path}")


def _figures(title: str, measure: Callable[[torch.Generator], Measured]) -> dict[str, Any]:
    """Measure one mode, print a summary and return the numbers for the record."""
    with step(f"measuring the model in {title}"):
        figures = measure(torch.Generator().manual_seed(SEED)).figures()
    size = f"mean {figures['mean']:.3g}, max {figures['max']:.3g} nats"
    say(f"{title}: |change of log p| {'0 (bitwise)' if figures['identical'] else size}")
    return figures
