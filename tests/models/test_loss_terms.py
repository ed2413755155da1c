"""The terms of norms in the loss of every criterion."""

import pytest
import torch
from fairseq import criterions
from omegaconf import OmegaConf

import normplugins
from tests.helpers.models import make_model, make_sample, make_task


def gradients(name: str, penalty: float, recompute: bool = False) -> tuple[float, dict[str, torch.Tensor], float]:
    """Return the loss of a batch, the gradients, and the sum of the norms' terms."""
    normplugins.register()
    settings = {"_name": name, "label_smoothing": 0.1, "sentence_avg": False}
    criterion = criterions.build_criterion(OmegaConf.create(settings), make_task())
    torch.manual_seed(0)
    changes = {"encoder_norm": "rbn", "norm_penalty_mean": penalty, "norm_penalty_var": penalty}
    model = make_model(checkpoint_activations=recompute, **changes).train()
    terms: list[torch.Tensor] = []
    for module in model.modules():
        if hasattr(module, "loss_term"):
            module.register_forward_hook(lambda norm, *_: terms.append(norm.loss_term))
    loss, _, logged = criterion(model, make_sample())
    count = len(terms)
    loss.backward()
    found = {key: p.grad.clone() for key, p in model.named_parameters()}
    return loss.item() - logged["loss"].item(), found, sum(term.item() for term in terms[:count])


@pytest.mark.parametrize("name", ["label_smoothed_nll", "label_smoothed_cross_entropy"])
def test_they_are_added_once_to_the_loss_and_have_a_gradient(name: str) -> None:
    difference, found, terms = gradients(name, 0.5)
    assert terms > 0
    assert difference == pytest.approx(terms, rel=1e-3)
    _, without, none = gradients(name, 0.0)
    assert none == 0
    key = next(key for key in found if key.startswith("encoder") and "fc1.weight" in key)
    assert not torch.allclose(found[key], without[key])


def test_activation_checkpointing_changes_no_gradient() -> None:
    torch.testing.assert_close(gradients("label_smoothed_nll", 0.5, True)[1], gradients("label_smoothed_nll", 0.5)[1])
