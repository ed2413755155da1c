"""Sentence pairs per second in each stage of preparing a corpus, with one process and with one per core.

python -m benchmarks.prepare [--quick] [--repeats 3] [corpus.KEY=VALUE ...]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from benchmarks import page
from benchmarks.measure import case_of, machine, parse, parser_with, rows
from normplugins.cli import call
from normplugins.corpora import corpus_config, prepare
from normplugins.runs.compose import compose_config
from normplugins.utils.download import find_in_mirror

PARSER = parser_with(__doc__, "--quick", "--repeats", "overrides")
# A stage begins when the preparation prints its line. Learning subwords always takes one process.
STAGES = {"tokenizing": "tokenize", "learning": "learn", "splitting": "split", "binarizing": "binarize"}
ALL, BASELINE = "all", "1 process"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the generated corpus and, without ``--quick``, Multi30k if its files need no download."""
    options = parse(PARSER, argv)
    providers = {BASELINE: 1} | ({f"{options.threads} processes": options.threads} if options.threads > 1 else {})
    where = machine(options.threads, cpu=True)
    corpora = ("demo",) if options.quick else ("demo", "multi30k")
    with page.regenerated(options.results):
        for config in (compose_config(name, options.overrides) for name in corpora):
            if config.corpus.name == "demo" or at_hand(config):
                page.add(options.results, measure(config, providers, options.repeats or 3, where))


def at_hand(config: DictConfig) -> bool:
    """Return whether Multi30k's files are on this machine; a benchmark downloads nothing."""
    raw = Path(config.data_dir) / config.corpus.name / "raw" / "train.de.gz"
    return raw.is_file() or find_in_mirror(raw.name, config.corpus.name) is not None


def measure(config: DictConfig, providers: Mapping[str, int], repeats: int, where: Mapping[str, Any]) -> pd.DataFrame:
    """Prepare a corpus with these numbers of processes in turns; a row's direction is the stage, or ``all``."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    pairs = 0
    for repeat in range(repeats):
        for name in list(providers)[:: 1 if repeat % 2 else -1]:
            print(f"preparing {config.corpus.name} with {name}, round {repeat + 1} of {repeats}", flush=True)
            pairs, stages = prepared(config, providers[name])
            for stage, taken in stages.items():
                seconds[name, stage].append(taken)

    keys = [(name, stage) for name in providers for stage in (*STAGES.values(), ALL)]
    case = case_of(corpus=config.corpus.name, pairs=pairs, subwords=config.corpus.subword_size)
    return rows("prepare", case, {key: seconds[key] for key in keys}, BASELINE, where, sentences=pairs)


def prepared(config: DictConfig, workers: int) -> tuple[int, dict[str, float]]:
    """Prepare a corpus once in a temporary folder; return its number of pairs and the seconds of each stage."""
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
        marks.append(("", time.perf_counter()))
    stages = {stage: after - begun for (stage, begun), (_, after) in pairwise(marks)}
    return sum(count["pairs"] for count in manifest["counts"].values()), stages | {ALL: marks[-1][1] - marks[0][1]}


if __name__ == "__main__":
    sys.exit(call(main))
