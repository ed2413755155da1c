"""Word-level perplexity of a text that is read in windows; every token is scored exactly once."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import data_utils
from numpy.typing import NDArray
from torch import Tensor

from normplugins.utils.errors import UserError


@dataclass(frozen=True)
class Windows:
    """How a text is split into overlapping windows.

    The first ``context`` tokens of each window are scored in the window before it. Each token is thus predicted from at
    least the ``context`` + 1 tokens before it, except at the beginning of the text. The first token of the text is
    predicted from ``</s>``.

    Attributes:
        segment: tokens in a window; only the last window can be shorter.
        context: tokens at the start of a window that are not scored there.
        batch_size: windows in a batch.
    """

    segment: int
    context: int = 0
    batch_size: int = 32

    def check(self, most: int) -> None:
        """Raise UserError for windows that score no token, or have more than the ``most`` tokens that a model reads."""
        if self.segment > most:
            raise UserError(f"evaluate.segment={self.segment}: the model takes at most {most} tokens")
        if self.context >= self.segment:
            raise UserError(
                f"evaluate.context={self.context} leaves no token to score in a window of {self.segment}: it must be "
                "less than evaluate.segment"
            )

    def starts(self, tokens: int) -> range:
        """Return the first position of each window of a text."""
        return range(0, max(tokens - self.context, min(tokens, 1)), self.segment - self.context)

    def tokens_in_full_windows(self, tokens: int) -> int:
        """Return the number of tokens that windows of full length score. The published code counts only these."""
        return tokens - (tokens - self.segment) % (self.segment - self.context) if tokens >= self.segment else 0

    def batches(self, tokens: int) -> Iterator[tuple[list[int], int]]:
        """Yield the first positions of up to ``batch_size`` windows of one length, and that length."""
        for length, group in groupby(self.starts(tokens), lambda start: min(self.segment, tokens - start)):
            starts = list(group)
            for index in range(0, len(starts), self.batch_size):
                yield starts[index : index + self.batch_size], length


def perplexity(
    logprobs: NDArray[np.float32],
    windows: Windows,
    causal: bool,
    partial: str,
    subwords: str = "",
    words: int | None = None,
) -> dict[str, Any]:
    """Return the perplexity of tokens (N,) as it is stored in a record; sums are in float64.

    ``nats`` is the mean negative log-probability of ``tokens`` tokens, and ``score`` its exponential. Tokens are words
    and line ends, even if the model reads subwords: the probability of a word is the product of the probabilities of
    its subwords. Raises UserError if a log-probability is not finite.

    Args:
        logprobs: the natural log-probability of each token that the model reads.
        windows: how the text was split.
        causal: whether no position sees the tokens after it.
        partial: whether the tokens of a shorter last window were ``counted`` or ``dropped``.
        subwords: the kind of subwords that the text is split into, if any.
        words: the number of words and line ends of a text in subwords.
    """
    tokens = words or len(logprobs)
    nats = -float(logprobs.sum(dtype=np.float64)) / tokens
    if not math.isfinite(nats):
        broken = int((~np.isfinite(logprobs)).sum())
        raise UserError(f"the log-probabilities that the model gives to {broken:,} tokens are not finite")
    parts = ["level:word", *([f"{subwords}:{len(logprobs)}"] if subwords else []), f"tokens:{tokens}"]
    parts += [f"segment:{windows.segment}", f"context:{windows.context}"]
    signature = "|".join([*parts, f"partial:{partial}", f"causal:{'yes' if causal else 'no'}"])
    return {"score": math.exp(min(nats, 709.0)), "signature": signature, "tokens": tokens, "nats": nats}


def load_test_text(task: Any, bin_dir: Path) -> tuple[Tensor, Tensor]:
    """Return the test text of a language model's task: the token before each token (N,), and the tokens (N,).

    ``</s>`` is before the first token.
    """
    lines = data_utils.load_indexed_dataset(str(bin_dir / "test"), task.source_dictionary)
    targets = torch.cat([lines[index] for index in range(len(lines))]).long()
    inputs = torch.cat([targets.new_tensor([task.source_dictionary.eos()]), targets[:-1]])
    return inputs, targets


@torch.no_grad()
def text_logprobs(
    model: Any, inputs: Tensor, targets: Tensor, windows: Windows, batches: Iterable[tuple[list[int], int]]
) -> NDArray[np.float32]:
    """Return the natural log-probability of each token of a text under a language model in evaluation mode.

    ``inputs`` and ``targets`` are those of :func:`load_test_text`. ``batches`` are the items of ``windows.batches(N)``,
    for example with a progress bar.
    """
    device = next(model.parameters()).device
    found = np.full(len(targets), np.nan, dtype=np.float32)
    for starts, length in batches:
        places = torch.tensor(starts)[:, None] + torch.arange(length)
        target = targets[places].to(device)
        output = model(inputs[places].to(device), src_lengths=torch.full((len(starts),), length, device=device))
        logprobs = model.get_normalized_probs(output, log_probs=True, sample={"target": target})
        rows = logprobs.gather(-1, target[..., None]).squeeze(-1).float().cpu().numpy()
        for start, row in zip(starts, rows, strict=True):
            context = windows.context if start else 0
            found[start + context : start + length] = row[context:]
    return found
