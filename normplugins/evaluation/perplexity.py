"""Perplexity per word of a text, in windows, over every token: none is dropped, none is counted twice."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

import normplugins
from normplugins.utils.errors import UserError
from normplugins.utils.files import whole_file


@dataclass(frozen=True)
class Perplexity:
    """exp of ``nats``, the mean negative log-probability of ``tokens`` tokens, with what is needed to read it."""

    score: float
    signature: str
    tokens: int
    nats: float

    def __str__(self) -> str:
        return f"perplexity = {self.score:.2f} ({self.nats:.4f} nats, {self.tokens:,} tokens)"


@dataclass(frozen=True)
class Windows:
    """How a text is cut: ``segment`` tokens a window, of which the first ``context`` are scored by the window before.

    So every token but the text's first ``context`` is predicted from at least ``context`` tokens before it, and from
    the one before the window besides; the text's first token is predicted from ``</s>``. ``batch_size``: windows at
    once.
    """

    segment: int
    context: int = 0
    batch_size: int = 32

    def starts(self, tokens: int) -> range:
        """Where each window of a text of so many tokens begins; only the last can be shorter than ``segment``."""
        return range(0, max(tokens - self.context, min(tokens, 1)), self.segment - self.context)

    def in_full(self, tokens: int) -> int:
        """How many tokens the windows of full length score: the published code counts no others."""
        if tokens < self.segment:
            return 0
        step = self.segment - self.context
        return self.segment + (tokens - self.segment) // step * step


def check_windows(windows: Windows, most: int) -> None:
    """Refuse windows that score nothing, or that are longer than the ``most`` tokens that a model takes.

    Raises:
        UserError: the message names the key, its value and what would do.
    """
    if windows.segment > most:
        raise UserError(f"evaluate.segment={windows.segment}: the model takes at most {most} tokens")
    if windows.context >= windows.segment:
        raise UserError(
            f"evaluate.context={windows.context} leaves no token of a window of {windows.segment} to score: less than "
            "evaluate.segment is needed"
        )


def measure(
    checkpoint: Path, bin_dir: Path, windows: Windows, causal: bool, cpu: bool, logprobs: Path
) -> tuple[dict[str, Perplexity], dict[str, float]]:
    """Score the test set in ``bin_dir`` and write every token's log-probability, in text order, to ``logprobs``.

    Args:
        causal: whether the model keeps from a position the tokens after it; a part of the signature.
        logprobs: a ``.npy`` file of float32, natural logarithms.

    Returns:
        ``ppl``, over every token, and ``ppl_full_segments``, without those of a last window that is shorter, as the
        published code counts (absent for a text shorter than one window); ``seconds`` and ``tokens_per_second``.
    """
    begun = time.perf_counter()
    scored = token_logprobs(checkpoint, bin_dir, windows, cpu)
    seconds = time.perf_counter() - begun
    with whole_file(logprobs) as temporary, temporary.open("wb") as file:
        np.save(file, scored)
    metrics = {"ppl": perplexity(scored, windows, causal, "counted")}
    if full := windows.in_full(len(scored)):
        metrics["ppl_full_segments"] = perplexity(scored[:full], windows, causal, "dropped")
    return metrics, {"seconds": round(seconds, 1), "tokens_per_second": round(len(scored) / seconds, 1)}


def perplexity(logprobs: NDArray[np.float32], windows: Windows, causal: bool, partial: str) -> Perplexity:
    """Perplexity of tokens with these natural log-probabilities, summed in float64.

    Raises:
        UserError: the model gives a token no probability at all, or one that is no number.
    """
    nats = -float(logprobs.mean(dtype=np.float64))
    if not math.isfinite(nats):
        broken = int((~np.isfinite(logprobs)).sum())
        raise UserError(f"the log-probabilities that the model gives to {broken:,} tokens are not finite")
    parts = ("level:word", f"tokens:{len(logprobs)}", f"segment:{windows.segment}", f"context:{windows.context}")
    signature = "|".join([*parts, f"partial:{partial}", f"causal:{'yes' if causal else 'no'}"])
    return Perplexity(math.exp(min(nats, 709.0)), signature, len(logprobs), nats)


def load_model_and_text(
    checkpoint: Path, bin_dir: Path, cpu: bool, subset: str = "test"
) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """A trained model, in evaluation mode on its device, and a split of the corpus in ``bin_dir``.

    Returns:
        The model; the input at each place of the text, (N,), which is the token before it, and ``</s>`` at the first;
        the tokens of the text, (N,). Both on the CPU.
    """
    normplugins.register()
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(bin_dir)}
    )
    model.eval().to("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    lines = data_utils.load_indexed_dataset(str(bin_dir / subset), task.source_dictionary)
    targets = torch.cat([lines[index] for index in range(len(lines))]).long()
    inputs = torch.cat([targets.new_tensor([task.source_dictionary.eos()]), targets[:-1]])
    return model, inputs, targets


def token_logprobs(
    checkpoint: Path, bin_dir: Path, windows: Windows, cpu: bool, subset: str = "test"
) -> NDArray[np.float32]:
    """The natural log-probability of each token of a split, in text order.

    Raises:
        UserError: the windows do not fit the model.
    """
    model, inputs, targets = load_model_and_text(checkpoint, bin_dir, cpu, subset)
    check_windows(windows, model.max_positions())
    device = next(model.parameters()).device
    scored = np.full(len(targets), np.nan, dtype=np.float32)
    console = Console()
    batches = list(_batches(windows, len(targets)))
    for starts, length in track(batches, f"scoring {subset}", console=console, disable=not console.is_terminal):
        places = torch.tensor(starts)[:, None] + torch.arange(length)
        logprobs = _score(model, inputs[places].to(device), targets[places].to(device)).cpu().numpy()
        for start, row in zip(starts, logprobs, strict=True):
            context = windows.context if start else 0
            scored[start + context : start + length] = row[context:]
    return scored


def _batches(windows: Windows, tokens: int) -> Iterator[tuple[list[int], int]]:
    """The starts of windows of one length, and that length: a last window that is shorter comes alone."""
    starts = list(windows.starts(tokens))
    last = tokens - starts[-1] if starts else 0
    shorter = [starts.pop()] if 0 < last < windows.segment else []
    for index in range(0, len(starts), windows.batch_size):
        yield starts[index : index + windows.batch_size], windows.segment
    if shorter:
        yield shorter, last


@torch.no_grad()
def _score(model: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The log-probabilities (B, T) of ``targets`` (B, T), each predicted from ``inputs`` (B, T)."""
    output = model(inputs, src_lengths=torch.full((len(inputs),), inputs.shape[1], device=inputs.device))
    logprobs = model.get_normalized_probs(output, log_probs=True, sample={"target": targets})
    gathered: torch.Tensor = logprobs.gather(-1, targets[..., None]).squeeze(-1)
    return gathered.float()
