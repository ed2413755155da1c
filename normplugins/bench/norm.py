"""``normplugins bench norm``: forward, backward and both of every norm, and GB/s of the bytes that it has to move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from normplugins.bench.options import Options
from normplugins.bench.released import ReleasedPowerNorm
from normplugins.bench.results import add_rows, case_of, here, measured
from normplugins.bench.tables import case_table, growth_table, show
from normplugins.bench.timing import Timing, compare
from normplugins.norms import NormConfig, build_norm, has_kernels, known_norms
from normplugins.norms.deferred_residual import DeferredResidual

DIRECTIONS = ("forward", "backward", "both")
BASELINE, RELEASED, COPY = "torch LayerNorm", "released PN", "copy"
SENTENCE = 32  # positions of a sentence
REPEATS, BLOCK_SECONDS = 15, 0.02
GROWTH = (BASELINE, "pn", "pn_alg2", RELEASED)
# Passes over (T, B, C): a forward reads x and writes y, a backward reads dL/dy and x and writes dL/dx. What needs sums
# over the batch first reads its inputs once more: x, or dL/dy and x (for a mean alone, dL/dy).
PASSES = {"none": (0, 0), "bn": (3, 5), "bn_released": (3, 5), "pnv": (3, 5), "weight": (3, 3), COPY: (2, 0)}
USUAL = (2, 3)
# With a residual connection before it: the residual is read too, the sum written, then normalized; in the backward the
# gradient that arrives at the sum is read too, and those of the residual and of the update are written.
RESIDUAL, RESIDUAL_PASSES, DROPOUT = " + residual", 2, 0.1


@dataclass(frozen=True)
class Case:
    """What is normalized: ``tokens`` positions of ``channels``, in sentences of 32, with padding or without."""

    tokens: int
    channels: int
    dtype: torch.dtype = torch.float32
    padded: bool = False

    def __str__(self) -> str:
        padding = f"{100 * self.mask().double().mean():.1f}%" if self.padded else "none"
        return case_of(tokens=self.tokens, channels=self.channels, dtype=str(self.dtype)[6:], padding=padding)

    def mask(self) -> Tensor:
        """Padding (B, T), True where padding: sentences from three quarters of the length up to all of it."""
        lengths = torch.linspace(0.75 * SENTENCE, SENTENCE, self.tokens // SENTENCE).round()
        return torch.arange(SENTENCE) >= lengths[:, None]


def counted_bytes(name: str, direction: str, case: Case) -> int:
    """Bytes that a norm has to read and write at least, were nothing kept in a cache."""
    forward, backward = PASSES.get(name.split(" ")[0], USUAL)
    if RESIDUAL in name:
        forward, backward = forward + RESIDUAL_PASSES, backward + RESIDUAL_PASSES
    passes = {"forward": forward, "backward": backward, "both": forward + backward}[direction]
    return passes * case.tokens * case.channels * case.dtype.itemsize


def run(
    options: Options, cases: Sequence[Case] | None = None, series: Mapping[str, Sequence[Case]] | None = None
) -> None:
    """Measure, print and record: every norm beside ``torch.nn.LayerNorm``, and how the cost grows.

    ``cases`` and ``series`` (by the field of a case that grows) stand in the place of the usual ones.
    """
    threads = options.set_threads()
    cuda = torch.cuda.is_available()
    names = options.norms or tuple(name for name in known_norms() if name != "none")
    repeats = options.repeats or REPEATS
    where = here(repeats, threads, cpu=not cuda)
    for case in main_cases(cuda, options.quick) if cases is None else cases:
        found = measure(case, names, repeats, cuda, options.compiled, residual=cuda)
        add_rows(options.csv, rows := rows_of(case, found, where))
        show(case_table(rows))
    if not options.quick:
        for what, sizes in (series or growing(cuda)).items():
            grown = []
            for case in sizes:
                found = measure(case, GROWTH, repeats, cuda, directions=("both",))
                add_rows(options.csv, rows := rows_of(case, found, where))
                grown += rows
            show(growth_table(what, grown))


def main_cases(cuda: bool, quick: bool) -> list[Case]:
    """The cases that all norms are measured on."""
    if not cuda:
        widths = (512,) if quick else (512, 1024)
        return [Case(4096, width, padded=padded) for width in widths for padded in (False, True)]
    sizes = (4096,) if quick else (4096, 16384, 65536)
    kinds = (torch.bfloat16, torch.float32)
    return [Case(size, width, dtype) for size in sizes for width in (512, 1024) for dtype in kinds]


def growing(cuda: bool) -> dict[str, list[Case]]:
    """Cases of growing work: tokens in a batch, and channels."""
    factor = 16 if cuda else 1
    return {
        "tokens": [Case(factor * tokens, 512) for tokens in (1024, 2048, 4096, 8192, 16384)],
        "channels": [Case(factor * 4096, channels) for channels in (128, 256, 512, 1024, 2048)],
    }


def providers(names: Sequence[str], channels: int, compiled: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """The baselines, and each norm: as it is, in plain PyTorch where that is another path, and compiled if wanted."""
    yield BASELINE, nn.LayerNorm(channels)
    if "pn" in names or RELEASED in names:
        yield RELEASED, ReleasedPowerNorm(channels, warmup_updates=0)
    for name in names:
        if name in known_norms():
            config = NormConfig(name=name)
            yield name, build_norm(config, channels)
            if has_kernels(name):
                yield f"{name} plain", build_norm(replace(config, kernels="plain"), channels)
            if compiled:
                yield f"{name} compiled", torch.compile(build_norm(config, channels))  # type: ignore[misc]


class AfterResidual(nn.Module):
    """norm(s) and s, for s = residual + dropout(x): what stands between two sublayers of a pre-norm model.

    ``fused``: the norm adds up, where it can; else PyTorch does.
    """

    def __init__(self, norm: nn.Module, like: Tensor, fused: bool) -> None:
        super().__init__()
        self.norm, self.fused = norm, fused
        self.residual = nn.Parameter(torch.randn_like(like))

    def forward(self, x: Tensor, *mask: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, B, C) as the residual, and what the norm takes beside it; returns two of (T, B, C)."""
        total = DeferredResidual(self.residual, x, DROPOUT)
        y = self.norm(total if self.fused else total.value, *mask)
        return y, total.value


def after_residuals(names: Sequence[str], x: Tensor) -> Iterator[tuple[str, nn.Module]]:
    """Each norm that adds residual sums up on a GPU, doing so and not, and LayerNorm after a sum by PyTorch."""
    yield f"{BASELINE}{RESIDUAL}", AfterResidual(nn.LayerNorm(x.size(-1)), x, fused=False)
    for name in filter(has_kernels, names):
        for label, fused in ((RESIDUAL, True), (f"{RESIDUAL} apart", False)):
            norm = build_norm(NormConfig(name=name), x.size(-1))
            if getattr(norm, "accepts_deferred", False):
                yield f"{name}{label}", AfterResidual(norm, x, fused)


def measure(
    case: Case,
    names: Sequence[str],
    repeats: int,
    cuda: bool = False,
    compiled: bool = False,
    directions: Sequence[str] = DIRECTIONS,
    block_seconds: float = BLOCK_SECONDS,
    residual: bool = False,
) -> dict[tuple[str, str], Timing]:
    """Time a case's providers in turns; returns (provider, direction) -> timing. PN is past its warmup.

    With ``residual`` those after a residual connection too.
    """
    device = "cuda" if cuda else "cpu"
    generator = torch.Generator().manual_seed(0)
    shape = (SENTENCE, case.tokens // SENTENCE, case.channels)
    x, g = (torch.randn(shape, generator=generator).to(device, case.dtype) for _ in range(2))
    mask = case.mask().to(device) if case.padded else None
    if compiled:
        torch.compiler.reset()  # each case is compiled for itself; many of one class would end in plain code
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    modules = chain(providers(names, case.channels, compiled), after_residuals(names, x) if residual else ())
    for name, module in modules:
        made = _calls(module.to(device, case.dtype), x, g, None if name.startswith(BASELINE) else mask)
        calls |= {(name, direction): made[direction] for direction in directions}
    if "forward" in directions:
        y = torch.empty_like(x)
        calls[COPY, "forward"] = lambda: y.copy_(x)
    named = {f"{name}|{direction}": call for (name, direction), call in calls.items()}
    found = compare(named, repeats, warmup=3, block_seconds=block_seconds, cuda=cuda)
    return dict(zip(calls, found.values(), strict=True))


def _calls(module: nn.Module, x: Tensor, g: Tensor, mask: Tensor | None) -> dict[str, Callable[[], object]]:
    x = x.detach().requires_grad_()
    inputs = [x, *module.parameters()]

    def forward() -> Sequence[Tensor]:
        y: Tensor | tuple[Tensor, ...] = module(x) if mask is None else module(x, mask)
        return (y,) if isinstance(y, Tensor) else y

    for _ in range(2):  # statistics away from where they begin; and past a warmup
        gradients = [g] * len(y := forward())
        torch.autograd.grad(y, inputs, gradients, allow_unused=True)
    for name, counted in module.named_buffers():
        if name.endswith("num_updates"):
            counted.fill_(10**6)
    y = forward()
    return {
        "forward": forward,
        "backward": lambda: torch.autograd.grad(y, inputs, gradients, retain_graph=True, allow_unused=True),
        "both": lambda: torch.autograd.grad(forward(), inputs, gradients, allow_unused=True),
    }


def rows_of(case: Case, found: Mapping[tuple[str, str], Timing], where: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a case, with the GB a second of the counted bytes."""

    def rate(name: str, direction: str, timing: Timing) -> dict[str, float]:
        return {"gb_per_s": counted_bytes(name, direction, case) / timing.median / 1e9}

    return measured("norm", str(case), found, BASELINE, rate, where)
