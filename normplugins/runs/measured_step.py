"""One training step on made-up batches: how long it takes on this machine, and what memory it holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq.data import Dictionary
from fairseq.trainer import Trainer
from omegaconf import DictConfig
from torch import Tensor, nn

import normplugins

SECONDS = 3.0  # batches grow until one takes so long, or is full
FEW = 100  # tokens to begin with on a CPU
MakeBatch = Callable[[int, int], dict[str, Any]]
"""Makes a batch of so many sentences of so many tokens."""


@dataclass(frozen=True)
class Memory:
    """Bytes that one process holds in training.

    ``activations``: what autograd keeps of a full batch for the backward pass, by the length of its sentences.
    ``peak``: the most that a GPU was measured to hold, None on a CPU, where the parts are counted.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: dict[int, int]
    peak: int | None

    @property
    def total(self) -> int:
        """All parts, with the length of sentences that takes the most."""
        return self.parameters + self.gradients + self.optimizer + max(self.activations.values())


@dataclass(frozen=True)
class Step:
    """What a process needs for an update, measured.

    ``tokens``: of the largest batch measured, whose forward and backward pass took ``measured_seconds``;
    ``batch_seconds``: of a full batch of ``full_tokens``; ``update_seconds``: the optimizer's part, once an update.
    """

    parameters: int
    tokens: int
    measured_seconds: float
    full_tokens: int
    batch_seconds: float
    update_seconds: float
    memory: Memory

    def seconds(self, batches: int) -> float:
        """An update of so many full batches."""
        return batches * self.batch_seconds + self.update_seconds


def made_up(kind: ModuleType, config: DictConfig, types: int) -> tuple[Any, MakeBatch]:
    """A task without a corpus, and what makes random batches for it.

    Words are as frequent as in text, by Zipf's law: an adaptive softmax takes longer for the rare ones.

    Args:
        kind: of the run (``experiment.kinds``).
        config: fairseq's.
        types: symbols of the dictionary, fairseq's own among them.
    """
    normplugins.register()
    dictionary = Dictionary()
    for index in range(types - len(dictionary)):
        dictionary.add_symbol(f"word{index}")

    def batch(sentences: int, length: int) -> dict[str, Any]:
        ranks = (len(dictionary) - dictionary.nspecial) ** torch.rand(sentences, length)
        tokens = ranks.long() - 1 + dictionary.nspecial
        tokens[:, -1] = dictionary.eos()
        made: dict[str, Any] = kind.made_up_batch(tokens)
        return made

    return kind.bare_task(config.task, dictionary), batch


def measure(config: DictConfig, task: Any, batch: MakeBatch, full: int, length: int, longest: int) -> Step:
    """Build the model, train it on a few random batches, and forget it.

    Args:
        config: fairseq's; one process of the run is measured.
        task: a fairseq task with its dictionaries.
        batch: makes the batches.
        full: tokens that a batch of the run may hold.
        length: tokens in a usual sentence.
        longest: tokens in the longest.
    """
    config.distributed_training.distributed_world_size = 1
    trainer = Trainer(config, task, task.build_model(config.model), task.build_criterion(config.criterion))
    model, sentences = trainer.model, max(1, full // length)
    # What is kept grows linearly with the number of sentences, from two on: of one, fewer copies are made.
    two, three = (_kept(trainer, batch(count, length)) for count in (2, 3))
    fixed = 3 * two - 2 * three
    activations = {length: fixed + sentences * (three - two)}
    if longest > length:
        activations[longest] = fixed + max(1, full // longest) * (_kept(trainer, batch(2, longest)) - fixed) // 2
    few = sentences if trainer.cuda else max(1, min(sentences, FEW // length))
    _forward_backward(trainer, batch(few, length))  # unmeasured, as the optimizer's first step: they are slower
    _update(trainer)
    if trainer.cuda:
        torch.cuda.reset_peak_memory_stats()
    points = _timed(trainer, batch, few, sentences, length)
    gradients = _bytes(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
    # half precision: the optimizer has float32 copies of the parameters, with gradients of their own
    own = {id(parameter) for parameter in model.parameters()}
    copies = [parameter for parameter in trainer.optimizer.params if id(parameter) not in own]
    update_seconds = _update(trainer)
    measured, seconds = points[-1]
    return Step(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tokens=measured * length,
        measured_seconds=seconds,
        full_tokens=sentences * length,
        batch_seconds=extended(points, sentences),
        update_seconds=update_seconds,
        memory=Memory(
            parameters=_bytes(model.parameters()) + _bytes(model.buffers()),
            gradients=gradients,
            optimizer=_bytes(_tensors(trainer.optimizer.optimizer.state)) + 2 * _bytes(copies),
            activations=activations,
            peak=torch.cuda.max_memory_allocated() if trainer.cuda else None,
        ),
    )


def _timed(trainer: Trainer, batch: MakeBatch, count: int, sentences: int, length: int) -> list[tuple[int, float]]:
    """Sentences and seconds of batches, from ``count`` up to a full one or until one takes long; at least two."""
    points: list[tuple[int, float]] = []
    while True:
        points.append((count, _forward_backward(trainer, batch(count, length))))
        if count == sentences or (len(points) > 1 and points[-1][1] > SECONDS):
            return points
        count = min(sentences, 3 * count)


def extended(points: list[tuple[int, float]], sentences: int) -> float:
    """Seconds of a full batch, on the line through the last two that were measured.

    Where noise has it fall, or rise faster than in proportion: in proportion to the last.
    """
    count, seconds = points[-1]
    pace = seconds / count
    if len(points) > 1:
        before, earlier = points[-2]
        slope = (seconds - earlier) / (count - before)
        pace = slope if 0 < slope < pace else pace
    return seconds + (sentences - count) * pace


def _forward_backward(trainer: Trainer, batch: dict[str, Any]) -> float:
    """Add a batch's gradients as fairseq's trainer does; returns the seconds it took."""
    sample, _ = trainer._prepare_sample(batch)
    begun = _clock(trainer)
    trainer.task.train_step(sample, trainer.model, trainer.criterion, trainer.optimizer, 1)
    return _clock(trainer) - begun


def _update(trainer: Trainer) -> float:
    """Let the optimizer use the gradients, and forget them; returns the seconds it took."""
    begun = _clock(trainer)
    trainer.optimizer.step()
    trainer.zero_grad()
    return _clock(trainer) - begun


def _clock(trainer: Trainer) -> float:
    if trainer.cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _kept(trainer: Trainer, batch: dict[str, Any]) -> int:
    sample, _ = trainer._prepare_sample(batch)
    trainer.model.train()
    return saved_bytes(trainer.model, lambda: trainer.criterion(trainer.model, sample))


def saved_bytes(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes that autograd keeps of a forward pass for the backward pass, besides the model's own.

    Each storage counts once and whole, however many tensors share it.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = forward()  # held, and all that it has saved: no address can stand for two storages
    del graph
    return sum(found.values())


def _tensors(state: dict[Any, dict[str, Any]]) -> Iterator[Tensor]:
    return (value for of_one in state.values() for value in of_one.values() if isinstance(value, Tensor))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
