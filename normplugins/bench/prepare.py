"""``normplugins bench prepare``: sentence pairs a second of each stage of preparing a corpus, and how they grow."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from normplugins.bench.options import Options
from normplugins.bench.results import add_rows, case_of, here, measured
from normplugins.bench.tables import case_table, growth_table, show
from normplugins.bench.timing import Timing
from normplugins.corpora import CORPORA, corpus_config, prepare
from normplugins.runs.compose import compose_config
from normplugins.utils.download import find_in_mirror
from normplugins.utils.worker_processes import available_cores

# A stage begins where the corpus says so. Learning subwords is one process's work, whatever the number of processes.
STAGES = {"tokenizing": "tokenize", "learning": "learn", "splitting": "split", "binarizing": "binarize"}
ALL, BASELINE = "all", "1 process"
REPEATS = 3
SIZES = (2_500, 5_000, 10_000)  # training pairs of the generated corpus


def run(options: Options, sizes: Sequence[int] = SIZES) -> None:
    """Measure, print and record: Multi30k where its files are at hand, and generated corpora of growing size."""
    repeats, cores = options.repeats or REPEATS, options.threads or available_cores()
    providers = {BASELINE: 1} | ({f"{cores} processes": cores} if cores > 1 else {})
    where = here(repeats, cores)
    multi30k = compose_config("multi30k", _overrides("multi30k", "demo", options))
    if at_hand(multi30k):
        add_rows(options.csv, rows := measure(multi30k, providers, repeats, where))
        show(case_table(rows))
    grown = []
    for size in sizes[-1:] if options.quick else sizes:
        config = compose_config("demo", [*_overrides("demo", "multi30k", options), f"corpus.train_size={size}"])
        add_rows(options.csv, rows := measure(config, providers, repeats, where))
        show(case_table(rows))
        grown += [row for row in rows if row["direction"] == ALL]
    if not options.quick:
        show(growth_table("pairs", grown))


def _overrides(corpus: str, other: str, options: Options) -> list[str]:
    """Return the overrides without the settings that only the other corpus has."""
    own, others = ({f"corpus.{field.name}" for field in fields(CORPORA[name])} for name in (corpus, other))
    return [item for item in options.overrides if item.partition("=")[0] not in others - own]


def at_hand(config: DictConfig) -> bool:
    """Whether Multi30k's files need not be fetched: a benchmark does not wait for the network."""
    raw = Path(config.data_dir) / config.corpus.name / "raw" / "train.de.gz"
    return raw.is_file() or find_in_mirror(raw.name, config.corpus.name) is not None


def measure(
    config: DictConfig, providers: Mapping[str, int], repeats: int, where: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Prepare a corpus again and again, by these numbers of processes in turns; returns the rows.

    A row's direction is the stage; ``all`` is every stage together.
    """
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    pairs = 0
    for repeat in range(repeats):
        for name in list(providers)[:: 1 if repeat % 2 else -1]:
            pairs, stages = prepared(config, providers[name])
            for stage, taken in stages.items():
                seconds[name, stage].append(taken)

    def rate(_name: str, _stage: str, timing: Timing) -> dict[str, float]:
        return {"sentences_per_s": pairs / timing.median}

    keys = [(name, stage) for name in providers for stage in (*STAGES.values(), ALL)]
    case = case_of(corpus=config.corpus.name, pairs=pairs, subwords=config.corpus.subword_size)
    return measured("prepare", case, {key: Timing(tuple(seconds[key])) for key in keys}, BASELINE, rate, where)


def prepared(config: DictConfig, workers: int) -> tuple[int, dict[str, float]]:
    """Prepare a corpus in a folder of its own, once; returns its pairs, and each stage's seconds."""
    marks: list[tuple[str, float]] = []

    def echo(line: str) -> None:
        word = line.partition(": ")[2].split(" ")[0]
        if word in STAGES:
            marks.append((STAGES[word], time.perf_counter()))

    with tempfile.TemporaryDirectory() as folder:
        raw, own = Path(config.data_dir).absolute() / config.corpus.name / "raw", Path(folder) / config.corpus.name
        if raw.is_dir():
            own.mkdir()
            (own / "raw").symlink_to(raw)
        manifest = prepare(corpus_config(config.corpus), Path(folder), echo, workers).manifest
        end = time.perf_counter()
    ends = [*(begun for _, begun in marks[1:]), end]
    stages = {stage: after - begun for (stage, begun), after in zip(marks, ends, strict=True)}
    return sum(count["pairs"] for count in manifest["counts"].values()), stages | {ALL: end - marks[0][1]}
