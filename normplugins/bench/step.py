"""``normplugins bench step``: one training update of the IWSLT14 model, ours and stock fairseq's, in words a second."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import numpy as np
import torch
from fairseq import tasks
from fairseq.trainer import Trainer as FairseqTrainer
from omegaconf import DictConfig

import normplugins
from normplugins.bench.growth import growth
from normplugins.bench.options import Options
from normplugins.bench.results import add_row, against, case_of, here, times
from normplugins.bench.stock import stock_trainer
from normplugins.bench.table import ms, show
from normplugins.bench.timing import Timing, compare
from normplugins.corpora import corpus_config
from normplugins.errors import UserError
from normplugins.experiment.check import check
from normplugins.experiment.config import compose_config, fairseq_config
from normplugins.experiment.expected import corpus_size
from normplugins.experiment.kinds import kind_of
from normplugins.experiment.processes import on_cpu
from normplugins.experiment.step import made_up
from normplugins.experiment.trainer import Trainer

EXPERIMENT, BASELINE = "iwslt14", "stock ln"
NORMS = ("ln", "pn")
REPEATS, WARMUP = {True: 5, False: 30}, {True: 1, False: 5}  # by whether it is the CPU, where an update takes seconds
Batch = dict[str, Any]
Size = tuple[int, int, int]
"""Tokens in a batch, tokens in a sentence, types in the dictionary."""
Trainers = Mapping[str, FairseqTrainer]


def run(options: Options, series: Mapping[str, Sequence[Size]] | None = None) -> None:
    """Measure, print and record an update with each norm, and how its cost grows.

    ``series`` (by what grows: tokens, length or types) stands in the place of the usual one.

    Raises:
        UserError: the experiment's config is refused, or the GPU's memory does not suffice.
    """
    threads = options.set_threads()
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    configs = {name: composed(options, name) for name in dict.fromkeys(("ln", *(options.norms or NORMS)))}
    cpu = on_cpu(configs["ln"])
    repeats, warmup = options.repeats or REPEATS[cpu], WARMUP[cpu]
    where = here(repeats, threads, cpu)
    case, task, batches = training_batches(configs["ln"], warmup + repeats)
    try:
        trainers = build(configs, task)
        found = measure(trainers, batches, repeats, warmup)
        record(options, case, found, batches[warmup:], where)
        if not options.quick:
            for what, sizes in (series or growing(cpu)).items():
                grow(options, configs, what, sizes, max(3, repeats // 2), where)
    except torch.OutOfMemoryError as error:
        raise UserError("out of GPU memory: set a smaller dataset.max_tokens") from error


def composed(options: Options, norm: str) -> DictConfig:
    """The experiment's config with a norm in its encoder.

    Raises:
        UserError: the config is refused.
    """
    if chosen := [override for override in options.overrides if override.startswith("norm=")]:
        raise UserError(f"{chosen[0]}: norms are chosen by --norms {chosen[0].partition('=')[2]}")
    config = compose_config(EXPERIMENT, [*options.overrides, f"norm={norm}"])
    check(config)
    return config


def training_batches(config: DictConfig, count: int) -> tuple[str, Any, list[Batch]]:
    """The case in words, the task, and the first batches of training: random ones where no corpus is prepared."""
    corpus = corpus_config(config.corpus)
    bin_dir = Path(config.data_dir) / corpus.name / corpus.variant() / "bin"
    size = corpus_size(config)
    if not bin_dir.is_dir():
        task, batch = made_up(kind_of(config.task._name), fairseq_config(config), size.types)
        sentences = max(1, config.dataset.max_tokens // size.length)
        return described(config, size.types, "made-up"), task, [batch(sentences, size.length) for _ in range(count)]
    normplugins.register()
    settings = fairseq_config(config)
    settings.task.data = str(bin_dir)
    task = tasks.setup_task(settings.task)
    task.load_dataset("train")
    batches = task.get_batch_iterator(
        dataset=task.dataset("train"),
        max_tokens=config.dataset.max_tokens,
        max_sentences=config.dataset.batch_size,
        max_positions=(config.model.max_source_positions, config.model.max_target_positions),
        ignore_invalid_inputs=True,
        required_batch_size_multiple=config.dataset.required_batch_size_multiple,
        seed=config.common.seed,
    ).next_epoch_itr(shuffle=True)
    return described(config, len(task.target_dictionary), corpus.name), task, list(islice(cycle(batches), count))


def described(config: DictConfig, types: int, text: str, tokens: int | None = None, length: int | None = None) -> str:
    """The case: sizes of model, batch and dictionary, the text, and the settings that are not the experiment's own."""
    model = config.model
    sizes = {
        "layers": f"{model.encoder_layers}+{model.decoder_layers}",
        "channels": model.encoder_embed_dim,
        "tokens": tokens or config.dataset.max_tokens,
        **({"length": length} if length else {}),
        "types": types,
        "text": text,
        "dtype": "bfloat16" if config.common.bf16 else "float16" if config.common.fp16 else "float32",
    }
    settings = config.variant.partition(",")[2]
    return case_of(**sizes, **({"settings": settings} if settings else {}))


def build(configs: Mapping[str, DictConfig], task: Any) -> dict[str, FairseqTrainer]:
    """A trainer for stock fairseq, and one for each norm; on a GPU in bf16 stock fairseq in fp16 too."""
    base = fairseq_config(configs["ln"])
    trainers = {BASELINE: stock_trainer(base, task)}
    if base.common.bf16:
        base.common.bf16, base.common.fp16 = False, True
        trainers[f"{BASELINE} fp16"] = stock_trainer(base, task)
    for name, config in configs.items():
        settings = fairseq_config(config)
        model = task.build_model(settings.model)
        trainers[name] = Trainer(settings, task, model, task.build_criterion(settings.criterion))
    return trainers


def measure(trainers: Trainers, batches: Sequence[Batch], repeats: int, warmup: int) -> dict[str, Timing]:
    """Time an update of each, in turns; in the same turn all take the same batch."""
    calls = {name: _updates(trainer, batches) for name, trainer in trainers.items()}
    return compare(calls, repeats, warmup=warmup, cuda=any(trainer.cuda for trainer in trainers.values()))


def _updates(trainer: FairseqTrainer, batches: Sequence[Batch]) -> Callable[[], None]:
    left = cycle(batches)

    def update() -> None:
        figures = trainer.train_step([next(left)], raise_oom=True)
        assert figures is None or math.isfinite(figures["loss"])  # None: fp16 has overflowed
        trainer.get_model().set_num_updates(trainer.get_num_updates())  # the norms' statistics take their step

    return update


def words_per_s(timing: Timing, batches: Sequence[Batch]) -> float:
    """Target words a second: the median over the turns, each with its batch."""
    words = [int(batch["ntokens"]) for batch in batches]
    return float(np.median(np.divide(words, timing.seconds)))


def record(
    options: Options, case: str, found: Mapping[str, Timing], batches: Sequence[Batch], where: Mapping[str, Any]
) -> None:
    """Add a row for each, and print them."""
    rows = []
    for name, timing in found.items():
        speed, ratio = words_per_s(timing, batches), timing.ratio(found[BASELINE])
        row = {"benchmark": "step", "provider": name, "case": case, "words_per_s": round(speed, 1)}
        add_row(options.csv, row | times(timing) | against(BASELINE, timing, found[BASELINE]) | dict(where))
        rows.append([name, ms(timing), f"{speed:,.0f}", f"{1 / ratio:.2f}"])
    show(f"step: {case}, {where['hardware']}", ["", "an update, ms", "words/s", "× stock"], rows)


def growing(cpu: bool) -> dict[str, list[Size]]:
    """Sizes of growing work, by what grows."""
    full, length, types = 1024 if cpu else 4096, 32, 10_000
    return {
        "tokens": [(tokens, length, types) for tokens in (full // 2, full, 2 * full)],
        "length": [(full, longer, types) for longer in (16, 64, 256)],
        "types": [(full, length, more) for more in (5_000, 10_000, 20_000)],
    }


def grow(
    options: Options,
    configs: Mapping[str, DictConfig],
    what: str,
    sizes: Sequence[Size],
    repeats: int,
    where: Mapping[str, Any],
) -> None:
    """Measure made-up batches of each size, print and record how an update's cost grows."""
    base = configs["ln"]
    kind, settings = kind_of(base.task._name), fairseq_config(base)
    points, trainers, built_for = [], {}, 0
    for tokens, length, types in sizes:
        if types != built_for:
            task, batch = made_up(kind, settings, types)
            trainers, built_for = build(configs, task), types
        batches = [batch(max(1, tokens // length), length) for _ in range(repeats)]
        found = measure(trainers, batches, repeats, 1)
        case = described(base, types, "made-up", tokens, length)
        for name, timing in found.items():
            row = {"benchmark": "step", "provider": name, "case": case}
            speed = {"words_per_s": round(words_per_s(timing, batches), 1)}
            columns = row | times(timing) | speed | against(BASELINE, timing, found[BASELINE])
            add_row(options.csv, columns | dict(where) | {"repeats": repeats})
        points.append(found)
    values = [size[("tokens", "length", "types").index(what)] for size in sizes]
    rows = []
    for name in points[0]:
        medians = [found[name].median for found in points]
        grown = growth(values, medians)
        cells = [f"{1000 * seconds:,.0f}" for seconds in medians]
        rows.append([name, *cells, f"{grown.exponent:.2f}", f"{100 * grown.off_line:.0f} %"])
    head = [f"{what}:", *(f"{value:,}" for value in values), "exponent", "off a line"]
    show(f"step: an update in ms as {what} grow", head, rows)
