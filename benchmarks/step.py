"""One training update of the IWSLT14 model, ours and stock fairseq's, in target words per second.

python -m benchmarks.step [--norms ln,pn,bn] [--repeats 9] [--lengths FILE.npz] [hardware=cpu ...]
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary
from fairseq.trainer import Trainer as FairseqTrainer
from omegaconf import DictConfig

import normplugins
from benchmarks import page
from benchmarks.measure import case_of, machine, parse, parser_with, rows, take_turns
from benchmarks.stock import stock_function, stock_trainer
from benchmarks.texts import MADE_UP, random_batches, text_task
from normplugins.cli import call
from normplugins.evaluation import reestimate
from normplugins.evaluation.tasks import run_task
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config, expand_sweep, fairseq_config
from normplugins.training.distributed import on_cpu
from normplugins.training.trainer import Trainer
from normplugins.utils.errors import UserError

PARSER = parser_with(__doc__, "--norms", "--repeats", "--lengths", "overrides")
EXPERIMENT, BASELINE = "iwslt14", "stock ln"
NORMS = ("ln", "pn")
Batch = dict[str, Any]
Update = Callable[[Batch], None]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure an update with each norm, and one of stock fairseq."""
    options = parse(PARSER, argv)
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    norms = dict.fromkeys(("ln", *(options.norms or NORMS)))
    configs: dict[str, DictConfig] = {}
    for job in expand_sweep(options.overrides):  # precision=float32,bf16 measures both in turns
        name_of = "{} bf16" if "precision=bf16" in job else "{}"
        made = {name_of.format(name): composed(name, job) for name in norms}
        if made.keys() & configs.keys():
            raise UserError(f"{' '.join(options.overrides)}: only precision can have several values, measured in turns")
        configs |= made
    first = next(iter(configs.values()))
    cpu = on_cpu(first)
    repeats, where = options.repeats or (5 if cpu else 30), machine(options.threads, cpu)
    with page.regenerated(options.results):
        case, task, batches = training_batches(first, 2 * repeats, options.lengths)
        with update_functions(configs, task) as updates:
            found = {(name, ""): times for name, times in measure(updates, batches, repeats).items()}
        words = float(np.mean([batch["ntokens"] for batch in batches]))
        page.add(options.results, rows("step", case, found, BASELINE, where, words=words))


def composed(norm: str, overrides: Sequence[str]) -> DictConfig:
    """Return the experiment's config with a norm in its encoder. Raises UserError if it is refused."""
    if chosen := [override for override in overrides if override.startswith("norm=")]:
        raise UserError(f"{chosen[0]}: norms are chosen by --norms {chosen[0].partition('=')[2]}")
    config = compose_config(EXPERIMENT, [*overrides, f"norm={norm}"])
    check(config)
    return config


def training_batches(config: DictConfig, count: int, lengths: Path | None = None) -> tuple[str, Any, list[Batch]]:
    """Return the case, the task, and the first batches of training.

    The text is random words in pairs with the lengths in the file ``lengths``; without a file, the prepared corpus;
    without either, random words in sentences of the published mean length.
    """
    task, text = text_task(config, lengths)
    case = described(config, len(task.target_dictionary), text)
    if text == MADE_UP:
        _, batch, sentences = random_batches(config)
        return case, task, [batch(sentences) for _ in range(count)]
    longest = config.model.max_source_positions, config.model.max_target_positions
    return case, task, list(islice(cycle(reestimate.training_batches(config, task, longest)), count))


def described(config: DictConfig, types: int, text: str) -> str:
    """Return the case: sizes of model, batch and dictionary, the text, and the settings that are not the default."""
    model = config.model
    settings = config.variant.partition(",")[2]
    return case_of(
        layers=f"{model.encoder_layers}+{model.decoder_layers}",
        channels=model.encoder_embed_dim,
        tokens=config.dataset.max_tokens,
        types=types,
        text=text,
        dtype="float32",  # of stock fairseq
        **({"settings": settings} if settings else {}),
    )


@contextmanager
def update_functions(configs: Mapping[str, DictConfig], task: Any) -> Iterator[dict[str, Update]]:
    """Yield functions that make one update on a batch: of stock fairseq's model, and of ours with each norm."""
    base = fairseq_config(next(iter(configs.values())))
    cpu, dictionary = on_cpu(base), task.source_dictionary
    with stock_function(cpu, stock_update, base, dictionary) as baseline:
        updates: dict[str, Update] = {BASELINE: baseline}
        for name, config in configs.items():
            updates[name] = own_update(fairseq_config(config), task)
        yield updates


def stock_update(config: DictConfig, dictionary: Dictionary) -> Update:
    """Return a function that updates stock fairseq's model; ``config`` is fairseq's part of an experiment's config."""
    normplugins.register()
    return updating(stock_trainer(config, run_task("translation").bare_task(config.task, dictionary)))


def own_update(config: DictConfig, task: Any) -> Update:
    """Return a function that updates our model; ``config`` is fairseq's part of an experiment's config."""
    return updating(Trainer(config, task, task.build_model(config.model), task.build_criterion(config.criterion)))


def updating(trainer: FairseqTrainer) -> Update:
    """Return a function that makes one update with a batch."""

    def update(batch: Batch) -> None:
        figures = trainer.train_step([batch], raise_oom=True)
        assert math.isfinite(figures["loss"])
        trainer.get_model().set_num_updates(trainer.get_num_updates())  # the norms update their statistics

    return update


def measure(updates: Mapping[str, Update], batches: Sequence[Batch], repeats: int) -> dict[str, list[float]]:
    """Time an update of each model in turns. In a turn, all take the same two batches, the first as a warm-up."""

    def taking(update: Update) -> Callable[[], None]:
        left = cycle(batches)
        return lambda: update(next(left))

    return take_turns({name: taking(update) for name, update in updates.items()}, repeats)


if __name__ == "__main__":
    sys.exit(call(main))
