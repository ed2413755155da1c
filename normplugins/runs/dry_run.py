"""``dry_run=true``: prints the size of a run, measures the second of two training steps, and does nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

import normplugins
from normplugins.corpora import ParallelCorpus, RunningText, corpus_config
from normplugins.evaluation.tasks import RunTask, run_task
from normplugins.models.import_checkpoint import numbered_dictionary
from normplugins.runs.check import check
from normplugins.runs.compose import fairseq_config
from normplugins.runs.run import run_title
from normplugins.runs.scoring import set_up_process
from normplugins.training.distributed import on_cpu, world_size
from normplugins.training.trainer import Trainer
from normplugins.utils.json_file import read_json
from normplugins.utils.steps import Echo, step
from normplugins.utils.terminal import definitions, terminal_width

# Numbers of sentences and tokens that neither a config nor a paper gives. Tokens are subwords and ends of sentences, on
# the side that has more. IWSLT14: fairseq's recipe. WMT14: fairseq's log of the same three corpora with a joint BPE of
# 32,000 (WMT16 en-de): 4,500,966 pairs, 132,886,171 en, 137,628,246 de.
COUNTED = {"iwslt14": (160_239, 4_035_591 + 160_239), "wmt14": (4_500_966, 137_628_246)}
LENGTH = 30  # tokens in a typical sentence of an unknown corpus
CPU_TOKENS = 250  # tokens in the largest batch measured on a CPU: a dry run should take seconds
MakeBatch = Callable[[int, int], dict[str, Any]]
"""Makes a batch from a number of sentences and their length in tokens."""


@dataclass(frozen=True)
class CorpusSize:
    """The size of a training text. If the text is one stream, its sentences are segments; None stands for unknown."""

    types: int  # symbols of the dictionary
    sentences: int | None  # in an epoch
    tokens: int | None  # in an epoch on the side with more tokens, including the end of each sentence
    length: int  # tokens in a typical sentence
    source: str  # where these numbers come from


@dataclass(frozen=True)
class Step:
    """One measured training step of one process."""

    parameters: int
    tokens: int
    seconds: float  # of forward, backward and update
    memory: dict[str, int]  # bytes by purpose, with the activations of a full batch
    peak: int | None  # largest number of bytes allocated on the GPU; None on a CPU


def show_dry_run(config: DictConfig) -> None:
    """Print the size of a run. Raises UserError if the run would be refused."""
    rows = dry_run_rows(config)
    print(f"{run_title(config)}: dry run. Nothing is downloaded, trained or written.\n")
    print(definitions(rows, terminal_width()))


def dry_run_rows(config: DictConfig) -> dict[str, str]:
    """Measure a training step and return the rows to print. Raises UserError if the run would be refused."""
    check(config)
    set_up_process(config)
    size, settings = corpus_size(config), fairseq_config(config)
    task, batch = synthetic_task(run_task(config.task._name), settings, size.types)
    full = batch_tokens(config, size)
    with step("measuring a training step on this machine, with random tokens") as tell:
        measured = measure(settings, task, batch, full, min(size.length, full), tell)
    return describe(config, size, measured)


def batch_tokens(config: DictConfig, size: CorpusSize) -> int:
    """Return the tokens in a full batch: ``max_tokens``, or those of ``batch_size`` typical sentences if fewer."""
    sentences = config.dataset.batch_size or math.inf
    return int(min(config.dataset.max_tokens or math.inf, sentences * size.length))


def describe(config: DictConfig, size: CorpusSize, step: Step) -> dict[str, str]:
    """Return the rows of the printed table: what follows from the config, the corpus and the measured step."""
    batch, processes = batch_tokens(config, size), world_size(config)
    batches = int(config.optimization.update_freq[0]) * processes
    # a limit in sentences also limits the tokens only if the sentences are segments of running text
    limited = batch == config.dataset.max_tokens or config.task._name == "language_modeling"
    known = f"{size.tokens:,} tokens, {size.sentences:,} sentences or segments" if size.tokens else "size unknown"
    limits = {
        f"update {config.optimization.max_update:,}": config.optimization.max_update,
        f"epoch {config.optimization.max_epoch}": config.optimization.max_epoch,
        f"{config.checkpoint.patience} epochs without a better validation loss": config.checkpoint.patience > 0,
    }
    total = f"at least {_size(sum(step.memory.values()))}" if step.peak is None else f"at most {_size(step.peak)}"
    purposes = ", ".join(f"{name} {_size(count)}" for name, count in step.memory.items())
    epoch = ""
    if size.tokens:
        took = timedelta(seconds=round(size.tokens / step.tokens * step.seconds / processes))
        updates = f"{'at least' if limited else 'about'} {math.ceil(size.tokens / (batch * batches)):,} updates"
        epoch = f"{updates}, {took} at the measured speed"
    device = f"CPU, threads: {torch.get_num_threads()}" if on_cpu(config) else torch.cuda.get_device_name()
    rows = {
        "parameters": f"{step.parameters:,}",
        "dictionary": f"{size.types:,} types",
        "training text": f"{known} ({size.source})",
        "an update": f"{'at most' if limited else 'about'} {batch * batches:,} tokens "
        f"(batches of {batch:,}: {batches}; processes: {processes})",
        "an epoch": epoch,
        "the end": f"after {' or '.join(text for text, is_set in limits.items() if is_set)}",
        "memory": f"{total} per process: {purposes}",
        "a measured step": f"{step.seconds:.2f} s, {step.tokens / step.seconds:,.0f} tokens/s with {step.tokens:,} "
        f"random tokens in one process ({device})",
    }
    return {name: text for name, text in rows.items() if text}


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def corpus_size(config: DictConfig) -> CorpusSize:
    """Return the size of a run's corpus: counted if the corpus is prepared, otherwise published or assumed."""
    corpus = corpus_config(config.corpus)
    path = Path(config.data_dir) / corpus.name / corpus.variant() / "corpus.json"
    manifest = read_json(path, "delete it, and the next run writes it again")
    source = "counted in the prepared corpus" if manifest else "not prepared here: expected size"
    if isinstance(corpus, RunningText):
        segment = config.task.tokens_per_sample
        published = corpus.published()
        tokens, types = published.get("train tokens"), published.get("types", 10_000) + 2  # <s> and <pad>
        if manifest:
            tokens, types = manifest["counts"]["train"]["tokens"], manifest["dictionary_types"]
        return CorpusSize(types, math.ceil(tokens / segment) if tokens else None, tokens, segment, source)
    assert isinstance(corpus, ParallelCorpus)
    if manifest:
        pairs, subwords = manifest["counts"]["train"]["pairs"], manifest["subword"]["subwords"]
        tokens = max(subwords[f"train.{language}"] for language in (corpus.source, corpus.target)) + pairs
        return CorpusSize(manifest["dictionary_types"], pairs, tokens, round(tokens / pairs), source)
    types = math.ceil((corpus.subword_size + 4) / 8) * 8  # including fairseq's symbols, padded to a multiple of 8
    pairs = corpus.published().get("train", getattr(corpus, "train_size", None))
    if corpus.name in COUNTED:
        pairs, tokens = COUNTED[corpus.name]
        return CorpusSize(types, pairs, tokens, round(tokens / pairs), source)
    source = f"{source}, with {LENGTH} tokens a sentence"
    return CorpusSize(types, pairs, pairs * LENGTH if pairs else None, LENGTH, source)


def synthetic_task(task: RunTask, config: DictConfig, types: int) -> tuple[Any, MakeBatch]:
    """Return a task without a corpus, and a function that makes a random batch.

    Token frequencies follow Zipf's law, as in real text, because an adaptive softmax takes longer for rare tokens.
    ``types`` counts the symbols of the dictionary, including fairseq's own.
    """
    normplugins.register()
    dictionary = numbered_dictionary(types)

    def batch(sentences: int, length: int) -> dict[str, Any]:
        ranks = (len(dictionary) - dictionary.nspecial) ** torch.rand(sentences, length)
        tokens = ranks.long() - 1 + dictionary.nspecial
        tokens[:, -1] = dictionary.eos()
        return task.dummy_batch(tokens)

    return task.bare_task(config.task, dictionary), batch


def measure(
    config: DictConfig, task: Any, batch: MakeBatch, full: int, length: int, tell: Echo = lambda _: None
) -> Step:
    """Build the model in one process, train it for two steps and measure the second.

    Args:
        config: fairseq's config.
        task: a fairseq task with its dictionaries.
        batch: makes the batches of this task.
        full, length: tokens in a full batch and in a typical sentence.
        tell: called with a description of each step before it begins.
    """
    config.distributed_training.distributed_world_size = 1
    tell("building the model")
    trainer = Trainer(config, task, task.build_model(config.model), task.build_criterion(config.criterion))
    model = trainer.model.train()

    def activations(sentences: int, tokens: int) -> int:
        sample, _ = trainer._prepare_sample(batch(sentences, tokens))
        return saved_bytes(model, lambda: trainer.criterion(model, sample))

    # The number of bytes is linear in the number of sentences, except that a single sentence needs fewer copies.
    tell(f"measuring the memory of sentences of {length} tokens")
    two, three = activations(2, length), activations(3, length)
    saved = 3 * two - 2 * three + max(1, full // length) * (three - two)
    sentences = max(1, (full if trainer.cuda else min(full, CPU_TOKENS)) // length)
    tokens = sentences * length
    # The first step allocates the optimizer's state. On a CPU, a single sentence is enough for that.
    for number, count in ((1, sentences if trainer.cuda else 1), (2, sentences)):
        tell(f"training step {number} of 2, with {count * length:,} tokens")
        sample, _ = trainer._prepare_sample(batch(count, length))
        begun = _clock(trainer.cuda)
        trainer.task.train_step(sample, model, trainer.criterion, trainer.optimizer, 1)
        gradients = _bytes(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
        trainer.optimizer.step()
        trainer.zero_grad()
        seconds = _clock(trainer.cuda) - begun
    state = (value for each in trainer.optimizer.optimizer.state.values() for value in each.values())
    memory = {
        "parameters": _bytes([*model.parameters(), *model.buffers()]),
        "gradients": gradients,
        "optimizer": _bytes(value for value in state if isinstance(value, Tensor)),
        "activations": saved,
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    peak = torch.cuda.max_memory_allocated() if trainer.cuda else None
    return Step(parameters, tokens, seconds, memory, peak)


def saved_bytes(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Return the bytes that autograd saves in a forward pass, not counting the model's own tensors.

    Each storage counts once and as a whole, even if several tensors share it.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = forward()  # the graph keeps the saved tensors alive, so no address is used twice
    del graph
    return sum(found.values())


def _clock(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
