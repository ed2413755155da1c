"""The page of a published run, beside its record: scores, settings, training, corpus, environment, the command."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from normplugins.export.model_card import key_values, record_sections
from normplugins.report.cells import duration
from normplugins.report.metrics import metric_name
from normplugins.report.records import REMEDY, WHOLE_TEST_SET, machine_names
from normplugins.report.table import build_table, markdown
from normplugins.runs.cell import is_shortened
from normplugins.runs.experiments import experiments
from normplugins.runs.inventory import published_path
from normplugins.utils.json_file import read_json

MOST_POINTS = 25
"""The maximum number of rows in the table of a training, evenly spaced; the record has every point."""
CURVES = {
    "epoch": ("epoch", "{:.0f}"),
    "update": ("update", "{:,.0f}"),
    "loss_train": ("latest\ntraining loss", "{:.3f}"),
    "lr": ("learning\nrate", "{:.5f}"),
    "loss": ("valid\nloss", "{:.3f}"),
    "train_mode_loss": ("valid loss,\ntraining mode", "{:.3f}"),
    "ppl": ("valid\nppl", "{:.2f}"),
}
"""The columns of the table of a training: heading and format."""
MAIN = ("optimization.lr", "lr_scheduler.warmup_updates", "dataset.max_tokens", "optimization.max_epoch",
        "optimization.max_update", "optimizer.weight_decay", "model.dropout", "criterion.label_smoothing")  # fmt: skip
"""The settings that the page of every run shows."""
CUSTOM = ("corpus.source", "corpus.target", *(f"corpus.{split}{end}" for split in ("train", "valid", "test")
                                             for end in ("", "_source", "_target", "_size")))  # fmt: skip


def run_pages(results: Path, found: pd.DataFrame) -> dict[str, str]:
    """Return the text of the page of each published run, by its path below the folder of the results."""
    pages = {}
    runs = found[found["diverged"] == ""]
    names: Any  # of groups, which pandas types as any scalar
    for names, rows in runs.groupby(["experiment", "variant", "seed"], sort=False):
        experiment, variant, seed = names
        path = published_path(results, experiment, variant, seed)
        pages[path.relative_to(results).with_suffix(".md").as_posix()] = _page(read_json(path, REMEDY) or {}, rows)
    return pages


def command(record: dict[str, Any]) -> str:
    """Return the commands that repeat a run: a checkout of its commit, and ``normplugins run`` with its overrides."""
    config, experiment = record["config"], record["experiment"]
    norm, *items = record["variant"].split(",")
    words = [f"norm={norm}", *(_override(item, config) for item in items if "=" in item), f"seed={record['seed']}"]
    if experiment not in experiments():
        of_files = [_override(f"{key}=", config) for key in CUSTOM if config.get(key) is not None]
        words = [f"experiment={experiment}", *of_files, *words]
        experiment = record["corpus"]["corpus"]
    if (hardware := config.get("hardware.name")) not in (None, "auto", "slurm"):
        words.append(f"hardware={hardware}")
    if record["hardware"]["device"] == "CPU":  # another number of threads rounds sums differently
        words.append(f"hardware.threads={record['hardware']['threads']}")
    commit = str(record.get("git_commit") or "")
    of_wheel = re.fullmatch(r"v[\w.]+\+g(\w+)", commit)  # as scripts/gpu_pack.sh names the version of its wheel
    commit = of_wheel[1] if of_wheel else "" if ".dev" in commit else commit.partition("+")[0]
    lines = [f"git checkout {commit}", "make setup"] if commit else []
    return "\n".join([*lines, " \\\n    ".join([f"normplugins run {experiment}", *map(shlex.quote, words)])])


def _override(item: str, config: dict[str, Any]) -> str:
    """Return an item of a cell's name as an override, with its value from the config."""
    key, _, value = item.partition("=")
    if key == "processes":
        return f"hardware.{item}"
    if key not in config:  # the option of a group
        return item
    found = config[key]
    return f"{key}={'null' if found is None else str(found).lower() if isinstance(found, bool) else found or value}"


def _page(record: dict[str, Any], rows: pd.DataFrame) -> str:
    norm, *items = record["variant"].split(",")
    training, config = record["training"], record["config"]
    others = f"`{'`, `'.join(items)}`" if items else "nothing else"
    differs = f"The norm is `{norm}`. The run differs from its experiment in {others}."
    if is_shortened(record["variant"]):
        differs += " The name is cut, so a setting may be missing here and in the command."
    commit = str(record.get("git_commit"))
    if commit.endswith("+changes"):
        differs += " The code had changes that were not committed."
    name = f"seed{record['seed']}.json"
    _, machine = machine_names(record["hardware"])
    took = f"{duration(training['wall_seconds'])} on {machine}"
    parts = [
        "<!-- Generated by `normplugins report` from the record: do not edit this page by hand. -->",
        f"# {record['experiment']}: {record['variant'].replace(',', ', ')}, seed {record['seed']}",
        f"Trained for {training['updates']:,} updates (stopped by {training['stopped_by']}) in {took}. "
        f"[Record]({name}), [all results](../../../README.md).",
        *([record["label"]] if record.get("label") else []),
        f"## Command\n\n```sh\n{command(record)}\n```",
        f"## Settings\n\n{differs} These are the main settings; the record holds all, under `config`.",
        key_values({key: config[key] for key in MAIN if config.get(key) is not None}),
        "## Scores",
        _scores(rows),
        "One run: a single seed does not rank two norms.",
        "## Loss by epoch",
        _curve(record["curves"]),
        *record_sections(record),
    ]
    return "\n\n".join(parts) + "\n"


def _scores(rows: pd.DataFrame) -> str:
    scored, scored_by = rows[rows["metric"] != ""], rows["scored_by"].iloc[0]
    if scored.empty:
        return "This run was not scored."
    first, checkpoints = scored["metric"].iloc[0], list(dict.fromkeys([scored_by, *scored["checkpoint"]]))
    shown = scored[(scored["test_set"] == WHOLE_TEST_SET) | (scored["metric"] == first)]
    shown = shown.sort_values("test_set", key=lambda names: names != WHOLE_TEST_SET, kind="stable")
    names = [metric_name(metric) if test_set == WHOLE_TEST_SET else f"{metric_name(metric)}, {test_set}"
             for metric, test_set in zip(shown["metric"], shown["test_set"], strict=True)]  # fmt: skip
    scores = shown.assign(name=names).pivot(index="name", columns="checkpoint", values="value")
    texts = scores.reindex(index=dict.fromkeys(names), columns=checkpoints).map("{:.2f}".format, na_action="ignore")
    brevity = (
        shown[shown["test_set"] == WHOLE_TEST_SET].drop_duplicates("checkpoint").set_index("checkpoint")["brevity"]
    )
    if brevity.notna().any():
        texts.loc["brevity penalty"] = brevity.map("{:.3f}".format, na_action="ignore")
    body: list[Any] = [{"": name, **row} for name, row in texts.fillna("").to_dict("index").items()]
    signatures = dict(zip(scored["metric"], scored["signature"], strict=True))
    notes = [f"{metric_name(metric)}: `{text}`" for metric, text in signatures.items() if text]
    return markdown(build_table("", body, [""], notes=[f"The recipe is scored by the {scored_by} checkpoint.", *notes]))


def _curve(curves: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table of the validation losses, each with the last training loss before it."""
    if not curves["valid"]:
        return "The record holds no validation loss."
    training = pd.DataFrame(curves["train"], columns=["update", "loss", "lr"], dtype=float)
    points = pd.merge_asof(pd.DataFrame(curves["valid"]).astype(float), training, on="update", suffixes=("", "_train"))
    chosen = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))
    keys = [key for key in CURVES if key in points]
    rows = [
        {CURVES[key][0]: "" if pd.isna(point[key]) else CURVES[key][1].format(point[key]) for key in keys}
        for _, point in points.iloc[chosen].iterrows()
    ]
    note = "Losses are in bits per token, with label smoothing where the recipe has it; ppl is without it."
    return markdown(build_table("", rows, (), notes=[note]))
