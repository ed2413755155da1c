"""Our training follows stock fairseq's loss curve as closely as stock fairseq follows itself with other rounding."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from fairseq import utils

from benchmarks.step import training_batches
from benchmarks.stock import from_stock, stock_trainer
from normplugins.runs.compose import compose_config, fairseq_config
from normplugins.training.trainer import Trainer

UPDATES = 30
SMALL = [
    *("norm=ln", "hardware=cpu", "data_dir=nowhere", "dataset.max_tokens=300", "lr_scheduler.warmup_updates=10"),
    *("model.dropout=0", "model.attention_dropout=0", "model.activation_dropout=0"),
    *(f"model.{side}_{size}" for side in ("encoder", "decoder") for size in ("layers=1", "embed_dim=32")),
]


def losses(trainer, batches):
    """Train on each batch; return its loss before the update in bits per token, not rounded as the trainer's own is."""
    found = []

    def watch(_criterion, _inputs, outputs):
        loss, size, _ = outputs
        found.append(float(loss.detach()) / size / math.log(2))

    hook = trainer.criterion.register_forward_hook(watch)
    for batch in batches:
        trainer.train_step([batch], raise_oom=True)
        trainer.get_model().set_num_updates(trainer.get_num_updates())
    hook.remove()
    return np.array(found)


@cache
def curves(*overrides):
    """Losses of stock fairseq, of stock fairseq with the sentences of each batch reversed, and of our trainer."""
    config = compose_config("demo", [*SMALL, *overrides])
    torch.manual_seed(1)
    _, task, batches = training_batches(config, UPDATES)
    settings = fairseq_config(config)
    stock, again = (stock_trainer(settings, task) for _ in range(2))
    again.get_model().load_state_dict(stock.get_model().state_dict())
    model = from_stock(stock.get_model())
    ours = Trainer(settings, task, model, task.build_criterion(settings.criterion))
    reversed_rows = [utils.apply_to_sample(lambda tensor: tensor.flip(0), batch) for batch in batches]
    return losses(stock, batches), losses(again, reversed_rows), losses(ours, batches)


def rms(one, other):
    return float(np.sqrt(np.mean((one / other - 1) ** 2)))


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_the_curves_differ_by_rounding_alone(before):
    stock, rounded, ours = curves(f"model.normalize_before={before}")
    assert 0 < rms(ours, stock) <= 4 * rms(rounded, stock)
    assert np.abs(ours / stock - 1).max() < 2e-6  # the loss of one update has an error of about 1e-7
    assert ours[-1] < ours[0] - 1


@pytest.mark.slow
def test_a_small_difference_in_the_recipe_shows():
    stock, rounded, _ = curves("model.normalize_before=True")
    other = curves("model.normalize_before=True", "optimizer.adam_eps=1e-6")[2]
    assert rms(other, stock) > 20 * rms(rounded, stock)
