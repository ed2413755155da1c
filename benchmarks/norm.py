"""Times of the forward pass, the backward pass and both, for every norm and for torch.nn.LayerNorm.

python -m benchmarks.norm [--quick] [--norms pn,pn_alg2,bn] [--repeats 30]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks import page
from benchmarks.measure import case_of, machine, parse, parser_with, rows, take_turns
from benchmarks.released import ReleasedPowerNorm
from normplugins.cli import call
from normplugins.norms import NormConfig, all_settings, build_norm, known_norms

PARSER = parser_with(__doc__, "--quick", "--norms", "--repeats")
DIRECTIONS = ("forward", "backward", "both")
BASELINE, RELEASED, COPY = "torch LayerNorm", "released PN", "copy"
SENTENCE = 32  # positions of a sentence
GROWING = ("pn", "pn_alg2")


@dataclass(frozen=True)
class Case:
    """The input: ``tokens`` positions with ``channels`` channels each, in sentences of 32, with or without padding."""

    tokens: int
    channels: int
    dtype: torch.dtype = torch.float32
    padded: bool = False

    def __str__(self) -> str:
        padding = f"{100 * self.mask().double().mean():.1f}%" if self.padded else "none"
        return case_of(tokens=self.tokens, channels=self.channels, dtype=str(self.dtype)[6:], padding=padding)

    def mask(self) -> Tensor:
        """Return the padding mask (B, T), True at padding; the lengths of sentences range from 3/4 T to T."""
        lengths = torch.linspace(0.75 * SENTENCE, SENTENCE, self.tokens // SENTENCE).round()
        return torch.arange(SENTENCE) >= lengths[:, None]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the main cases, and how the cost of some norms grows with tokens and channels."""
    options = parse(PARSER, argv)
    cuda = torch.cuda.is_available()
    names = options.norms or tuple(name for name in known_norms() if name != "none")
    repeats = options.repeats or 15
    where = machine(options.threads, cpu=not cuda)
    with page.regenerated(options.results):
        for case in main_cases(cuda, options.quick):
            page.add(options.results, rows("norm", str(case), measure(case, names, repeats), BASELINE, where))
        for what, cases in {} if options.quick else growing(cuda).items():
            found = {str(case): measure(case, GROWING, repeats, directions=("both",)) for case in cases}
            made = pd.concat(rows("norm", case, times, BASELINE, where) for case, times in found.items())
            page.add(options.results, made, page.growth_table(what, made))


def main_cases(cuda: bool, quick: bool) -> list[Case]:
    """Return the cases on which all norms are measured."""
    if not cuda:
        widths = (512,) if quick else (512, 1024)
        return [Case(4096, width, padded=padded) for width in widths for padded in (False, True)]
    sizes = (4096,) if quick else (4096, 16384, 65536)
    kinds = (torch.bfloat16, torch.float32)
    return [Case(size, width, dtype) for size in sizes for width in (512, 1024) for dtype in kinds]


def growing(cuda: bool) -> dict[str, list[Case]]:
    """Return series of growing cases, by the field that grows."""
    factor = 16 if cuda else 1
    return {
        "tokens": [Case(factor * tokens, 512) for tokens in (1024, 2048, 4096, 8192, 16384)],
        "channels": [Case(factor * 4096, channels) for channels in (128, 256, 512, 1024, 2048)],
    }


def providers(names: Sequence[str], channels: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield the baselines and each norm; a norm with kernels is yielded in plain PyTorch, too."""
    yield BASELINE, nn.LayerNorm(channels)
    if "pn" in names:
        yield RELEASED, ReleasedPowerNorm(channels, warmup_updates=0)
    for name in names:
        config = NormConfig(name=name)
        yield name, build_norm(config, channels)
        if name in all_settings()["kernels"].defaults:
            yield f"{name} plain", build_norm(config.replace(kernels="plain"), channels)


def measure(
    case: Case,
    names: Sequence[str],
    repeats: int,
    directions: Sequence[str] = DIRECTIONS,
    seconds: float = 0.02,
) -> dict[tuple[str, str], list[float]]:
    """Time the providers of a case in turns; return the times by provider and direction. PN is past its warmup."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    shape = (SENTENCE, case.tokens // SENTENCE, case.channels)
    x, g = (torch.randn(shape, generator=generator).to(device, case.dtype) for _ in range(2))
    mask = case.mask().to(device) if case.padded else None
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, module in providers(names, case.channels):
        made = _calls(module.to(device, case.dtype), x, g, None if name == BASELINE else mask)
        calls |= {(name, direction): made[direction] for direction in directions}
    if "forward" in directions:
        y = torch.empty_like(x)
        calls[COPY, "forward"] = lambda: y.copy_(x)
    return take_turns(calls, repeats, seconds)


def _calls(module: nn.Module, x: Tensor, g: Tensor, mask: Tensor | None) -> dict[str, Callable[[], object]]:
    x = x.detach().requires_grad_()
    inputs = [x, *module.parameters()]

    def forward() -> Tensor:
        y: Tensor = module(x) if mask is None else module(x, mask)
        return y

    for _ in range(2):  # moves the statistics away from their initial values
        torch.autograd.grad(forward(), inputs, g, allow_unused=True)
    for name, counted in module.named_buffers():
        if name.endswith("num_updates"):
            counted.fill_(10**6)
    y = forward()
    return {
        "forward": forward,
        "backward": lambda: torch.autograd.grad(y, inputs, g, retain_graph=True, allow_unused=True),
        "both": lambda: torch.autograd.grad(forward(), inputs, g, allow_unused=True),
    }


if __name__ == "__main__":
    sys.exit(call(main))
