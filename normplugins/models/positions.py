"""Sinusoidal position embeddings, over real tokens only or counted back from the end of a segment."""

import math

import torch
from torch import Tensor, nn

from normplugins.utils.errors import UserError


class SinusoidalPositions(nn.Module):
    """sin and cos of the position at dim/2 wavelengths from 2 pi to 10,000 x 2 pi (tensor2tensor's arrangement).

    The n-th real token of a sentence gets row ``padding_idx + n``, n = 1, 2, ...; padding gets the zero row.

    Args:
        dim: width of an embedding, at least 4.
        padding_idx: index of the padding token in the dictionary.
        max_positions: longest sequence, in tokens.
    """

    def __init__(self, dim: int, padding_idx: int, max_positions: int) -> None:
        super().__init__()
        self.padding_idx, self.max_positions = padding_idx, max_positions
        half = dim // 2
        frequencies = torch.exp(torch.arange(half, dtype=torch.float) * (-math.log(10_000) / (half - 1)))
        angles = torch.arange(padding_idx + 1 + max_positions, dtype=torch.float)[:, None] * frequencies
        table = nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))
        table[padding_idx] = 0
        self.register_buffer("table", table, persistent=False)
        self.table: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the position embeddings (B, T, dim) of token indices (B, T); raises as :meth:`numbers`."""
        return self.embed(self.numbers(tokens))

    def embed(self, numbers: Tensor) -> Tensor:
        """Return the rows (..., dim) of the table for row numbers (...)."""
        return nn.functional.embedding(numbers, self.table)

    def numbers(self, tokens: Tensor) -> Tensor:
        """Return the row number of each token's position, (B, T), for token indices (B, T).

        Raises:
            UserError: the sequences are longer than the model was built for.
        """
        if tokens.size(1) > self.max_positions:
            raise UserError(
                f"a sequence of {tokens.size(1)} tokens, but the model takes at most {self.max_positions}: "
                "shorten it, or train with larger max_positions (translation: max_source_ and max_target_positions)"
            )
        real = tokens.ne(self.padding_idx).long()
        return real.cumsum(dim=1) * real + self.padding_idx


def positions_from_the_end(length: int, dim: int) -> Tensor:
    """Return embeddings (L, C) of the distances L - 1, ..., 0 to the last token (Transformer-XL, arXiv 1901.02860).

    C is even; the wavelengths of sin and cos are 2 pi 10,000^(2n / C), n = 0 ... C/2 - 1.
    """
    frequencies = 10_000 ** -(torch.arange(0, dim, 2, dtype=torch.float) / dim)
    angles = torch.arange(length - 1, -1, -1, dtype=torch.float)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
