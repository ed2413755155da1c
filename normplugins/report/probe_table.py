"""Turns the statistics probe of published records into one tidy table, from which figures and claims are made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from normplugins.report.contrasts import CELLS, EXPERIMENT
from normplugins.report.records import REMEDY, norm_rank
from normplugins.report.table import build_table
from normplugins.runs.inventory import split_diverged
from normplugins.utils.json_file import read_json
from normplugins.utils.terminal import Table

COLUMNS = ["cell", "seed", "update", "layer", "quantity", "value"]
FIRST = "encoder.layers.0.self_attention.norm"
"""The first norm of the transformer."""
VALIDATION = "validation"
"""The ``layer`` of numbers about the whole model, which ``OF_MODEL`` lists."""
OF_MODEL = ("loss", "train_mode_loss", "largest_nu")
FIRST_SHOWN = 10
"""The first update that figures show; before it, running statistics consist mostly of their initial values."""
EARLY, WARMUP = 50, 1000
"""The updates at which running statistics have forgotten their initial values (0.9^50 < 0.01) and PN's warmup ends."""
LAST_EPOCHS = 5
"""The number of epochs whose checkpoints are averaged for the score."""
VISION = "vision_statistics.json"
VISION_REMEDY = "restore it, or run python -m benchmarks.vision_statistics again"
RESNET_CHANNELS = 16
"""Channels of the first norm of a ResNet20."""


def probe_table(results: Path) -> pd.DataFrame:
    """Return the numbers of the statistics probe in all published runs of Multi30k, one number in each row.

    The quantities are defined in docs/probe.md. Two more are computed here: ``grad_mean_relative`` and
    ``grad_product_relative`` are the norms of mean(γ g) and of Λ_B, divided by the root mean square over tokens of the
    norm of g. A number that is not finite is NaN. The columns are ``COLUMNS``; cells are in the order of the report,
    layers in the order of the model.

    Raises:
        UserError: a record is damaged.
    """
    ended, _ = split_diverged((results / "runs" / EXPERIMENT).glob("*/seed*.json"))
    rows: list[tuple[Any, ...]] = []
    for path in sorted(ended, key=lambda path: (norm_rank(path.parent.name.split(",")[0]), path.parts[-2:])):
        record = read_json(path, REMEDY) or {}
        run = (path.parent.name, int(path.stem.removeprefix("seed")))
        config = record.get("config", {})
        for point in record.get("statistics_probe") or []:
            for layer, numbers in point["layers"].items():
                width = config.get(f"model.{layer.split('.')[0]}_embed_dim")
                rows += _rows((*run, point["update"], layer), numbers, width)
        for point in record.get("curves", {}).get("valid", []):
            losses = {name: point[name] for name in OF_MODEL if name in point}
            rows += _rows((*run, point["update"], VALIDATION), losses)
    return pd.DataFrame(rows, columns=COLUMNS)


def vision_table(results: Path) -> pd.DataFrame:
    """Return the same kind of table for the first norm of a ResNet20; it is empty if ``VISION`` does not exist.

    Raises:
        UserError: the file is damaged.
    """
    record = read_json(results / VISION, VISION_REMEDY) or {}
    rows: list[tuple[Any, ...]] = []
    for point in record.get("points", []):
        numbers = {name: value for name, value in point.items() if name not in ("update", "loss")}
        rows += _rows(("bn", record["seed"], point["update"], FIRST), numbers, RESNET_CHANNELS)
    return pd.DataFrame(rows, columns=COLUMNS)


def vision_shown(results: Path) -> str:
    """Return a note that says which run of a ResNet20 the figures show.

    Raises:
        UserError: the file of the run is damaged.
    """
    record = read_json(results / VISION, VISION_REMEDY)
    if not record:
        return "ResNet20 on CIFAR-10: not run"
    part = "" if record["corpus"]["published"] else " (a subset, not from the official archive)"
    return f"ResNet20 on {record['corpus']['images']:,} images of CIFAR-10{part}, seed {record['seed']}"


def along_training(table: pd.DataFrame, quantities: Iterable[str], begin: int = FIRST_SHOWN) -> pd.DataFrame:
    """Return the rows of these quantities from an update on, without numbers that a logarithmic axis cannot show."""
    return table[table["quantity"].isin([*quantities]) & (table["update"] >= begin) & (table["value"] > 0)]


def loss_gaps(table: pd.DataFrame) -> dict[Any, float]:
    """Return the mean validation loss minus that in training mode (bits) from ``WARMUP`` on, by cell and seed."""
    rows = table[(table["layer"] == VALIDATION) & (table["update"] >= WARMUP)]
    losses = rows.pivot(index=["cell", "seed", "update"], columns="quantity", values="value")
    if "train_mode_loss" not in losses:
        return {}
    gaps = (losses["loss"] - losses["train_mode_loss"]).dropna()
    return dict(gaps.groupby(level=["cell", "seed"]).mean())


def losses_minus_ln(table: pd.DataFrame) -> pd.DataFrame:
    """Return the validation loss of each run in its last epochs minus LN's with the same seed, in bits.

    The columns are ``loss``, with running statistics, and ``train_mode_loss``, with the statistics of each batch. Both
    are means of ``LAST_EPOCHS`` epochs. The table is indexed by cell and seed, and empty without LN.
    """
    columns = ["loss", "train_mode_loss"]
    rows = table[(table["layer"] == VALIDATION) & table["quantity"].isin(columns)].sort_values("update")
    last = rows.groupby(["cell", "seed", "quantity"], sort=False).tail(LAST_EPOCHS)
    losses = last.groupby(["cell", "seed", "quantity"], sort=False)["value"].mean().unstack().reindex(columns=columns)
    if "ln" not in losses.index:
        return losses.iloc[:0]
    lns: Any = losses.loc["ln", "loss"]  # by seed
    return losses.sub(lns, axis=0, level="seed").dropna(subset="loss").drop(index="ln")


def loss_table(probe: pd.DataFrame) -> Table:
    """Return the table of the validation losses of each cell minus LN's; it has no row without LN."""
    headings = {"loss": "running statistics", "train_mode_loss": "batch statistics"}
    losses = losses_minus_ln(probe).rename(columns=headings)
    rows = [
        {"cell": cell, "seeds": str(len(losses.loc[cell])),
         **{name: mean_and_range(losses.loc[cell][name]) for name in headings.values()}}
        for cell in CELLS if cell in losses.index
    ]  # fmt: skip
    notes = [
        f"In bits per token, with the same seeds, as the mean of the last {LAST_EPOCHS} epochs. The lowest and the "
        "highest seed are in parentheses. All losses are label-smoothed.",
        "Models are scored with running statistics. The last column has the loss in training mode, with the statistics "
        "of each batch. After its warmup, PN has the same loss in both, because it trains with running statistics.",
    ]
    return build_table(
        "Validation loss minus that of LN", rows, texts=["cell"], notes=notes, slug=f"{EXPERIMENT}-validation-loss"
    )


def mean_and_range(bits: pd.Series[Any]) -> str:
    """Return the mean over seeds with the lowest and the highest seed, such as ``+0.027 (+0.007 to +0.052)``."""
    if bits.isna().all():
        return ""
    seeds = f" ({bits.min():+.3f} to {bits.max():+.3f})" if len(bits) > 1 else ""
    return f"{bits.mean():+.3f}{seeds}"


def runs_shown(table: pd.DataFrame) -> str:
    """Return a note with the cells, the seeds and, if there are any, the updates of a table."""
    cells = table.groupby("cell", sort=False)["seed"].agg(seed_numbers)
    runs = "; ".join(f"{', '.join(names.index)} ({seeds})" for seeds, names in cells.groupby(cells, sort=False))
    return f"{runs}; updates {table['update'].min():,} to {table['update'].max():,}" if "update" in table else runs


def seed_numbers(seeds: Iterable[int]) -> str:
    """Return the numbers of seeds in words: ``seed 1``, ``seeds 1, 3`` or ``seeds 1–9``."""
    numbers = sorted({*seeds})
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"seeds {numbers[0]}–{numbers[-1]}"
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _rows(run: tuple[Any, ...], numbers: Mapping[str, Any], width: int | None = None) -> Iterator[tuple[Any, ...]]:
    values = {name: math.nan if value is None else float(value) for name, value in numbers.items()}
    if width and values.get("grad_output"):
        token = values["grad_output"] / math.sqrt(values["tokens"])
        for name in ("grad_mean", "grad_product"):
            values[f"{name}_relative"] = values.get(name, math.nan) * width / token
    return ((*run, name, value) for name, value in values.items())
