"""Reads the records of runs into one table of results: a row for each run, checkpoint, test set and metric."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from normplugins.models.norm_settings import names_in
from normplugins.norms import known_norms, sees_sentence
from normplugins.report.paper import CORPORA, NAMES
from normplugins.report.plans import shares_batches
from normplugins.report.readings import CHOICES, MODELS, recorded_model
from normplugins.runs.inventory import DIVERGED, split_diverged
from normplugins.runs.record import FORMAT
from normplugins.utils.errors import UserError
from normplugins.utils.json_file import read_json

REMEDY = "remove it, or run that seed again"
LOCAL = "local"
"""The mark, among a run's settings, that the run is not published."""
WHOLE_TEST_SET = "test"
"""The name of the whole test set. A corpus with several test sets has a further name for each of them."""
CELL = ["experiment", "norm", "model", "budget", "settings", "cut", "note", "train_size"]
"""Columns that runs must have in common to be averaged."""
PER_REPLICA = "norm.processes="
"""Setting of a norm with per-replica statistics, in runs whose processes share the batches of an update."""
SCORE = ["checkpoint", "test_set", "metric"]
NO_SCORE = {**dict.fromkeys([*SCORE, "signature"], ""), "value": math.nan, "brevity": math.nan}
NO_RUN = {
    **dict.fromkeys(["cut", "note", "train_size", "stopped_by", "subwords"], ""),
    **dict.fromkeys(["hardware", "machine", "threads", "version"], ""),
    **dict.fromkeys(["updates", "wall_seconds", "valid_ppl"], math.nan),
    **{"unigram": (), "label_smoothing": 0.0},
}
"""What is known of a run that diverged if its cell has no completed run."""
EMPTY = ["experiment", "variant", "seed", "budget", *SCORE, "value", "scored_by", "diverged"]
"""The columns of a table without a run."""
Curve = tuple[tuple[float, float], ...]


def read_results(results: Path, local: Iterable[Path] = ()) -> pd.DataFrame:
    """Read every ``runs/<experiment>/<variant>/seed<k>.json`` under ``results``, and the ``local`` records of runs.

    A run without scores has one row with an empty metric. So does a run that diverged (``seed<k>.diverged.json``); its
    column ``diverged`` holds the reason. Rows are in the order in which tables show them. Local runs form separate
    cells, with ``LOCAL`` after their settings. If several have the same seed, each forms a cell named by its folder.

    Raises:
        UserError: a record is broken, has an unknown format, lacks a field, or contradicts its path.
    """
    ended, diverged = split_diverged(sorted((results / "runs").glob("*/*/seed*.json")))
    rows = [row for path in ended for row in read_record(path)]
    rows += [_diverged(path, rows) for path in diverged]
    rows += _local_rows(local)
    models = ["", *MODELS]
    rows.sort(
        key=lambda row: (
            *(row["experiment"], norm_rank(row["norm"]), row["budget"]),
            *(models.index(row["model"]), row["settings"].count(","), row["settings"], row["seed"]),
        )
    )
    return pd.DataFrame(rows, columns=None if rows else EMPTY)


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Return the mean, sample standard deviation and number of seeds of each cell's scores.

    As in the tables, a score that a run of the cell lacks has no mean.
    """
    runs = results.drop_duplicates([*CELL, "seed"])
    seeds = runs.groupby(CELL, sort=False).agg(
        diverged=("diverged", lambda reasons: int((reasons != "").sum())),
        ended=("diverged", lambda reasons: int((reasons == "").sum())),
        updates_min=("updates", "min"),
        updates_max=("updates", "max"),
        hardware=("hardware", distinct),
    )
    scores = results.groupby([*CELL, *SCORE], sort=False).agg(
        mean=("value", "mean"), deviation=("value", "std"), seeds=("value", "count")
    )
    summary = scores.reset_index().merge(seeds.reset_index(), on=CELL, how="left")
    summary.loc[summary["seeds"] < summary["ended"], ["mean", "deviation"]] = math.nan
    return summary.drop(columns="ended")


def distinct(texts: Iterable[str]) -> str:
    """Return the different parts of texts such as ``A; B``, separated in the same way."""
    return "; ".join(dict.fromkeys(part for text in texts if text for part in text.split("; ")))


def norm_rank(norm: str) -> tuple[int, str]:
    """Return the place of a norm among rows and colors: the paper's norms first, then all others that are known."""
    order = [*NAMES, *(name for name in known_norms() if name not in NAMES)]
    return (order.index(norm) if norm in order else len(order), norm)


def read_record(path: Path, local: bool = False) -> list[dict[str, Any]]:
    """Return the rows of one record (``local``: of an unpublished run). Raises a UserError that names the file."""
    record = read_json(path, REMEDY) or {}
    if record.get("format") != FORMAT:
        raise UserError(f"{path}: format {record.get('format')!r}, but this version reads format {FORMAT}")
    try:
        run, scores = _run(record), _scores(record)
    except KeyError as error:
        raise UserError(f"{path} lacks the field {error.args[0]}: {REMEDY}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds a field of the wrong kind: {error}") from error
    if local:  # in the run's folder, which may have any name
        run["settings"] = ", ".join(filter(None, [run["settings"], LOCAL]))
    else:
        _check_place(path, run["experiment"], run["variant"], f"seed{run['seed']}.json")
    return [run | score for score in scores]


def _check_place(path: Path, *inside: str) -> None:
    """Raise UserError unless the path ends in the experiment, the variant and the file's name, as in the record."""
    if path.parts[-3:] != inside:
        raise UserError(f"{path} holds the record of {'/'.join(inside)}: move it there, or remove it")


def machine_names(hardware: Mapping[str, Any]) -> tuple[str, str]:
    """Return a short name (``CPU (AMD EPYC)``) and the full name of a record's ``hardware``."""
    device = str(hardware["device"])
    threads = f"{hardware['threads']} thread{'s' if hardware['threads'] != 1 else ''}"
    cores = re.sub(r"^(\d+) x ", r"\1 CPUs of ", str(hardware["cpu"]))
    host = f"{cores}, {threads}, {hardware['memory_gb']} GB"
    processor = re.sub(r"^\d+ x |\((R|TM|family.*?)\)| Processor\b", "", str(hardware["cpu"])).strip()
    return (f"CPU ({processor})", host) if device == "CPU" else (device, f"{device}; host {host}")


def _local_rows(paths: Iterable[Path]) -> list[dict[str, Any]]:
    records = {path: read_record(path, local=True) for path in paths}
    runs = {path: tuple(rows[0][key] for key in ("experiment", "variant", "seed")) for path, rows in records.items()}
    count = Counter(runs.values())
    for path in [path for path, run in runs.items() if count[run] > 1]:
        for row in records[path]:
            row["settings"] += f", in {path.parent}"
    return [row for rows in records.values() for row in rows]


def _run(record: dict[str, Any]) -> dict[str, Any]:
    norm, variant, experiment = str(record["norm"]), str(record["variant"]), str(record["experiment"])
    if variant.split(",")[0] != norm:
        raise ValueError(f"variant {variant!r} does not begin with norm {norm!r}")
    training, corpus, config = record["training"], record["corpus"], record["config"]
    calls = (record, *record.get("later", []))  # a run may be resumed on another machine
    hardware = distinct(machine_names(call["hardware"])[0] for call in calls)
    ppls = [_number(point["ppl"]) for point in record["curves"]["valid"] if point.get("ppl") is not None]
    ppl, label = record["metrics"].get("ppl"), str(record.get("label") or "")
    seen = "causal:no" in str(ppl.get("signature")).split("|") if ppl else label.startswith("not causal")
    model = recorded_model(config, seen)
    unigram, size = corpus.get("unigram_ppl"), corpus["counts"].get("train", {})
    known = bool(unigram) and None not in unigram.values()  # None: the unigram model gives a word no probability
    units = [unit for unit in ("pairs", "tokens") if size.get(unit) is not None]  # of parallel and of running text
    budget, updates, stopped_by = _budget(config), int(training["updates"]), str(training["stopped_by"])
    published = not budget and ",recipe=" not in variant  # a recipe of another paper has another end
    paper = CORPORA.get(experiment) if published else None
    in_full = paper is None or (stopped_by == paper.ends_by and updates >= paper.ends_at)
    return {
        **_settings(experiment, variant, model),
        "experiment": experiment,
        "seed": int(record["seed"]),
        "budget": budget,
        "note": str(corpus.get("note") or ""),
        "train_size": next((f"{int(size[unit]):,} training {unit}" for unit in units), ""),
        "updates": updates,
        "stopped_by": stopped_by,
        "cut": "" if in_full else f"cut at {updates:,} updates",
        "wall_seconds": _number(training["wall_seconds"]),
        "valid_ppl": min(ppls, default=math.nan),
        "unigram": tuple(_number(unigram[split]) for split in ("valid", "test")) if known else (),
        "subwords": str(corpus.get("subword", {}).get("kind", "")),
        "hardware": hardware,
        "machine": machine_names(record["hardware"])[1],
        "threads": distinct(str(int(call["hardware"]["threads"])) for call in calls),
        "version": str(record.get("versions", {}).get("normplugins", "")),
        "label_smoothing": float(config.get("criterion.label_smoothing") or 0),
        "train_curve": _curve(record["curves"]["train"]),
        "valid_curve": _curve(record["curves"]["valid"]),
        "diverged": "",
    }


def _scores(record: dict[str, Any]) -> list[dict[str, Any]]:
    metrics = dict(record["metrics"])  # empty for a run with evaluate.translate=false
    rows = [
        {
            "checkpoint": checkpoint,
            "test_set": test_set,
            "metric": metric,
            "value": _number(score["score"]),
            "brevity": float(score.get("brevity_penalty", math.nan)),
            "signature": str(metrics.get(metric, {}).get("signature") or ""),
        }
        for checkpoint, test_sets in record["scores"].items()
        for test_set, measured in test_sets.items()
        for metric, score in measured.items()
    ]
    return [{"scored_by": str(record["scored_by"]), **row} for row in rows or [NO_SCORE]]


def _settings(experiment: str, variant: str, model: str) -> dict[str, str]:
    """Split a cell's name into the norm and the settings that the model and the schedule do not already imply."""
    norm, *given = variant.split(",")
    settings = ", ".join(item for item in given if not (model and CHOICES.fullmatch(item)))
    if shares_batches(experiment):  # the processes share the batches; only the norm's statistics differ
        settings = re.sub(r"\bprocesses=", PER_REPLICA, settings)
    return {"variant": variant, "norm": norm, "model": model, "settings": settings}


def _diverged(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a run that diverged; it joins the cell of the completed runs of its name, if there are any."""
    try:
        experiment, variant, seed, reason, config = (
            (read_json(path, REMEDY) or {})[key] for key in ("experiment", "variant", "seed", "diverged", "config")
        )
        model = recorded_model(config, any(map(sees_sentence, names_in(config.get("model.norm", "")))))
        own = {"experiment": experiment, "seed": int(seed), "diverged": str(reason), "scored_by": ""}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not say which run diverged and how ({error}). Remove it") from error
    _check_place(path, str(experiment), str(variant), f"seed{own['seed']}{DIVERGED}")
    alike = next((row for row in rows if (row["experiment"], row["variant"]) == (experiment, variant)), None)
    if alike is None:
        alike = NO_RUN | _settings(experiment, variant, model) | {"budget": _budget(config)}
    return {**alike, **NO_SCORE, **own, "train_curve": (), "valid_curve": ()}


def _budget(config: Mapping[str, Any]) -> str:
    """Return the name of a shortened schedule, or "" for the full one."""
    name = config.get("budget.name")
    return "" if name in (None, "full") else str(name)


def _curve(points: list[dict[str, Any]]) -> Curve:
    return tuple((_number(point["update"]), _number(point["loss"])) for point in points)


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)
