"""Continues a text with a causal language model, by sampling or greedily."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normplugins.utils.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: divides the log-probabilities before sampling; 0 takes the most probable token.
        seed: seed of the random numbers.
    """

    temperature: float = 1.0
    seed: int = 1

    def check(self) -> None:
        """Raise UserError for values out of range."""
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"the temperature is {self.temperature}, but must be 0 or a positive number")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"the seed is {self.seed}, but must be at least 0 and below 2^63")

    def choose(self, logprobs: Tensor, generator: torch.Generator) -> int:
        """Return the next token, given natural log-probabilities (V,) of all tokens; the generator is on the CPU."""
        if self.temperature == 0:
            return int(logprobs.argmax())
        # The largest value is subtracted first: with a small temperature, all weights would otherwise underflow to 0.
        weights = ((logprobs - logprobs.max()).double() / self.temperature).exp()
        return int(torch.multinomial(weights, 1, generator=generator))


@torch.no_grad()
def continue_text(
    model: Any, tokens: Tensor, sampling: Sampling, longest: int, context: int, generator: torch.Generator
) -> list[int]:
    """Return up to ``longest`` tokens that follow a text, up to the end of its line.

    The causal model is in evaluation mode, and the text ``tokens`` (N,) begins with ``</s>``. Each token is computed
    from the last ``context`` tokens, without a cache: this works for every language model. The generator is on the CPU.
    """
    dictionary, device = model.decoder.dictionary, next(model.parameters()).device
    text = tokens.tolist()
    for _ in range(longest):
        inputs = torch.tensor([text[-context:]], device=device)
        features, extra = model(inputs, src_lengths=torch.tensor([inputs.size(1)], device=device))
        logprobs = model.get_normalized_probs((features[:, -1:], extra), log_probs=True, sample=None)[0, -1]
        logprobs = logprobs.float().cpu()
        logprobs[[dictionary.pad(), dictionary.bos()]] = -torch.inf  # no text contains them
        text.append(sampling.choose(logprobs, generator))
        if text[-1] == dictionary.eos():
            return text[len(tokens) : -1]
    return text[len(tokens) :]
