"""Norms that normalize with the batch's statistics while their model is evaluated, and change no running statistic."""

import copy

import pytest
import torch
from torch import nn

from normplugins.norms import NormConfig, build_norm, end_update, using_batch_statistics
from tests.helpers.norms import BATCH_NORMS, buffers, random_affine, step


class Model(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.dropout = norm, nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.dropout(self.norm(x, mask))
        return y


def trained(name: str, per_update: bool) -> tuple[Model, torch.Tensor, torch.Tensor]:
    norm = random_affine(build_norm(NormConfig(name, groups=2, per_update=per_update), 8))
    torch.manual_seed(0)
    mask = torch.arange(5) >= torch.tensor([[5], [3], [2]])
    for _ in range(3):
        step(norm, torch.randn(5, 3, 8) + 1, mask, torch.randn(5, 3, 8))
        end_update(norm)
    return Model(norm), torch.randn(5, 3, 8) + 1, mask


@pytest.mark.parametrize("per_update", [False, True])
@pytest.mark.parametrize("name", BATCH_NORMS)
def test_norms_use_the_batch_and_change_no_statistic(name: str, per_update: bool) -> None:
    model, x, mask = trained(name, per_update)
    want, apart, before = copy.deepcopy(model.norm)(x, mask), model.eval()(x, mask), buffers(model.norm)
    with using_batch_statistics(model), torch.no_grad():
        for _ in range(2):
            model.eval()  # as fairseq does before each batch
            assert torch.equal(model(x, mask), want)
    if name != "pn_alg2":  # it normalizes with running statistics in training too
        assert not torch.equal(apart, want)
    assert not model.norm.training
    end_update(model)
    assert all(torch.equal(value, before[key]) for key, value in buffers(model.norm).items())
    assert torch.equal(model(x, mask), apart)


def test_an_error_in_the_context_restores_everything() -> None:
    model, x, mask = trained("bn", per_update=False)
    before = buffers(model.norm)
    model.eval()

    def fail() -> None:
        with using_batch_statistics(model):
            model(x, mask)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert not model.norm.training
    assert all(torch.equal(value, before[key]) for key, value in buffers(model.norm).items())
    model.train()(x, mask)
    assert not torch.equal(buffers(model.norm)["running_mean"], before["running_mean"])
