"""Makes records of runs as ``normplugins run`` writes them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normplugins.evaluation.bleu import bleu, write_translations
from normplugins.runs.record import FORMAT
from normplugins.utils.files import sha256

SIGNATURES = {
    "bleu": "nrefs:1|case:mixed|eff:no|tok:none|smooth:exp|version:2.6.0",
    "bleu_compound": "nrefs:1|case:mixed|eff:no|tok:none|smooth:exp|compounds:split|version:2.6.0",
    "sacrebleu": "nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|version:2.6.0",
    "chrf2": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
    "ter": "nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:2.6.0",
}
BLEUS = ("bleu", "bleu_compound", "sacrebleu")
CPU = {"device": "CPU", "cpu": "2 x Some Processor", "threads": 2, "memory_gb": 8, "gpus": [], "processes": 1}
GPU = {**CPU, "device": "1 x NVIDIA H200", "gpus": ["NVIDIA H200"]}


def record(
    experiment: str = "multi30k",
    variant: str = "ln",
    seed: int = 1,
    metrics: dict[str, float] | None = None,
    updates: int = 1200,
    stopped_by: str = "patience",
    epochs: int = 12,
    note: str = "",
    hardware: dict[str, Any] = CPU,
    floor: float | None = None,
    corpus: str = "multi30k",
    wall_seconds: float = 900.0,
    brevity: float = 0.98,
) -> dict[str, Any]:
    """A record without scores by checkpoint, which ``scored`` or ``put`` adds; losses fall toward ``floor``.

    Without a floor there are no curves, and no figure to draw.
    """
    metrics = {"bleu": 35.0, "sacrebleu": 34.0} if metrics is None else metrics

    def loss(update: float) -> float:
        return (floor or 0) + 9 * math.exp(-5 * update / updates) + 0.02 * math.sin(update)

    train = [
        {"update": u, "epoch": 1, "loss": loss(u), "ppl": 2 ** loss(u), "lr": 1e-3} for u in range(50, updates, 50)
    ]
    ends = [round(updates * (e + 1) / epochs) for e in range(epochs)]
    valid = [
        {"update": u, "epoch": e + 1, "loss": loss(u) + 0.3, "nll_loss": loss(u) - 1, "ppl": 2 ** (loss(u) - 1)}
        for e, u in enumerate(ends)
    ]
    return {
        "format": FORMAT,
        "experiment": experiment,
        "variant": variant,
        "norm": variant.split(",")[0],
        "seed": seed,
        "metrics": translated(metrics, brevity),
        "training": {
            "updates": updates,
            "epochs": epochs,
            "stopped_by": stopped_by,
            "best_valid_loss": valid[-1]["loss"],
            "words_per_second": 1500.0,
            "wall_seconds": wall_seconds,
            "parameters": 1_000_000,
            "averaged": ["checkpoint12.pt"],
        },
        "decoding": {"seconds": 10.0, "sentences_per_second": 100.0},
        "corpus": {"corpus": corpus, "counts": {"train": {"pairs": 29000}}, "note": note, "notes": []},
        "hardware": dict(hardware),
        "versions": {"python": "3.11.0"},
        "git_commit": None,
        "finished_at": "2026-01-01T00:00:00+00:00",
        "curves": {"train": [], "valid": []} if floor is None else {"train": train, "valid": valid},
        "config": {"criterion.label_smoothing": 0.1, "norm.name": variant.split(",")[0], "evaluate.average": 5},
    }


def translated(metrics: dict[str, float], brevity: float = 0.98) -> dict[str, dict[str, Any]]:
    """The metrics of a translation, as a record stores them."""
    lengths = {"brevity_penalty": brevity, "system_length": 1000, "reference_length": 1020}
    bleu = {"precisions": [60.0, 40.0, 25.0, 18.0], **lengths}
    return {
        name: {"score": score, "signature": SIGNATURES.get(name), **(bleu if name in BLEUS else {})}
        for name, score in metrics.items()
    }


def scored(content: dict[str, Any], others: dict[str, dict[str, dict[str, Any]]], **test_sets: Any) -> dict[str, Any]:
    """The record with its scores by checkpoint.

    Args:
        content: a record; its metrics become those of the checkpoint that its recipe scores.
        others: metrics of other checkpoints, by checkpoint and test set.
        test_sets: metrics of that checkpoint on individual test sets.
    """
    by = "averaged" if content["config"].get("evaluate.average") else "best"
    scores = {by: {"test": content["metrics"], **test_sets}, **others}
    return content | {"scored_by": by, "scores": scores}


def language_model(
    experiment: str = "ptb",
    variant: str = "ln",
    seed: int = 1,
    ppl: float | None = 50.0,
    updates: int = 20_000,
    stopped_by: str = "max_update",
    **changes: Any,
) -> dict[str, Any]:
    """A record of a language model, as described by the settings of ``variant`` (``ln,budget=cpu,reading=masked``)."""
    extras = dict(item.split("=", 1) for item in variant.split(",")[1:])
    transformer = extras.get("architecture") == "transformer"
    reading = extras.get("reading", "code")
    causal = extras.get("model.causal") == "true" or reading in ("masked", "paper")
    pre_norm = extras.get("model.normalize_before") == "true" or reading == "paper"
    content = record(experiment, variant, seed, {}, updates, stopped_by, corpus=experiment, **changes)
    seen = not (causal or transformer) or variant.startswith("instance")
    signature = f"level:word|tokens:%d|segment:32|context:0|partial:%s|causal:{'no' if seen else 'yes'}"
    if ppl is not None:
        for name, score, tokens, partial in (
            ("ppl", ppl, 82_430, "counted"),
            ("ppl_full_segments", ppl - 0.25, 82_400, "dropped"),
        ):
            said = {"signature": signature % (tokens, partial), "tokens": tokens, "nats": math.log(score)}
            content["metrics"][name] = {"score": score, **said}
    content["decoding"] = {"seconds": 10.0, "tokens_per_second": 8243.0}
    content["corpus"] |= {
        "counts": {"train": {"lines": 42_068, "words": 887_521, "tokens": 929_589}},
        "unigram_ppl": {"valid": 650.25, "test": 620.5},
    }
    content["config"] = {
        "task._name": "language_modeling",
        "task.tokens_per_sample": 32,
        "norm.name": variant.split(",")[0],
        "budget.name": extras.get("budget", "full"),
        "model._name": "norm_transformer_lm" if transformer else "tensor_transformer_lm",
        "model.normalize_before": pre_norm,
        **({} if transformer else {"model.causal": causal}),
    }
    return content


def put(results: Path, content: dict[str, Any]) -> Path:
    """Write a record where ``normplugins run`` puts it."""
    path = results / "runs" / content["experiment"] / content["variant"] / f"seed{content['seed']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content if "scores" in content else scored(content, {})
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def put_run(runs: Path, content: dict[str, Any], finished: bool = True, log: str = "") -> Path:
    """Write what a run with this record leaves in its own folder; an unfinished one leaves no record."""
    run = runs / content["experiment"] / content["variant"] / f"seed{content['seed']}"
    run.mkdir(parents=True)
    config = {key: content[key] for key in ("experiment", "variant", "seed")}
    config |= {"norm": {"name": content["norm"]}, "task": {"_name": "translation"}}
    (run / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    (run / "train.log").write_text(log, encoding="utf-8")
    if finished:
        (run / "record.json").write_text(json.dumps(scored(content, {}), indent=1) + "\n", encoding="utf-8")
    return run


def put_diverged(
    results: Path, experiment: str, variant: str, seed: int, config: Mapping[str, Any] | None = None
) -> None:
    """Write what ``normplugins campaign`` publishes of a run whose loss was not finite."""
    path = results / "runs" / experiment / variant / f"seed{seed}.diverged.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    reason = "update 7: the loss is not finite. A lower optimization.lr may help."
    content = {"experiment": experiment, "variant": variant, "seed": seed, "diverged": reason, "config": config or {}}
    path.write_text(json.dumps(content))


REFERENCES = [f"sentence number {n} of a test set with a few words" for n in range(60)]


def put_translated(
    results: Path,
    variant: str,
    seed: int,
    damaged: Mapping[int, int],
    experiment: str = "multi30k",
    last: Mapping[int, int] | None = None,
    **changes: Any,
) -> Path:
    """Write a record and its translations.

    Args:
        results: the folder of the results.
        variant: the cell.
        seed: the seed.
        damaged: maps a number of wrong words at the end of a sentence to the number of sentences, of 60, that have
            them.
        experiment: the experiment.
        last: ``damaged`` of the last checkpoint; by default all three checkpoints have the same translations.
        changes: entries of the record that differ.
    """
    lines = {"averaged": _translations(damaged), "last": _translations(damaged if last is None else last)}
    lines["best"] = lines["averaged"]
    scores = {name: {"bleu": bleu(each, REFERENCES, tokenize="none", force=True)} for name, each in lines.items()}
    content = record(experiment, variant, seed, floor=4.0)
    others = {checkpoint: {"test": scores[checkpoint]} for checkpoint in ("last", "best")}
    content = scored(content | {"metrics": scores["averaged"]}, others)
    content["corpus"] |= {"sha256": {"tokenized/reference.text.en": "0"}}
    path = put(results, content)
    kept = {}
    for name, each in lines.items():
        file = path.with_name(f"seed{seed}.{name}.tsv.gz")
        write_translations(file, each, each, REFERENCES)
        kept[name] = {"file": file.name, "sha256": sha256(file)}
    return put(results, content | {"translations": kept} | changes)


def _translations(damaged: Mapping[int, int]) -> list[str]:
    lines: list[str] = []
    for words, count in damaged.items():
        wrong = " ".join(["x"] * words)
        lines += [f"{line.rsplit(' ', words)[0]} {wrong}" for line in REFERENCES[len(lines) : len(lines) + count]]
    return lines + REFERENCES[len(lines) :]
