"""Measures how much the predictions of a language model depend on future tokens.

The inputs of a segment are x_1 .. x_T. At position t, the model predicts the target x_(t+1). The inputs after position
t are replaced; the first of them is the target itself. The log-probability of the true target is then compared with its
value before the replacement. A causal model returns bitwise the same numbers at all positions up to t.

Bits can be compared because both passes have the same shapes: a row of a matrix product is then computed in the same
way, whatever the other rows contain. Adaptive embeddings therefore embed every word in every cluster.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normplugins.models.layers import NORM_ATTRIBUTES
from normplugins.utils.errors import UserError

MOST_LOGPROBS = 2**26  # log-probabilities held at once: 256 MB


class Measured:
    """|Δ log p| in nats, and whether the features stayed bitwise the same."""

    def __init__(self) -> None:
        self.identical, self.tokens, self.total, self.max = True, 0, 0.0, 0.0

    def compare(
        self, cut: int, features: Tensor, changed: Tensor, before: Tensor, score: Callable[[Tensor], Tensor]
    ) -> None:
        """Compare both passes before position ``cut``, where the replacement begins. Positions count from 0.

        ``features`` and ``changed`` are the features (B, T, C) of both passes. ``before`` has the log-probabilities
        (B, T) of the targets with the true inputs. ``score`` computes those after the replacement from ``changed``, and
        is called only if the features differ. Raises UserError if a log-probability is not finite.
        """
        same = torch.equal(features[:, :cut], changed[:, :cut])
        after = before if same else score(changed)
        size = (after - before)[:, cut - 1].double().abs()
        if not bool(size.isfinite().all()):
            raise UserError("the model's log-probabilities are not finite: nothing can be measured")
        self.identical &= same
        self.tokens += size.numel()
        self.total += float(size.sum())
        self.max = max(self.max, float(size.max()))

    def figures(self) -> dict[str, Any]:
        """Return the measurement as it is stored in a record."""
        mean = self.total / self.tokens
        return {"mean": mean, "max": self.max, "identical": self.identical, "tokens": self.tokens}


def draw_replacements(tokens: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a replacement for each of ``tokens`` from ``text`` (N,), by frequency and never the token itself."""
    drawn = tokens
    for _ in range(100):  # a text with a single word type has no replacement
        again = text[torch.randint(len(text), tokens.shape, generator=generator).to(text.device)]
        drawn = torch.where(drawn == tokens, again, drawn)
    return drawn


@torch.no_grad()
def measure_evaluation(
    model: Any, inputs: Tensor, targets: Tensor, text: Tensor, draws: int, generator: torch.Generator, size: int
) -> Measured:
    """Measure a language model in evaluation mode, with ``draws`` replacements for each cut of each segment.

    ``inputs`` and ``targets`` are word indices (B, T) with T at least 2. Replacements are drawn from ``text`` (N,). A
    batch has ``size`` segments, which does not affect the numbers. The model is left in evaluation mode.
    """
    model.eval()
    measured = Measured()
    for part, wanted in zip(inputs.split(size), targets.split(size), strict=True):
        score = partial(_log_probabilities, model, wanted)
        features = _features(model, part)
        before = score(features)
        for _ in range(draws):
            drawn = draw_replacements(part, text, generator)
            for cut in range(1, inputs.size(1)):
                changed = _features(model, torch.cat([part[:, :cut], drawn[:, cut:]], dim=1))
                measured.compare(cut, features, changed, before, score)
    return measured


@torch.no_grad()
def measure_training(
    model: Any,
    inputs: Tensor,
    targets: Tensor,
    text: Tensor,
    trials: int,
    generator: torch.Generator,
    in_warmup: bool = False,
) -> Measured:
    """Measure a language model on one training batch, with its norms in training mode and without dropout.

    Each trial replaces the end of one segment, and compares the start of that segment. The ``trials`` cycle through the
    segments of the batch and the shuffled cuts. The norms' buffers are restored before each pass and at the end. With
    ``in_warmup``, PN's ``num_updates`` is set to 0, so that its forward divides by the batch's own statistic. The other
    arguments are those of :func:`measure_evaluation`.
    """
    batch, length = inputs.shape
    measured = Measured()
    rounds = math.ceil(trials / (length - 1))
    cuts = torch.cat([torch.randperm(length - 1, generator=generator) for _ in range(rounds)]) + 1
    with _norms_in_training_mode(model, in_warmup) as run:
        features = run(inputs)
        for trial, cut in enumerate(cuts[:trials].tolist()):
            index = trial * max(1, batch // trials) % batch
            tokens = inputs.clone()
            tokens[index, cut:] = draw_replacements(inputs[index], text, generator)[cut:]
            changed = run(tokens)
            score = partial(_log_probabilities, model, targets[index, None])
            true = features[index, None]
            measured.compare(cut, true, changed[index, None], score(true), score)
    return measured


def warmups(model: nn.Module) -> list[tuple[int, int]]:
    """Return (updates so far, warmup updates) for each norm with a warmup (PN)."""
    return [(int(norm.get_buffer("num_updates")), int(norm.warmup_updates)) for norm in _norms_with_warmup(model)]


def _norms(model: nn.Module) -> list[Any]:
    """Return all norms of one of our language models."""
    return [module for name, module in model.named_modules() if name.rpartition(".")[2] in NORM_ATTRIBUTES]


def _norms_with_warmup(model: nn.Module) -> list[Any]:
    return [norm for norm in _norms(model) if getattr(norm, "warmup_updates", 0)]


def _features(model: Any, inputs: Tensor) -> Tensor:
    """Return the features (B, T, C), without the output layer, which is most of the work for a large vocabulary."""
    features: Tensor = model.extract_features(inputs)[0]
    return features


def _log_probabilities(model: Any, targets: Tensor, features: Tensor) -> Tensor:
    """Return the log-probabilities (B, T) of ``targets`` (B, T) from features (B, T, C), a few rows at a time.

    A single position would be enough, but matrix products with fewer rows differ in the last bits.
    """
    decoder = model.decoder
    rows = max(1, MOST_LOGPROBS // (targets.size(1) * len(decoder.dictionary)))
    parts = []
    for part, wanted in zip(features.split(rows), targets.split(rows), strict=True):
        sample = {"target": wanted.contiguous()}
        logprobs = model.get_normalized_probs((decoder.output_layer(part), {}), log_probs=True, sample=sample)
        parts.append(logprobs.gather(-1, wanted[..., None]).squeeze(-1).float())
    return torch.cat(parts)


@contextmanager
def _norms_in_training_mode(model: Any, in_warmup: bool) -> Iterator[Callable[[Tensor], Tensor]]:
    """Set only the norms to training mode; yield a function from inputs to features that restores their buffers."""
    model.eval()
    norms = _norms(model)
    saved = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]

    def restore() -> None:
        for buffer, value in saved:
            buffer.copy_(value)

    def run(inputs: Tensor) -> Tensor:
        restore()
        for norm in _norms_with_warmup(model) if in_warmup else []:
            norm.get_buffer("num_updates").zero_()
        return _features(model, inputs)

    for norm in norms:
        norm.train()
    try:
        yield run
    finally:
        restore()
        model.eval()
