"""Two processes with parts of a batch give the same outputs, gradients and statistics as one with the whole batch."""

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from normplugins.norms import NormConfig, build_norm, reestimate, running_statistics
from tests.helpers.data_parallel import (
    CUTS,
    DIM,
    Block,
    Part,
    assert_same,
    close,
    cut,
    joined,
    steps,
    train,
    train_mine,
    whole,
)
from tests.helpers.norms import SHORT, buffers
from tests.helpers.processes import Pair

pytestmark = pytest.mark.slow
NORMS = {
    "bn": NormConfig("bn"),
    "bn_released": NormConfig("bn_released"),
    "pnv": NormConfig("pnv"),
    "weight": NormConfig("weight"),
    "pn warming up": NormConfig("pn", groups=2, warmup_updates=100),
    "pn past its warmup": NormConfig("pn", groups=2, warmup_updates=4),
    "pn never warming up": NormConfig("pn", groups=2, warmup_updates=0, batch_backward=False),
    "pn_alg2": NormConfig("pn_alg2"),
    "pn_alg2 scaled": NormConfig("pn_alg2", groups=2, group_scaling=True),
    **{name: NormConfig(name, **SHORT[name]) for name in ("un", "mabn", "renorm")},
}
DEFERRABLE = ("pn never warming up", "pn_alg2", "pn_alg2 scaled")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_two_processes_are_one(norm: str, micro_batches: int, pair: Pair) -> None:
    config, updates = NORMS[norm].replace(per_update=micro_batches > 1), steps(micro_batches)
    parts = pair.call(train_mine, config.replace(sync="batch"), updates)
    assert_same(parts, train(config, whole(updates)))


@pytest.mark.parametrize("norm", NORMS)
def test_recomputed_activations_are_counted_once(norm: str, pair: Pair) -> None:
    parts = pair.call(train_mine, NORMS[norm].replace(sync="batch"), steps(), True)
    assert_same(parts, train(NORMS[norm], whole(steps())))


@pytest.mark.parametrize("norm", DEFERRABLE)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_deferred_statistics_are_summed_once_an_update(norm: str, micro_batches: int, pair: Pair) -> None:
    """Of all layers at once."""
    updates = steps(micro_batches)
    parts = pair.call(train_mine, NORMS[norm].replace(sync="deferred"), updates, micro_batches > 1)
    assert_same(parts, train(NORMS[norm].replace(per_update=micro_batches > 1), whole(updates)))
    assert [update.sent for part in parts for update in part] == [1] * 2 * len(CUTS)


@pytest.mark.parametrize("norm", NORMS)
def test_the_number_of_messages(norm: str, pair: Pair) -> None:
    """Each of two norms sends one message in the forward and one in the backward, and none without ``sync``."""
    for sync, messages in (("none", 0), ("batch", 2)):
        (first, *_), _ = pair.call(train_mine, NORMS[norm].replace(sync=sync), [[cut(0)]])
        assert first.sent == 2 * messages


def variance_far_from_zero(parts: list[Part]) -> torch.Tensor:
    norm, mine = build_norm("bn", DIM, sync="batch"), parts[dist.get_rank()]
    norm((mine.x + 1e4).float(), mine.mask)
    return norm.get_buffer("running_var")


def test_the_variance_of_two_processes_keeps_its_digits_if_the_mean_is_large(pair: Pair) -> None:
    parts, norm = cut(0), build_norm("bn", DIM).double()
    both = joined(parts)
    norm((both.x + 1e4).float().double(), both.mask)
    for variance in pair.call(variance_far_from_zero, parts):
        assert_close(variance, norm.running_var.float(), rtol=1e-3, atol=0)


def test_without_sync_statistics_are_per_process(pair: Pair) -> None:
    one, other = pair.call(train_mine, NORMS["bn"], steps())
    alone = train(NORMS["bn"], [[parts[0] for parts in update] for update in steps()][:1])
    assert_close(one[0].buffers, alone[0].buffers, rtol=0, atol=1e-15)  # the processes have other numbers of threads
    assert not torch.allclose(one[-1].buffers["first.running_mean"], other[-1].buffers["first.running_mean"])


def reestimated(config: NormConfig, batches: list[list[Part]]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = Block(config).double()
    with reestimate(model), torch.no_grad():
        for parts in batches:
            mine = parts[dist.get_rank()] if dist.is_initialized() else joined(parts)
            model(mine.x, mine.mask)
    return buffers(model)


@pytest.mark.parametrize(
    ("norm", "sync"), [*((norm, "batch") for norm in NORMS), *((n, "deferred") for n in DEFERRABLE)]
)
def test_reestimated_statistics_are_those_of_all_processes_tokens(norm: str, sync: str, pair: Pair) -> None:
    batches = [cut(step) for step in range(len(CUTS))]
    for got in pair.call(reestimated, NORMS[norm].replace(sync=sync), batches):
        close(got, reestimated(NORMS[norm], batches), "reestimated")


def gradient_of_the_loss_term(parts: list[Part]) -> torch.Tensor:
    """dL/dx of RegularizedBN's term alone, for the part of this process, or for the whole batch."""
    mine = parts[dist.get_rank()] if dist.is_initialized() else joined(parts)
    norm, x = build_norm("rbn", DIM, sync="batch").double(), mine.x.requires_grad_()
    norm(x, mine.mask)
    (gradient,) = torch.autograd.grad(norm.loss_term, x)
    return gradient.flatten(0, 1) if gradient.dim() == 3 else gradient


def test_the_loss_term_of_synchronized_statistics_counts_once(pair: Pair) -> None:
    both = torch.cat(pair.call(gradient_of_the_loss_term, cut(0)))
    close(both, gradient_of_the_loss_term(cut(0)), "the term's gradient")


@pytest.mark.parametrize("sync", ["batch", "deferred"])
def test_a_model_in_evaluation_needs_no_other_process(sync: str) -> None:
    """With one process, or at evaluation, nothing is sent, so that no process group is needed."""
    norm = build_norm(NormConfig("pn_alg2", sync=sync), DIM)
    for training in (True, False):
        norm.train(training)(torch.randn(5, DIM))
    assert running_statistics(norm).keys() == {"running_phi", "ema_gz"}
