"""``label_smoothed_nll``: fairseq's ``label_smoothed_cross_entropy`` with one softmax pass over the logits.

The logits are computed in chunks of tokens to save memory.
"""

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
from torch.autograd.function import once_differentiable
from torch.nn.utils.parametrize import is_parametrized

from normplugins.models.linear import by_onednn, product
from normplugins.models.transformer import NormTransformer

WITH_FEATURES = (NormTransformer, TransformerModel)
"""Models that map the features of ``features_only=True`` to logits by one linear map without a bias."""

CHUNK = 1024
"""Tokens per chunk on a CPU: the fastest of 256 to 2048 for 512 channels."""

ELEMENTS = 2**28
"""Logits per chunk on other devices, where fewer and larger products are faster: 1 GiB."""


@register_criterion("label_smoothed_nll", dataclass=LabelSmoothedCrossEntropyCriterionConfig)
class LabelSmoothedNLL(LabelSmoothedCrossEntropyCriterion):
    """Label-smoothed cross-entropy with the loss, gradients, counts and logs of ``label_smoothed_cross_entropy``.

    A transformer's batch goes through :func:`smoothed_loss`. fairseq's own code is used for other models, for
    options that need the loss of single tokens, and for float16 weights, whose gradients need the loss scale before
    rounding.
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
        rows, words = features.reshape(-1, features.size(-1)), target.t().reshape(-1)
        with torch.autocast(rows.device.type, enabled=False):  # the loss chooses its own dtypes
            loss, nll_loss = smoothed_loss(rows, weight, words, self.eps, self.padding_idx)
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
    projection = getattr(model.decoder, "output_projection", None) if type(model) in WITH_FEATURES else None
    if not isinstance(projection, nn.Linear) or projection.bias is not None or is_parametrized(projection):
        return None
    return None if projection.weight.dtype == torch.float16 else projection.weight


def smoothed_loss(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    epsilon: float,
    ignored: int,
    chunk: int | None = None,
    skip_ignored: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the label-smoothed cross-entropy of the logits ``x @ weight.T``, summed over the tokens.

    With z the logits of a token, t its target and e = epsilon / (V - 1), fairseq's loss is

        (1 - epsilon - e) (lse(z) - z_t) + e sum_j (lse(z) - z_j) = lse(z) - (1 - epsilon - e) z_t - e sum_j z_j

    so that dL/dz = softmax(z) - (1 - epsilon - e) [j = t] - e. Each logit needs one exponential, and the sum over the
    vocabulary is a product with the sum of the weights. The gradients are computed in the forward pass.

    Args:
        x: features (N, C), of float64, float32 or bfloat16.
        weight: (V, C), of the same dtype, or float32 for a bfloat16 ``x``.
        target: (N,).
        epsilon: label smoothing.
        ignored: the target index of tokens that are not counted.
        chunk: tokens whose logits are in memory at once; None: the fastest number on the device.
        skip_ignored: skip the logits of ignored tokens, which makes the host wait for the device; None: only on a CPU.

    Returns:
        The loss and the negative log-likelihood, which has no gradient: float32, or float64 if ``x`` is.
    """
    chunk = chunk or (CHUNK if x.is_cpu else max(CHUNK, ELEMENTS // len(weight)))
    skip_ignored = x.is_cpu if skip_ignored is None else skip_ignored
    return _SmoothedLoss.apply(x, weight, target, epsilon, ignored, chunk, skip_ignored, torch.is_grad_enabled())


class _SmoothedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        target: Tensor,
        epsilon: float,
        ignored: int,
        chunk: int,
        skip_ignored: bool,
        with_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        dtype, vocabulary = torch.promote_types(x.dtype, torch.float32), len(weight)
        smooth = epsilon / (vocabulary - 1)
        on_target = 1.0 - epsilon - smooth
        counted, features = target.ne(ignored), x
        if skip_ignored:
            kept = counted.nonzero().squeeze(1)
            features, target, counted = x[kept], target[kept], counted[kept]
        counts = counted.to(dtype).unsqueeze(1)
        sum_x, sum_weight = (features.to(dtype).t() @ counts).squeeze(1), weight.sum(0, dtype=dtype)
        grad_features = features.new_empty(features.shape if with_gradients else 0)
        weight_dtype, weight = weight.dtype, weight.to(x.dtype)
        grad_weight = weight.new_zeros(weight.shape if with_gradients else 0, dtype=dtype)
        nll, of_targets = features.new_empty(2, len(features), 1, dtype=dtype)
        buffer = features.new_empty(min(chunk, len(features)), vocabulary, dtype=dtype)
        for start in range(0, len(features), chunk):
            part = slice(start, start + chunk)
            some, words = features[part], target[part, None]
            z = buffer[: len(some)]
            onednn = by_onednn(some, weight)
            if onednn:
                z = product(some, weight)
            elif dtype == x.dtype:
                torch.mm(some, weight.t(), out=z)
            else:
                z.copy_(some @ weight.t())
            largest = z.amax(1, keepdim=True)
            of_targets[part] = z.gather(1, words)
            total = z.sub_(largest).exp_().sum(1, keepdim=True)
            nll[part] = total.log() + largest - of_targets[part]
            if with_gradients:
                # z becomes (dL/dz + smooth) * total: the scale is applied to rows of C numbers, which are shorter.
                scale = counts[part] / total
                grad_z = z.scatter_add_(1, words, -on_target * total).to(x.dtype)
                of_features = product(grad_z, weight.t()) if onednn else grad_z @ weight
                grad_features[part] = of_features * scale - smooth * counts[part] * sum_weight
                if onednn:
                    grad_weight += product(grad_z.t(), (some * scale).t())
                elif dtype == x.dtype:
                    grad_weight.addmm_(grad_z.t(), some * scale)
                else:
                    grad_weight += grad_z.t() @ (some * scale).to(x.dtype)
        if with_gradients:
            grad_weight -= smooth * sum_x
            grad_x = torch.zeros_like(x).index_copy_(0, kept, grad_features) if skip_ignored else grad_features
            ctx.save_for_backward(grad_x, grad_weight.to(weight_dtype))
        sum_nll, sum_of_targets = (nll * counts).sum(), (of_targets * counts).sum()
        ctx.mark_non_differentiable(sum_nll)
        return sum_nll + (1.0 - on_target) * sum_of_targets - smooth * (sum_x @ sum_weight), sum_nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor, _of_nll: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = (gradient * of_loss for gradient in ctx.saved_tensors)
        return grad_x, grad_weight, *[None] * 6
