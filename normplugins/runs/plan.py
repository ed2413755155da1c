"""What a run would be (``dry_run=true``): its parameters, tokens, updates and memory, and one measured step."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from normplugins.corpora import ParallelCorpus, RunningText, corpus_config
from normplugins.evaluation.tasks import kind_of
from normplugins.runs.check import check
from normplugins.runs.compose import fairseq_config
from normplugins.runs.measured_step import Step, made_up, measure
from normplugins.runs.run import run_title, set_threads
from normplugins.training.distributed import on_cpu, world_size

# Sentences and tokens of training texts that neither a config nor a paper states: the side with more tokens, with
# subwords and the end of each sentence counted. IWSLT14: fairseq's recipe. WMT14: fairseq's log of the same three
# corpora with a joint BPE of 32,000 (WMT16 en-de): 4,500,966 pairs, 132,886,171 en, 137,628,246 de.
COUNTED = {"iwslt14": (160_239, 4_035_591 + 160_239), "wmt14": (4_500_966, 137_628_246)}
LENGTH, LONGEST = 30, 100  # tokens in a sentence of an unknown corpus
WIDTH = 110  # columns if the output is no terminal


@dataclass(frozen=True)
class CorpusSize:
    """The size of a training text; a sentence is a segment if the text is one stream.

    ``types``: symbols of the dictionary. ``sentences``, ``tokens``: of an epoch, on the side with more tokens, with the
    end of each sentence; None if unknown. ``length``, ``longest``: tokens in a usual and in the longest sentence.
    ``source``: how all this is known.
    """

    types: int
    sentences: int | None
    tokens: int | None
    length: int
    longest: int
    source: str


@dataclass(frozen=True)
class Plan:
    """What follows from the config and the size of the corpus, and one measured step.

    ``batch_tokens``: the most tokens in a batch. ``batches``: of each process in an update. ``per_epoch``: updates in
    an epoch of full batches; None if the size of the corpus is unknown.
    """

    size: CorpusSize
    step: Step
    device: str
    processes: int
    batch_tokens: int
    batches: int
    per_epoch: int | None

    @property
    def tokens_per_update(self) -> int:
        """The most tokens in an update, over all processes."""
        return self.batch_tokens * self.batches * self.processes


def show_plan(config: DictConfig) -> None:
    """Print what a run would be; raises UserError if the run would be refused."""
    plan = make_plan(config)
    table = Table.grid(padding=(0, 2))
    for name, text in describe(config, plan):
        table.add_row(f"  {name}", text)
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else WIDTH
    print(f"{run_title(config)}: a plan. Nothing is downloaded, trained or written.\n")
    console.print(table)


def make_plan(config: DictConfig) -> Plan:
    """Work out what a run would be, and measure one step of it.

    Raises:
        UserError: the run would be refused.
    """
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    check(config)
    set_threads(config)
    size, settings = corpus_size(config), fairseq_config(config)
    sentences = config.dataset.batch_size or math.inf
    batch_tokens = int(min(config.dataset.max_tokens or math.inf, sentences * size.length))
    batches, processes = int(config.optimization.update_freq[0]), world_size(config)
    task, batch = made_up(kind_of(config.task._name), settings, size.types)
    lengths = [min(length, batch_tokens) for length in (size.length, size.longest)]
    return Plan(
        size=size,
        step=measure(settings, task, batch, batch_tokens, *lengths),
        device=f"CPU, threads: {torch.get_num_threads()}" if on_cpu(config) else torch.cuda.get_device_name(),
        processes=processes,
        batch_tokens=batch_tokens,
        batches=batches,
        per_epoch=math.ceil(size.tokens / (batch_tokens * batches * processes)) if size.tokens else None,
    )


def describe(config: DictConfig, plan: Plan) -> Iterator[tuple[str, str]]:
    """The rows of a plan's table."""
    size, step = plan.size, plan.step
    yield "parameters", f"{step.parameters:,}"
    yield "dictionary", f"{size.types:,} types"
    known = f"{size.tokens:,} tokens, {size.sentences:,} sentences or segments" if size.tokens else "size unknown"
    yield "training text", f"{known} ({size.source})"
    batches = f"{plan.batches * plan.processes} batches of {plan.batch_tokens:,} in {plan.processes} process(es)"
    yield "an update", f"at most {plan.tokens_per_update:,} tokens: {batches}"
    if plan.per_epoch:
        yield "an epoch", f"at least {plan.per_epoch:,} updates"
    yield "the end", _end(config)
    total = f"at least {_bytes(sum(step.memory.values()))}" if step.peak is None else f"at most {_bytes(step.peak)}"
    yield "memory", f"{total} a process: {', '.join(f'{name} {_bytes(count)}' for name, count in step.memory.items())}"
    speed = f"{step.seconds:.2f} s, {step.tokens / step.seconds:,.0f} tokens/s"
    yield "a measured step", f"{speed} with {step.tokens:,} random tokens in one process ({plan.device})"


def _end(config: DictConfig) -> str:
    limits = {
        f"update {config.optimization.max_update:,}": config.optimization.max_update,
        f"epoch {config.optimization.max_epoch}": config.optimization.max_epoch,
        f"{config.checkpoint.patience} epochs without a better validation loss": config.checkpoint.patience > 0,
    }
    return f"after {' or '.join(text for text, is_set in limits.items() if is_set)}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def corpus_size(config: DictConfig) -> CorpusSize:
    """The size of a run's corpus: as counted when it was prepared, or else as published or assumed."""
    corpus = corpus_config(config.corpus)
    path = Path(config.data_dir) / corpus.name / corpus.variant() / "corpus.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    counted, expected = "counted in the prepared corpus", "not prepared here: expected size"
    if isinstance(corpus, RunningText):
        segment = config.task.tokens_per_sample
        published = corpus.published()
        tokens, types = published.get("train tokens"), published.get("types", 10_000) + 2  # <s> and <pad>
        if manifest:
            tokens, types = manifest["counts"]["train"]["tokens"], manifest["dictionary_types"]
        segments = math.ceil(tokens / segment) if tokens else None
        return CorpusSize(types, segments, tokens, segment, segment, counted if manifest else expected)
    assert isinstance(corpus, ParallelCorpus)
    if manifest:
        pairs, subwords = manifest["counts"]["train"]["pairs"], manifest["subword"]["subwords"]
        tokens = max(subwords[f"train.{language}"] for language in (corpus.source, corpus.target)) + pairs
        longest, types = max(manifest["longest"]["train"].values()), manifest["dictionary_types"]
        return CorpusSize(types, pairs, tokens, round(tokens / pairs), longest, counted)
    types = math.ceil((corpus.subword_size + 4) / 8) * 8  # with fairseq's symbols, filled up to a multiple of 8
    longest, pairs = corpus.max_length or LONGEST, corpus.published().get("train", getattr(corpus, "train_size", None))
    if corpus.name in COUNTED:
        pairs, tokens = COUNTED[corpus.name]
        return CorpusSize(types, pairs, tokens, round(tokens / pairs), longest, expected)
    source = f"{expected}, with {LENGTH} tokens a sentence"
    return CorpusSize(types, pairs, pairs * LENGTH if pairs else None, LENGTH, longest, source)
