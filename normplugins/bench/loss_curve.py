"""The loss curves of stock fairseq's LayerNorm model and of ours: same weights and batches, no dropout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import numpy as np
from fairseq import utils
from fairseq.trainer import Trainer as FairseqTrainer
from omegaconf import DictConfig

from normplugins.bench.stock import stock_trainer
from normplugins.models.stock import from_stock
from normplugins.runs.compose import fairseq_config
from normplugins.training.trainer import Trainer

WITHOUT_DROPOUT = ("norm=ln", "model.dropout=0", "model.attention_dropout=0", "model.activation_dropout=0")
STOCK, REVERSED, OURS = "stock fairseq", "stock fairseq, rows reversed", "normplugins"
Batch = dict[str, Any]


def loss_curves(config: DictConfig, task: Any, batches: Sequence[Batch]) -> dict[str, list[float]]:
    """Train stock fairseq's model twice, and ours, an update a batch.

    The second stock run has the sentences of each batch in reverse order: the same sums, rounded otherwise. How far it
    drifts from the first is what rounding does to this curve.

    Args:
        config: an experiment's, composed with ``WITHOUT_DROPOUT``.
        task: a fairseq translation task.
        batches: as many as updates.

    Returns:
        By ``STOCK``, ``REVERSED`` and ``OURS``: the loss of each update's batch before that update, in bits a token.
    """
    settings = fairseq_config(config)
    stock, again = (stock_trainer(settings, task) for _ in range(2))
    again.get_model().load_state_dict(stock.get_model().state_dict())
    model = from_stock(stock.get_model())
    ours = Trainer(settings, task, model, task.build_criterion(settings.criterion))
    reversed_rows = [utils.apply_to_sample(lambda tensor: tensor.flip(0), batch) for batch in batches]
    return {STOCK: train(stock, batches), REVERSED: train(again, reversed_rows), OURS: train(ours, batches)}


def train(trainer: FairseqTrainer, batches: Sequence[Batch]) -> list[float]:
    """Make an update of each batch; returns the losses in bits a token, to the last digit of float32."""
    losses = []  # the trainer's own figures are rounded to three digits after the point

    def watch(_criterion: Any, _inputs: Any, outputs: tuple[Any, int, Any]) -> None:
        loss, size, _ = outputs
        losses.append(float(loss.detach()) / size / math.log(2))

    hook = trainer.criterion.register_forward_hook(watch)
    for batch in batches:
        trainer.train_step([batch], raise_oom=True)
        trainer.get_model().set_num_updates(trainer.get_num_updates())
    hook.remove()
    return losses


def summary(curves: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """How far each curve is from the first stock one, relative to it: the largest and the root mean square."""
    reference = np.array(curves[STOCK])
    found = {}
    for name in (OURS, REVERSED):
        off = np.abs(np.array(curves[name]) / reference - 1)
        found[name] = {"largest": float(off.max()), "rms": float(np.sqrt((off**2).mean()))}
    return found
