"""The page of a published run, beside its record: scores, settings, training, corpus, environment, the command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from normplugins.export.model_card import record_sections
from normplugins.report.cells import METRICS, duration
from normplugins.report.records import REMEDY, WHOLE, machine_names
from normplugins.report.table import Column, Table, markdown
from normplugins.runs.experiments import experiments
from normplugins.runs.inventory import published_path
from normplugins.utils.json_file import read_json

MOST_POINTS = 25
"""The rows of the table of a long training, evenly spaced; the record has every point."""
CURVES = {"loss": "valid\nloss", "train_mode_loss": "valid loss,\ntraining mode", "ppl": "valid\nppl"}
CUSTOM = ("corpus.source", "corpus.target", *(f"corpus.{split}{end}" for split in ("train", "valid", "test")
                                             for end in ("", "_source", "_target", "_size")))  # fmt: skip


def page_path(experiment: str, variant: str, seed: int) -> str:
    """Return the path of a run's page below the folder of the results."""
    return published_path(Path(), experiment, variant, seed).with_suffix(".md").as_posix()


def page_links(runs: pd.DataFrame) -> str:
    """Return Markdown links to the pages of runs, by cell and seed; empty without a run that ended well."""
    ended = runs[runs["diverged"] == ""].drop_duplicates(["experiment", "variant", "seed"])
    cells = []
    for (experiment, variant), members in ended.groupby(["experiment", "variant"], sort=False):
        seeds = [f"[{seed}](<{page_path(str(experiment), str(variant), seed)}>)" for seed in members["seed"]]
        cells.append(f"{str(variant).replace(',', ', ')}: {', '.join(seeds)}")
    return f"The page of each run, by seed: {'; '.join(cells)}." if cells else ""


def run_pages(results: Path, found: pd.DataFrame) -> dict[str, str]:
    """Return the text of the page of each published run, by its path below the folder of the results.

    Args:
        results: the folder of the records.
        found: the records, as :func:`normplugins.report.records.read_results` returns them.
    """
    pages = {}
    runs = found[found["diverged"] == ""]
    for (experiment, variant, seed), rows in runs.groupby(["experiment", "variant", "seed"], sort=False):
        record = read_json(published_path(results, experiment, variant, seed), REMEDY)
        if record is not None:
            pages[page_path(experiment, variant, seed)] = _page(record, rows)
    return pages


def command(record: dict[str, Any]) -> str:
    """Return the lines that give a run again: its commit, and ``normplugins run`` with the settings of its cell."""
    config, experiment = record.get("config", {}), record["experiment"]
    norm, *items = record["variant"].split(",")
    words = [f"norm={norm}", *(_override(item, config) for item in items if "=" in item), f"seed={record['seed']}"]
    if experiment not in experiments():
        of_files = [_override(f"{key}=", config) for key in CUSTOM if config.get(key) is not None]
        words = [f"experiment={experiment}", *of_files, *words]
        experiment = record["corpus"]["corpus"]
    if (hardware := config.get("hardware.name")) not in (None, "auto", "slurm"):
        words.append(f"hardware={hardware}")
    commit = str(record.get("git_commit") or "").partition("+")[0]
    lines, text = [f"git checkout {commit}"] if commit else [], f"normplugins run {experiment}"
    for word in map(shlex.quote, words):
        if len(text) + len(word) > 76:
            lines.append(f"{text} \\")
            text = f"    {word}"
        else:
            text = f"{text} {word}"
    return "\n".join([*lines, text])


def _override(item: str, config: dict[str, Any]) -> str:
    """Return an item of a cell's name as it is typed, with its value from the config."""
    key, _, value = item.partition("=")
    if key == "processes":
        return f"hardware.{item}"
    if key not in config:  # the option of a group
        return item
    found = config[key]
    return f"{key}={'null' if found is None else str(found).lower() if isinstance(found, bool) else found or value}"


def _page(record: dict[str, Any], rows: pd.DataFrame) -> str:
    norm, *items = record["variant"].split(",")
    training, first = record["training"], rows.iloc[0]
    differs = f"Differs from the experiment in `{'`, `'.join([f'norm={norm}', *items])}`."
    if any("=" not in item for item in items):
        differs += " The name is cut, so a setting may be missing here and in the command."
    commit = str(record.get("git_commit"))
    if commit.endswith("+changes"):
        differs += " The code had changes that are in no commit."
    name = f"seed{record['seed']}.json"
    machine, _ = machine_names(record["hardware"])
    took = f"{duration(training['wall_seconds'])} on {machine}"
    parts = [
        "<!-- Generated by `normplugins report` from the record: do not edit this page by hand. -->",
        f"# {record['experiment']}: {record['variant'].replace(',', ', ')}, seed {record['seed']}",
        f"Trained for {training['updates']:,} updates ({training['stopped_by']}) in {took}. [Record]({name}), "
        "[all results](../../../README.md).",
        *([record["label"]] if record.get("label") else []),
        f"## Command\n\n```sh\n{command(record)}\n```",
        f"## Settings\n\n{differs} The record holds every setting, under `config`.",
        "## Scores",
        _scores(rows, first["scored_by"]),
        "One run: a single seed does not rank two norms.",
        "## Loss by epoch",
        _curve(record["curves"]),
        *record_sections(record),
    ]
    return "\n\n".join(parts) + "\n"


def _scores(rows: pd.DataFrame, scored_by: str) -> str:
    scored = rows[rows["metric"] != ""]
    if scored.empty:
        return "This run was not scored."
    checkpoints = list(dict.fromkeys([scored_by, *scored["checkpoint"]]))
    values = scored.set_index(["metric", "test_set", "checkpoint"])
    keys = scored[["metric", "test_set"]].drop_duplicates().itertuples(index=False)
    lines = [
        (f"{METRICS.get(metric, (metric,))[0]}{'' if test_set == WHOLE else f', {test_set}'}", (metric, test_set))
        for metric, test_set in sorted(keys, key=lambda key: key[1] != WHOLE)
        if test_set == WHOLE or metric == scored["metric"].iloc[0]
    ]

    def row(name: str, key: tuple[str, str], column: str, digits: int) -> list[str]:
        found = (values[column].get((*key, checkpoint), np.nan) for checkpoint in checkpoints)
        return [name, *("" if np.isnan(each) else f"{each:.{digits}f}" for each in found)]

    body = [row(name, key, "value", 2) for name, key in lines]
    if scored["brevity"].notna().any():
        body.append(row("brevity penalty", lines[0][1], "brevity", 3))
    signatures = scored.drop_duplicates("metric").set_index("metric")["signature"]
    notes = [f"{METRICS.get(metric, (metric,))[0]}: `{text}`" for metric, text in signatures.items() if text]
    columns = [Column("", right=False), *map(Column, checkpoints)]
    return _table(columns, body, [f"The recipe is scored by the {scored_by} checkpoint.", *notes])


def _curve(curves: dict[str, list[dict[str, Any]]]) -> str:
    points = curves["valid"]
    if not points:
        return "The record holds no validation loss."
    chosen = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))
    keys = [key for key in CURVES if any(point.get(key) is not None for point in points)]
    body = []
    for point in (points[index] for index in chosen):
        before = [each for each in curves["train"] if each["update"] <= point["update"]]
        training = [f"{before[-1]['loss']:.3f}", f"{before[-1]['lr']:.5f}"] if before else ["", ""]
        valid = ["" if point.get(key) is None else f"{point[key]:.{2 if key == 'ppl' else 3}f}" for key in keys]
        body.append([f"{point['epoch']}", f"{point['update']:,}", *training, *valid])
    heads = ["epoch", "update", "training\nloss", "learning\nrate", *(CURVES[key] for key in keys)]
    return _table(
        list(map(Column, heads)),
        body,
        ["Losses in bits per token, with label smoothing where the recipe has it; ppl without."],
    )


def _table(columns: list[Column], body: list[list[str]], notes: list[str]) -> str:
    return markdown(Table("", columns, body, notes))
