"""residual + dropout(update) inside the norms' passes against separate operations with the same mask."""

import copy

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from normplugins.norms.backends.triton import tiles
from normplugins.norms.backends.triton.residual import draw_kept
from normplugins.norms.deferred_residual import DeferredResidual
from tests.helpers.norms import buffers
from tests.helpers.triton import DEVICE, batch, kernels, plain
from tests.norms.backends.triton.test_channelwise import NORMS, at

pytestmark = pytest.mark.slow
P = 0.3
Results = dict[str, Tensor]


def mask_of(norm: nn.Module, like: Tensor, p: float) -> Tensor:
    """Return the scaled mask that the norm's kernels draw, and reset the generator to the seed that gives this mask."""
    torch.manual_seed(0)
    ones = DeferredResidual(torch.zeros_like(like), torch.ones_like(like), p)
    copy.deepcopy(norm)(ones)
    torch.manual_seed(0)
    return ones.value


def parts(shape: tuple[int, int, int], seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Residual, update, dL/dy, dL/ds (T, B, C) and a padding mask (B, T)."""
    residual, g, mask = batch(*shape, dtype, seed=2 * seed)
    update, arriving, _ = batch(*shape, dtype, seed=2 * seed + 1)
    return residual, update, g, arriving, mask


def outcome(norm: nn.Module, s: Tensor, y: Tensor, leaves: list[Tensor], gradients: dict[str, Tensor]) -> Results:
    """Results of s and y = norm(s) for the gradients dL/dy and, pre-norm, dL/ds, and the buffers."""
    outputs = {"y": y, "s": s}
    inputs = {"dL/dresidual": leaves[0], "dL/dupdate": leaves[1]}
    inputs |= {f"dL/d{name}": parameter for name, parameter in norm.named_parameters()}
    given = torch.autograd.grad([outputs[name] for name in gradients], [*inputs.values()], [*gradients.values()])
    return {"y": y.detach(), "s": s.detach(), **dict(zip(inputs, given, strict=True)), **buffers(norm)}


def fused(norm: nn.Module, residual: Tensor, update: Tensor, p: float, mask: Tensor, **gradients: Tensor) -> Results:
    leaves = [each.clone().requires_grad_() for each in (residual, update)]
    total = DeferredResidual(leaves[0], leaves[1], p)
    y = norm(total, mask)
    assert total.update is None  # the sum has been computed
    return outcome(norm, total.value, y, leaves, gradients)


def apart(
    norm: nn.Module, residual: Tensor, update: Tensor, kept: Tensor, mask: Tensor, **gradients: Tensor
) -> Results:
    leaves = [each.clone().requires_grad_() for each in (residual, update)]
    s = leaves[0] + leaves[1] * kept
    return outcome(norm, s, norm(s, mask), leaves, gradients)


@pytest.mark.parametrize(("arrives", "p"), [(True, P), (False, P), (True, 0.0)])
@pytest.mark.parametrize("name", NORMS)
def test_it_agrees_with_separate_operations(name: str, arrives: bool, p: float) -> None:
    """Pre-norm, where a gradient arrives at the sum, and post-norm; padding's sum too; in PN's warmup and after it."""
    changes = at(name, groups=2, warmup=1)
    ours, reference = (make(name, 70, **changes).double() for make in (kernels, plain))
    for seed in range(2):
        residual, update, g, arriving, mask = parts((23, 3, 70), seed)
        gradients = {"y": g, "s": arriving} if arrives else {"y": g}
        kept = mask_of(ours, update, p)
        got = fused(ours, residual, update, p, mask, **gradients)
        want = apart(reference, residual, update, kept, mask, **gradients)
        assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NORMS)
def test_errors_are_within_twice_those_of_pytorch(name: str) -> None:
    dtype, changes = torch.bfloat16, at(name, groups=4, warmup=1)
    ours, low, exact = (make(name, 96, **changes) for make in (kernels, plain, plain))
    exact.double()
    for seed in range(2):
        *tensors, mask = parts((15, 3, 96), seed, dtype)
        residual, update, g, arriving = tensors
        kept = mask_of(ours, update.float(), P)
        got = fused(ours, residual, update, P, mask, y=g, s=arriving)
        theirs = apart(low, residual, update, kept.to(dtype), mask, y=g, s=arriving)
        r, u, g, arriving = (each.double() for each in tensors)
        want = apart(exact, r, u, (kept > 0) / (1 - P), mask, y=g, s=arriving)
        for what, value in want.items():
            assert got[what].dtype == theirs[what].dtype
            error, allowed = ((each[what] - value).abs().max() for each in (got, theirs))
            # p is rounded to 1/65536; and sums in float32 are taken in another order
            rounding = (2**-16 + 8 * torch.finfo(torch.float32).eps) * value.abs().max()
            assert error <= max(2 * allowed, rounding), f"step {seed}, {what}: {error} against PyTorch's {allowed}"


def test_the_stored_sum_is_normalized() -> None:
    residual, update, _, _, mask = parts((15, 3, 96), 0, torch.bfloat16)
    ours, alone = (kernels("pn_alg2", 96) for _ in range(2))
    total = DeferredResidual(residual, update, P)
    assert torch.equal(ours(total, mask), alone(total.value, mask))


@pytest.mark.parametrize("p", [0.1, 1.0])
def test_each_element_is_dropped_with_probability_p_and_independently_of_its_neighbours(p: float) -> None:
    scaled = mask_of(kernels("pn_alg2", 128), torch.empty(100, 4, 128, device=DEVICE), p).flatten()
    kept, n = (scaled > 0).double(), scaled.numel()
    assert_close(scaled, kept.float() / max(1 - p, 1e-9), rtol=1e-4, atol=0)  # so that the mean stays
    deviations = 5 * (p * (1 - p)) ** 0.5
    assert abs(kept.mean() - (1 - p)) <= deviations / n**0.5
    for lane in range(8):  # eight decisions come from one call of Philox
        assert abs(kept[lane::8].mean() - (1 - p)) <= deviations / (n / 8) ** 0.5
    centred = kept - (1 - p)
    for distance in (1, 2, 3, 4, 8, 64, 2048):
        covariance = (centred[:-distance] * centred[distance:]).mean()
        assert abs(covariance) <= 5 * p * (1 - p) / (n - distance) ** 0.5


def test_masks_follow_the_generator() -> None:
    norm, like = kernels("pn_alg2", 64), torch.empty(40, 64, device=DEVICE)
    generator = torch.cuda if DEVICE == "cuda" else torch

    def drawn(p: float = P) -> Tensor:
        total = DeferredResidual(torch.zeros_like(like), torch.ones_like(like), p)
        norm(total)
        return total.value

    torch.manual_seed(1)
    first, state, second = drawn(), generator.get_rng_state(), drawn()
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(drawn(), first)
    generator.set_rng_state(state)  # as from a checkpoint
    drawn(0.0)
    assert torch.equal(drawn(), second)  # where nothing is dropped, nothing is drawn


def test_masks_do_not_depend_on_the_number_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number depends on the GPU, and a run may be resumed on another GPU."""
    residual, update, g, arriving, mask = parts((23, 3, 70), 0)
    outcomes = []
    for multiprocessors in (1, 7):
        monkeypatch.setattr(tiles, "_multiprocessors", lambda device, number=multiprocessors: number)
        torch.manual_seed(0)
        outcomes.append(fused(kernels("pn_alg2", 70).double(), residual, update, P, mask, y=g, s=arriving))
    assert_close(outcomes[0], outcomes[1], rtol=1e-12, atol=1e-12)


@triton.jit
def _mask_at(seed, out, start, COLUMNS: tl.constexpr):
    kept = draw_kept(seed, start, 32768, 1, COLUMNS)
    tl.store(out + tl.arange(0, COLUMNS)[None, :], kept.to(tl.int8))


def test_masks_do_not_repeat_in_the_largest_tensors() -> None:
    """After 2^35 elements there have been 2^32 calls of Philox, at which a counter of 32 bits overflows."""
    seed, masks = torch.tensor(7, device=DEVICE), torch.empty(3, 8192, dtype=torch.int8, device=DEVICE)
    for mask, start in zip(masks, (0, 1 << 22, 0), strict=True):
        _mask_at[(1,)](seed, mask, start, COLUMNS=8192)
    assert torch.equal(masks[0], masks[2])
    assert 0.4 < (masks[0] == masks[1]).double().mean() < 0.6


@pytest.mark.parametrize("name", ["pn", "bn"])
def test_recomputed_activations_use_the_same_mask(name: str) -> None:
    once, twice = (kernels(name, 8, **at(name, groups=2, warmup=1)).double() for _ in range(2))
    for seed in range(2):
        residual, update, g, arriving, mask = parts((9, 3, 8), seed)

        def both(residual: Tensor, update: Tensor, mask: Tensor = mask) -> tuple[Tensor, Tensor]:
            total = DeferredResidual(residual, update, P)
            y = twice(total, mask)
            return y, total.value

        torch.manual_seed(seed)
        want = fused(once, residual, update, P, mask, y=g, s=arriving)
        torch.manual_seed(seed)
        leaves = [each.clone().requires_grad_() for each in (residual, update)]
        twice.zero_grad()
        y, s = checkpoint(both, *leaves, use_reentrant=False)
        torch.autograd.backward([y, s], [g, arriving])
        assert torch.equal(y, want["y"])
        assert torch.equal(s, want["s"])
        got = {"dL/dresidual": leaves[0].grad, "dL/dupdate": leaves[1].grad}
        got |= {f"dL/d{name}": parameter.grad for name, parameter in twice.named_parameters()} | buffers(twice)
        assert_close(got, {key: want[key] for key in got}, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["pn_alg2", "pnv", "bn"])
def test_values_in_padding_affect_the_sum_only(name: str) -> None:
    residual, update, g, arriving, mask = parts((7, 4, 40), 0)
    padding = mask.t().unsqueeze(-1)
    outcomes = []
    for junk in (0.0, float("nan")):
        torch.manual_seed(0)
        norm = kernels(name, 40).double()
        dirty = residual.masked_fill(padding, junk)
        outcomes.append(fused(norm, dirty, update, P, mask, y=g.masked_fill(padding, junk), s=arriving))
    clean, dirty = outcomes
    assert dirty["s"].isnan().equal(padding.expand_as(residual))
    del clean["s"], dirty["s"]
    assert_close(dirty, clean, rtol=0, atol=0)
    assert_close(dirty["dL/dresidual"][mask.t()], arriving[mask.t()], rtol=0, atol=0)


def test_gradients_if_only_the_sum_is_used() -> None:
    residual, update, _, arriving, mask = parts((5, 3, 8), 0)
    norm = kernels("pnv", 8).double()
    kept = mask_of(norm, update, P)
    got = fused(norm, residual, update, P, mask, s=arriving)
    assert_close(got["dL/dresidual"], arriving)
    assert_close(got["dL/dupdate"], arriving * kept)
