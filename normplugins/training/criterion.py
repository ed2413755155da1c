"""``label_smoothed_nll``: fairseq's ``label_smoothed_cross_entropy`` with one softmax pass over the logits."""

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
"""Models whose logits are one linear map without a bias of the features that ``features_only=True`` returns."""


@register_criterion("label_smoothed_nll", dataclass=LabelSmoothedCrossEntropyCriterionConfig)
class LabelSmoothedNLL(LabelSmoothedCrossEntropyCriterion):
    """Label-smoothed cross-entropy with the loss, gradients, counts and logs of ``label_smoothed_cross_entropy``.

    The logits of a transformer's batch are computed in chunks, and on a CPU none are computed for padding
    (:func:`~normplugins.training.label_smoothed_loss.smoothed_loss`). fairseq's own code is used for other models, for
    float16, whose gradients need the loss scale before rounding, and for options that need the loss of single tokens.
    """

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the loss summed over tokens, the sample size and the logging output, as fairseq does."""
        weight = None if self.report_accuracy or self.ignore_prefix_size or not reduce else output_weight(model)
        if weight is None:
            return super().forward(model, sample, reduce=reduce)
        # (T, B, C) is the layout in memory
        features = model(**sample["net_input"], features_only=True)[0].transpose(0, 1)
        target = sample["target"]
        loss, nll_loss = smoothed_loss(
            features.reshape(-1, features.size(-1)), weight, target.t().reshape(-1), self.eps, self.padding_idx
        )
        sample_size = target.size(0) if self.sentence_avg else sample["ntokens"]
        logged = {"ntokens": sample["ntokens"], "nsentences": target.size(0), "sample_size": sample_size}
        return loss, sample_size, {"loss": loss.data, "nll_loss": nll_loss.data, **logged}


# fairseq resumes only with a criterion whose class has the name stored in the checkpoint. This is the same loss.
LabelSmoothedNLL.__name__ = LabelSmoothedCrossEntropyCriterion.__name__


def output_weight(model: nn.Module) -> Tensor | None:
    """Return the weight (V, C) of the map from features to logits, or None if the logits are not one linear map.

    Also None with ``find_unused_parameters``: DistributedDataParallel must then see the weight used inside the model.
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
