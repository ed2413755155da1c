"""Measures one training step on made-up batches: how long it takes on this machine, and what memory it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq.data import Dictionary
from fairseq.trainer import Trainer
from omegaconf import DictConfig
from torch import Tensor, nn

import normplugins
from normplugins.evaluation.tasks import Kind

CPU_TOKENS = 1000  # the largest batch to measure on a CPU, where a full one may take minutes


@dataclass(frozen=True)
class Step:
    """One measured training step of one process.

    ``seconds``: forward, backward and update with a batch of ``tokens``. ``memory``: bytes by purpose, with the
    activations of a full batch. ``peak``: the most bytes that a GPU held; None on a CPU.
    """

    parameters: int
    tokens: int
    seconds: float
    memory: dict[str, int]
    peak: int | None


def made_up(kind: Kind, config: DictConfig, types: int) -> tuple[Any, Callable[[int, int], dict[str, Any]]]:
    """A task without a corpus, and a function that makes a random batch of so many sentences of so many tokens.

    Words are as frequent as in text, by Zipf's law, because an adaptive softmax takes longer for rare ones.

    Args:
        kind: the kind of the run.
        config: fairseq's config.
        types: symbols of the dictionary, with fairseq's own.
    """
    normplugins.register()
    dictionary = Dictionary()
    for index in range(types - len(dictionary)):
        dictionary.add_symbol(f"word{index}")

    def batch(sentences: int, length: int) -> dict[str, Any]:
        ranks = (len(dictionary) - dictionary.nspecial) ** torch.rand(sentences, length)
        tokens = ranks.long() - 1 + dictionary.nspecial
        tokens[:, -1] = dictionary.eos()
        return kind.made_up_batch(tokens)

    return kind.bare_task(config.task, dictionary), batch


def measure(config: DictConfig, task: Any, batch: Callable[[int, int], Any], full: int, *lengths: int) -> Step:
    """Build the model in one process and train it for two steps, of which the second is measured.

    Args:
        config: fairseq's config.
        task: a fairseq task with its dictionaries.
        batch: makes a batch of so many sentences of so many tokens.
        full: tokens in a full batch.
        lengths: tokens in a usual sentence, and in others whose activations may take more memory.
    """
    config.distributed_training.distributed_world_size = 1
    trainer = Trainer(config, task, task.build_model(config.model), task.build_criterion(config.criterion))
    model = trainer.model.train()

    def activations(sentences: int, length: int) -> int:
        sample, _ = trainer._prepare_sample(batch(sentences, length))
        return saved_bytes(model, lambda: trainer.criterion(model, sample))

    def full_batch(length: int) -> int:  # linear in the number of sentences from two on; one needs fewer copies
        two, three = activations(2, length), activations(3, length)
        return two + (max(1, full // length) - 2) * (three - two)

    kept = max(full_batch(length) for length in set(lengths))
    sentences = max(1, (full if trainer.cuda else min(full, CPU_TOKENS)) // lengths[0])
    sample, _ = trainer._prepare_sample(batch(sentences, lengths[0]))
    for _ in range(2):  # the first step is slower: it sets up the optimizer's state
        begun = _clock(trainer.cuda)
        trainer.task.train_step(sample, model, trainer.criterion, trainer.optimizer, 1)
        gradients = _bytes(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
        trainer.optimizer.step()
        trainer.zero_grad()
        seconds = _clock(trainer.cuda) - begun
    own = {id(parameter) for parameter in model.parameters()}
    # In half precision the optimizer has float32 copies of the parameters, with gradients.
    copies = [parameter for parameter in trainer.optimizer.params if id(parameter) not in own]
    state = (value for each in trainer.optimizer.optimizer.state.values() for value in each.values())
    memory = {
        "parameters": _bytes([*model.parameters(), *model.buffers()]),
        "gradients": gradients,
        "optimizer": _bytes(value for value in state if isinstance(value, Tensor)) + 2 * _bytes(copies),
        "activations": kept,
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    peak = torch.cuda.max_memory_allocated() if trainer.cuda else None
    return Step(parameters, sentences * lengths[0], seconds, memory, peak)


def saved_bytes(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Count the bytes that autograd saves in a forward pass for the backward pass, besides the model's own tensors.

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
        graph = forward()  # as long as this holds the saved tensors, no address is used twice
    del graph
    return sum(found.values())


def _clock(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
