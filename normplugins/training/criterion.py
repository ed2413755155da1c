"""``label_smoothed_nll``: fairseq's ``label_smoothed_cross_entropy``, with one pass over the logits' softmax."""

from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.distributed import ModuleProxyWrapper
from fairseq.models.transformer import TransformerModel
from torch import Tensor, nn

from normplugins.models.transformer import NormTransformer
from normplugins.training.label_smoothed_loss import smoothed_loss

WITH_FEATURES = (NormTransformer, TransformerModel)
"""Models whose ``features_only=True`` gives what one linear map without a bias takes to the logits."""


@register_criterion("label_smoothed_nll", dataclass=LabelSmoothedCrossEntropyCriterionConfig)
class LabelSmoothedNLL(LabelSmoothedCrossEntropyCriterion):
    """Label-smoothed cross-entropy: the loss, gradients, counts and logs of fairseq's ``label_smoothed_cross_entropy``.

    The logits of a transformer's whole batch are never in memory at once, and on a CPU padding has none
    (:func:`~normplugins.training.label_smoothed_loss.smoothed_loss`). With any other model, with float16, whose
    gradients need the loss scale before they are rounded, and with fairseq's options that look at single tokens, it is
    fairseq's own.
    """

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss (summed over tokens), what its gradient is divided by, and what to log; as fairseq's."""
        weight = None if self.report_accuracy or self.ignore_prefix_size or not reduce else output_weight(model)
        if weight is None:
            return super().forward(model, sample, reduce=reduce)
        features = model(**sample["net_input"], features_only=True)[0].transpose(
            0, 1
        )  # as it lies in memory: (T, B, C)
        target = sample["target"]
        loss, nll_loss = smoothed_loss(
            features.reshape(-1, features.size(-1)), weight, target.t().reshape(-1), self.eps, self.padding_idx
        )
        sample_size = target.size(0) if self.sentence_avg else sample["ntokens"]
        logged = {"ntokens": sample["ntokens"], "nsentences": target.size(0), "sample_size": sample_size}
        return loss, sample_size, {"loss": loss.data, "nll_loss": nll_loss.data, **logged}


# fairseq goes on from a checkpoint only with a class of the name that stands there, and this is the same loss.
LabelSmoothedNLL.__name__ = LabelSmoothedCrossEntropyCriterion.__name__


def output_weight(model: nn.Module) -> Tensor | None:
    """The weight (V, C) of the map from a model's features to its logits; None where there is more to it.

    With ``find_unused_parameters`` DistributedDataParallel must see its use, which comes after the model here.
    """
    if isinstance(model, ModuleProxyWrapper):
        if getattr(model, "find_unused_parameters", False):
            return None
        model = model.module.module
    if type(model) not in WITH_FEATURES:
        return None
    projection = getattr(model.decoder, "output_projection", None)
    if type(projection) is not nn.Linear or projection.bias is not None or projection.weight.dtype == torch.float16:
        return None
    return projection.weight
