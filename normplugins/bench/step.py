"""``normplugins bench step``: one training update of the IWSLT14 model, ours and stock fairseq's, in words a second."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import numpy as np
import torch
from fairseq import tasks
from fairseq.data import Dictionary
from fairseq.trainer import Trainer as FairseqTrainer
from omegaconf import DictConfig

import normplugins
from normplugins.bench.apart import Apart
from normplugins.bench.options import Options
from normplugins.bench.results import add_rows, case_of, here, measured
from normplugins.bench.stock import stock_trainer
from normplugins.bench.tables import case_table, growth_table, show
from normplugins.bench.timing import Timing, compare
from normplugins.corpora import corpus_config
from normplugins.evaluation.tasks import kind_of
from normplugins.evaluation.translation import bare_task
from normplugins.models.torch_compile import compile_layers
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config, fairseq_config
from normplugins.runs.measured_step import made_up
from normplugins.runs.plan import corpus_size
from normplugins.training.batches import bucket_by_length
from normplugins.training.distributed import on_cpu
from normplugins.training.trainer import Trainer
from normplugins.utils.errors import UserError

EXPERIMENT, BASELINE = "iwslt14", "stock ln"
NORMS = ("ln", "pn")
REPEATS, WARMUP = {True: 5, False: 30}, {True: 1, False: 5}  # by whether it is the CPU, where an update takes seconds
Batch = dict[str, Any]
Size = tuple[int, int, int]
"""Tokens in a batch, tokens in a sentence, types in the dictionary."""
Update = Callable[[Batch], None]


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
        with contestants(configs, task, options.compiled) as updates:
            found = measure(updates, batches, repeats, warmup, cuda=not cpu)
        add_rows(options.csv, rows := rows_of(case, found, batches[warmup:], where))
        show(case_table(rows))
        if not options.quick:
            for what, sizes in (series or growing(cpu)).items():
                terms = dict(where) | {"repeats": max(3, repeats // 2)}
                show(growth_table(what, list(grow(options, configs, sizes, terms))))
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
    if config.train.bucket_by_length:
        bucket_by_length(task, "train")
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


@contextmanager
def contestants(configs: Mapping[str, DictConfig], task: Any, compiled: bool = False) -> Iterator[dict[str, Update]]:
    """What makes an update of stock fairseq's model, and of ours with each norm, ``compiled`` too if wanted.

    On a CPU stock fairseq is in a process of its own, on a GPU in bf16 it comes in fp16 too.
    """
    base = fairseq_config(configs["ln"])
    with ExitStack() as stack:
        if on_cpu(base):
            updates: dict[str, Update] = {
                BASELINE: stack.enter_context(Apart(stock_update, base, task.source_dictionary))
            }
        else:
            updates = {BASELINE: stock_update(base, task.source_dictionary)}
            if base.common.bf16:
                base.common.bf16, base.common.fp16 = False, True
                updates[f"{BASELINE} fp16"] = stock_update(base, task.source_dictionary)
        for name, config in configs.items():
            settings = fairseq_config(config)
            for provider in (name, f"{name} compiled") if compiled else (name,):
                model = task.build_model(settings.model)
                if provider != name:
                    compile_layers(model)
                updates[provider] = updating(Trainer(settings, task, model, task.build_criterion(settings.criterion)))
        yield updates


def stock_update(config: DictConfig, dictionary: Dictionary) -> Update:
    """What makes an update of stock fairseq's model; ``config`` is fairseq's part of the experiment's."""
    normplugins.register()
    return updating(stock_trainer(config, bare_task(config.task, dictionary)))


def updating(trainer: FairseqTrainer) -> Update:
    """What makes an update with a batch, as training does."""

    def update(batch: Batch) -> None:
        figures = trainer.train_step([batch], raise_oom=True)
        assert figures is None or math.isfinite(figures["loss"])  # None: fp16 has overflowed
        trainer.get_model().set_num_updates(trainer.get_num_updates())  # the norms' statistics take their step

    return update


def measure(
    updates: Mapping[str, Update], batches: Sequence[Batch], repeats: int, warmup: int, cuda: bool = False
) -> dict[str, Timing]:
    """Time an update of each, in turns; in the same turn all take the same batch."""

    def taking(update: Update) -> Callable[[], None]:
        left = cycle(batches)
        return lambda: update(next(left))

    calls = {name: taking(update) for name, update in updates.items()}
    return compare(calls, repeats, warmup=warmup, cuda=cuda)


def words_per_s(timing: Timing, batches: Sequence[Batch]) -> float:
    """Target words a second: the median over the turns, each with its batch."""
    words = [int(batch["ntokens"]) for batch in batches]
    return float(np.median(np.divide(words, timing.seconds)))


def rows_of(
    case: str, found: Mapping[str, Timing], batches: Sequence[Batch], where: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The rows of a case; ``batches`` are those of the turns."""

    def rate(_name: str, _direction: str, timing: Timing) -> dict[str, float]:
        return {"words_per_s": words_per_s(timing, batches)}

    return measured("step", case, {(name, ""): timing for name, timing in found.items()}, BASELINE, rate, where)


def growing(cpu: bool) -> dict[str, list[Size]]:
    """Sizes of growing work, by what grows."""
    full, length, types = 1024 if cpu else 4096, 32, 10_000
    return {
        "tokens": [(tokens, length, types) for tokens in (full // 2, full, 2 * full)],
        "length": [(full, longer, types) for longer in (16, 64, 256)],
        "types": [(full, length, more) for more in (5_000, 10_000, 20_000)],
    }


def grow(
    options: Options, configs: Mapping[str, DictConfig], sizes: Sequence[Size], where: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Measure made-up batches of each size and record them; gives the rows."""
    base, repeats = configs["ln"], where["repeats"]
    kind, settings = kind_of(base.task._name), fairseq_config(base)
    for types, alike in groupby(sizes, key=lambda size: size[2]):
        task, batch = made_up(kind, settings, types)
        with contestants(configs, task) as updates:
            for tokens, length, _ in alike:
                batches = [batch(max(1, tokens // length), length) for _ in range(repeats + 1)]
                found = measure(updates, batches, repeats, 1, cuda=not on_cpu(base))
                case = described(base, types, "made-up", tokens, length)
                add_rows(options.csv, rows := rows_of(case, found, batches[1:], where))
                yield from rows
