"""How much what a language model says of a token changes when the tokens after its position are replaced.

A segment has inputs x_1 .. x_T. At position t the model predicts x_(t+1), the target, from what it sees. Here the
inputs from position c on are replaced, c > t: the first of them, if c = t + 1, is the very token to predict. Scored is
always the true one. A model that sees no future gives the same numbers, to the last bit; ``distance`` is c - t.

Bits can be compared because both passes have the same shapes: then a row of a product of matrices is computed in the
same way whatever the other rows hold.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normplugins.utils.errors import UserError

MOST_NUMBERS = 2**26  # log-probabilities held at once: 256 MB


@dataclass
class Change:
    """|Δ log p| of tokens, in nats, and whether the model's features changed in no bit."""

    identical: bool = True
    tokens: int = 0
    total: float = 0.0
    max: float = 0.0

    def add(self, delta: Tensor) -> None:
        """Count differences of log-probabilities, of any shape.

        Raises:
            UserError: one of them is no number.
        """
        size = delta.double().abs()
        if not bool(size.isfinite().all()):
            raise UserError("the model's log-probabilities are not finite: nothing can be measured")
        self.tokens += size.numel()
        self.total += float(size.sum())
        self.max = max(self.max, float(size.max())) if size.numel() else self.max

    def figures(self) -> dict[str, Any]:
        """What a record says of it."""
        mean = self.total / self.tokens if self.tokens else None
        return {"mean": mean, "max": self.max, "identical": self.identical, "tokens": self.tokens}


@dataclass
class Measured:
    """Changes by distance, 1 .. T - 1; the log-probabilities (sums) at distance 1; and what else was seen.

    ``other`` is about another segment of the batch, none of whose tokens was replaced. ``repeatable`` says whether the
    same input twice gave the same bits: where it did not, a change means nothing.
    """

    by_distance: list[Change]
    other: Change = field(default_factory=Change)
    repeatable: bool = True
    scored: int = 0
    true: float = 0.0
    replaced: float = 0.0

    def add(self, cut: int, before: Tensor, after: Tensor) -> None:
        """Count log-probabilities (B, T), with the true inputs and with those from ``cut`` on (from 0) replaced."""
        for position in range(cut):
            self.by_distance[cut - position - 1].add(after[:, position] - before[:, position])
        self.scored += before.size(0)
        self.true += float(before[:, cut - 1].double().sum())
        self.replaced += float(after[:, cut - 1].double().sum())

    def figures(self) -> dict[str, Any]:
        """What a record says: at distance 1, where all that comes after a position is replaced, and by distance."""
        return {
            **self.by_distance[0].figures(),
            "identical": all(change.identical for change in self.by_distance),
            "ppl_true": _perplexity(self.true, self.scored),
            "ppl_replaced": _perplexity(self.replaced, self.scored),
            "by_distance": [
                {"distance": distance, **change.figures()}
                for distance, change in enumerate(self.by_distance, 1)
                if change.tokens
            ],
            "other_segment": self.other.figures() if self.other.tokens else None,
            "repeatable": self.repeatable,
        }


def _perplexity(logprobs: float, tokens: int) -> float:
    return math.exp(min(-logprobs / tokens, 709.0))


def features_of(model: Any, inputs: Tensor) -> Tensor:
    """The features (B, T, C) of ``inputs`` (B, T), from which the scores of all words are computed place by place.

    The scores themselves, most of the work for a large vocabulary, are left to ``log_probabilities``.
    """
    features: Tensor = model.extract_features(inputs)[0]
    return features


def log_probabilities(model: Any, features: Tensor, targets: Tensor) -> Tensor:
    """The log-probabilities (B, T) of ``targets`` (B, T) by features (B, T, C), a few rows at a time."""
    decoder = model.decoder
    rows = max(1, MOST_NUMBERS // (targets.size(1) * len(decoder.dictionary)))
    parts = []
    for some, wanted in zip(features.split(rows), targets.split(rows), strict=True):
        sample = {"target": wanted.contiguous()}
        every = model.get_normalized_probs((decoder.output_layer(some), {}), log_probs=True, sample=sample)
        parts.append(every.gather(-1, wanted[..., None]).squeeze(-1).float())
    return torch.cat(parts)


def others(tokens: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens drawn from ``text``, each as often as it occurs there, none the one of ``tokens`` that it replaces."""
    drawn = tokens
    for _ in range(100):  # a text of one word has no other
        again = text[torch.randint(len(text), tokens.shape, generator=generator).to(text.device)]
        drawn = torch.where(drawn == tokens, again, drawn)
    return drawn


@contextmanager
def _words_from_a_table(model: Any) -> Iterator[None]:
    """Look adaptive embeddings up, computed once: fairseq computes them for a cluster's words of a batch together.

    How many these are changes the last bits of all, which would look like a change of what is seen.
    """
    vocabulary = model.decoder.vocabulary
    adaptive = vocabulary.adaptive_input
    if adaptive is not None:
        words = torch.arange(len(model.decoder.dictionary), device=next(model.parameters()).device)
        vocabulary.adaptive_input = nn.Embedding.from_pretrained(adaptive(words[None])[0])
    try:
        yield
    finally:
        vocabulary.adaptive_input = adaptive


@torch.no_grad()
def in_evaluation(
    model: nn.Module, inputs: Tensor, targets: Tensor, text: Tensor, draws: int, generator: torch.Generator, size: int
) -> Measured:
    """Measure in evaluation mode: every cut of every segment, ``draws`` times; ``size`` segments at once.

    Args:
        model: a language model; left in evaluation mode.
        inputs: (B, T), T at least 2.
        targets: (B, T).
        text: where replacements are drawn from, (N,).
        draws: how often.
        generator: of the draws.
        size: segments to a batch, which no segment's own numbers depend on.
    """
    model.eval()
    measured = Measured([Change() for _ in range(inputs.size(1) - 1)])
    with _words_from_a_table(model):
        for some, wanted in zip(inputs.split(size), targets.split(size), strict=True):
            true = features_of(model, some)
            before = log_probabilities(model, true, wanted)
            measured.repeatable &= torch.equal(features_of(model, some), true)
            for _ in range(draws):
                drawn = others(some, text, generator)
                for cut in range(1, inputs.size(1)):
                    output = features_of(model, torch.cat([some[:, :cut], drawn[:, cut:]], dim=1))
                    same = _compare_bits(measured, cut, true, output)
                    measured.add(cut, before, before if same else log_probabilities(model, output, wanted))
    return measured


@torch.no_grad()
def in_training(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    text: Tensor,
    trials: int,
    generator: torch.Generator,
    warming: bool = False,
) -> Measured:
    """Measure with the norms in training mode and no dropout, on one batch (B, T) of the run's own shape.

    A trial replaces the end of a single segment. Counted are what comes before it there, and another segment's whole
    length. The norms' buffers are before every pass what they were, and so they are left.

    Args:
        model: a language model; left in evaluation mode.
        inputs: (B, T), T at least 2.
        targets: (B, T).
        text: where replacements are drawn from, (N,).
        trials: how many, over the batch's segments and all cuts in turn.
        generator: of the draws and cuts.
        warming: with PN's ``num_updates`` at 0, where its forward divides by the batch's own statistic.
    """
    (batch, length), measured = inputs.shape, Measured([Change() for _ in range(inputs.size(1) - 1)])
    cuts = torch.cat([torch.randperm(length - 1, generator=generator) for _ in range(-(-trials // (length - 1)))]) + 1
    with _words_from_a_table(model), _norms_training(model, warming) as restored:

        def run(tokens: Tensor) -> Tensor:
            restored()
            return features_of(model, tokens)

        def log_probability(output: Tensor, row: slice) -> Tensor:
            return log_probabilities(model, output[row], targets[row])

        true = run(inputs)
        measured.repeatable = torch.equal(run(inputs), true)
        for trial, cut in enumerate(cuts[:trials].tolist()):
            own = trial * max(1, batch // trials) % batch
            tokens = inputs.clone()
            tokens[own, cut:] = others(inputs[own], text, generator)[cut:]
            output = run(tokens)
            row = slice(own, own + 1)
            before = log_probability(true, row)
            same = _compare_bits(measured, cut, true[row], output[row])
            measured.add(cut, before, before if same else log_probability(output, row))
            if batch > 1:
                far = (own + batch // 2) % batch
                row = slice(far, far + 1)
                measured.other.identical &= torch.equal(output[row], true[row])
                measured.other.add(log_probability(output, row) - log_probability(true, row))
    return measured


def _compare_bits(measured: Measured, cut: int, before: Tensor, after: Tensor) -> bool:
    """Count which features (B, T, C) before ``cut`` changed; whether none did: then no log-probability there does."""
    same = (before[:, :cut] == after[:, :cut]).all(2).all(0).tolist()
    for position in range(cut):
        measured.by_distance[cut - position - 1].identical &= same[position]
    return all(same)


def norms_of(model: nn.Module) -> list[nn.Module]:
    """The norms of a language model of ours, whatever they are."""
    return [module for name, module in model.named_modules() if name.rpartition(".")[2] in ("norm", "final_norm")]


def updates_of_warmup(norm: nn.Module) -> tuple[int, int] | None:
    """A norm's updates so far and of its warmup, in which it divides by the batch's own statistic; None without one."""
    warmup = getattr(norm, "warmup_updates", 0)
    return (int(norm.get_buffer("num_updates")), warmup) if warmup else None


def is_warming(norm: nn.Module) -> bool:
    """Whether the norm's next training forward is one of its warmup."""
    updates = updates_of_warmup(norm)
    return updates is not None and updates[0] < updates[1]


@contextmanager
def _norms_training(model: nn.Module, warming: bool) -> Iterator[Callable[[], None]]:
    """Set the norms alone to training; yields what puts their buffers back, which the end does as well."""
    model.eval()
    norms = norms_of(model)
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    counts = [norm.get_buffer("num_updates") for norm in norms if updates_of_warmup(norm)] if warming else []

    def restore() -> None:
        for buffer, value in before:
            buffer.copy_(value)

    def restore_for_a_pass() -> None:
        restore()
        for count in counts:
            count.zero_()

    for norm in norms:
        norm.train()
    try:
        yield restore_for_a_pass
    finally:
        restore()
        model.eval()
