"""``normplugins analyze causality``: measures one run's model and records it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import numpy as np
import torch
from rich.console import Console

from normplugins.evaluation.causality import (
    Measured,
    in_evaluation,
    in_training,
    is_warming,
    norms_of,
    updates_of_warmup,
)
from normplugins.evaluation.language_modeling import OUTPUT
from normplugins.runs import record
from normplugins.runs.trained import TrainedLanguageModel, load_trained
from normplugins.utils.errors import UserError

FORMAT = 1
SEED = 1


def audit_causality(
    directory: Path,
    results: Path,
    draws: int = 2,
    segments: int = 32,
    echo: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure what the model of a run sees of the future; and record it.

    Args:
        directory: the run's folder.
        results: where ``causality/<experiment>/<variant>/seed<k>.json`` goes.
        draws: replacements of each future in evaluation mode.
        segments: segments of the test text to score in evaluation mode; in training mode, trials.
        echo: called with each line to show.

    Returns:
        The record.

    Raises:
        UserError: no finished run of a language model, a text shorter than a segment, or a number below 1.
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


def _measure(trained: TrainedLanguageModel, draws: int, segments: int, echo: Callable[[str], None]) -> dict[str, Any]:
    """The figures of every mode, by its name."""
    model, text = trained.model, trained.text
    console = Console(stderr=True)

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(SEED)

    def show(mode: str, measured: Measured) -> dict[str, Any]:
        figures = measured.figures()
        size = f"mean {figures['mean']:.3g}, max {figures['max']:.3g} nats"
        echo(
            f"{mode}: |change of log p| {'0, to the bit' if figures['identical'] else size}; "
            f"ppl {figures['ppl_true']:.4g} with the true future, {figures['ppl_replaced']:.4g} with a replaced one"
        )
        return figures

    with console.status("evaluation mode"):
        some = trained.segments(segments)
        scored = in_evaluation(model, *some, text, draws, generator(), min(trained.batch_size, 64))
    found = {"segments": len(some[0]), "evaluation": show("evaluation mode", scored)}
    with console.status("training mode"):
        batch = trained.segments(trained.batch_size)
        found["batch"] = [len(batch[0]), trained.segment]
        state = "training mode"
        found["training"] = show(state, in_training(model, *batch, text, segments, generator()))
        found["training_in_warmup"] = None
        if any(updates_of_warmup(norm) for norm in norms_of(model)):
            warm = in_training(model, *batch, text, segments, generator(), warming=True)
            found["training_in_warmup"] = show(f"{state}, as in PN's warmup", warm)
    return found


def _record(
    trained: TrainedLanguageModel, draws: int, trials: int, measured: dict[str, Any], seconds: float
) -> dict[str, Any]:
    config, run = trained.config, trained.record
    updates = [updates_of_warmup(norm) for norm in norms_of(trained.model)]
    manifest = trained.corpus.manifest
    cpu = trained.text.device.type == "cpu"
    return {
        "format": FORMAT,
        "experiment": config.experiment,
        "variant": config.variant,
        "seed": config.seed,
        "norm": config.norm.name,
        "model": {
            "name": config.model._name,
            "causal": trained.causal,
            "masked": trained.masked,
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
            "segments": measured.pop("segments"),
            "trials": trials,
            "seed": SEED,
            "batch": measured.pop("batch"),
        },
        "warmup": next(({"updates": done, "of": of} for done, of in filter(None, updates)), None),
        "warming": any(map(is_warming, norms_of(trained.model))),
        "by_place": by_place(trained),
        "measured": measured,
        "seconds": round(seconds, 1),
        "git_commit": record.git_commit(),
        "hardware": record.hardware(cpu, 1),
        "versions": record.versions(),
        "date": record.now(),
    }


def by_place(trained: TrainedLanguageModel) -> dict[str, float] | None:
    """The run's own perplexity on all whole segments of the test text: at their last position, and at the others.

    At the last position there is nothing after it to see, whatever the model. None where the run's log-probabilities
    are gone, or are of other windows than its training segments.
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
