"""Folds norms that are fixed affine maps at evaluation into the linear maps that read their output.

Since W (a x + b) + c = (W a) x + (W b + c), the norm of a pre-norm sublayer folds into the sublayer's first linear map,
and the final norm of an encoder into the key and value projections of every decoder layer. A norm stays if its output
has another reader, or a reader without a bias:

- post-norm, and the norm of the embeddings: the output is also the residual;
- a norm of a sublayer's output: the residual is added to it;
- at a decoder's end: the output projection shares the embeddings, or has no bias;
- tensor attention: its linear maps have no biases.

The norms of a stack's sublayers have one setting, so they are folded together or not at all. Weight-normalized linear
maps (``weight``) become plain ones. A norm with statistics sets padding to zero, and a folded norm does not.
This has no effect, because attention masks padding.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from normplugins.models.attention import CrossAttention, SelfAttention
from normplugins.models.layers import FeedForward, Residual
from normplugins.models.norm_settings import SITES, norm_at, unread_settings
from normplugins.models.tensor_attention import TensorAttention
from normplugins.models.transformer import NormTransformer
from normplugins.norms import build_norm

FIRST = {SelfAttention: "qkv", CrossAttention: "q", FeedForward: "fc1", TensorAttention: "qkv"}
"""Sublayer -> its linear map that reads the output of the norm."""


@dataclass(frozen=True)
class Outcome:
    """The result for ``count`` norms of a stack: the maps that they were folded ``into``, or why they stay.

    ``norm`` is their name, ``key`` the norm setting of the stack; ``end`` is true for the stack's final norm. One of
    ``into`` and ``stays`` is empty.
    """

    key: str
    end: bool
    norm: str
    count: int
    into: str = ""
    stays: str = ""


@dataclass(frozen=True)
class _Site:
    """The norm ``owner.attribute`` and its ``readers``, the linear maps that read its output.

    A reader is a module with the names of its weight and bias; ``into`` names the readers. If one of the maps cannot
    absorb the norm, there are no readers, and ``stays`` is the reason.
    """

    owner: nn.Module
    attribute: str
    readers: tuple[tuple[nn.Module, str, str], ...] = ()
    into: str = ""
    stays: str = ""

    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Return the norm's scale and shift (C,) (float64); raise ValueError with the reason if it cannot be folded."""
        norm = getattr(self.owner, self.attribute)
        if not hasattr(norm, "fixed_affine"):
            sees_sentence = getattr(norm, "sees_sentence", False)
            raise ValueError(f"it depends on the values of each {'sentence' if sees_sentence else 'token'}")
        scale, shift = norm.fixed_affine()
        if self.stays:
            raise ValueError(self.stays)
        return scale.detach(), shift.detach()

    def fold(self, scale: Tensor, shift: Tensor) -> None:
        """Fold this scale and shift into the readers, and put ``none`` in place of the norm."""
        for module, weight, bias in self.readers:
            old = getattr(module, weight).detach()
            getattr(module, bias).detach().add_(old @ shift)
            if is_parametrized(module, weight):  # the setter splits the weight into g and v
                setattr(module, weight, old * scale)
            else:
                old.mul_(scale)
        setattr(self.owner, self.attribute, build_norm("none", len(scale)))


def fold(model: Any) -> tuple[dict[str, Any], list[Outcome]]:
    """Fold the norms of ``model`` in place, without changing what it computes at evaluation.

    Args:
        model: a norm_transformer or a language model of this package, in float64.

    Returns:
        The settings that differ in the folded model, and the outcome for each group of norms.

    Raises:
        ValueError: none of the norms can be folded; the message says why, for each.
    """
    cfg = model.decoder.cfg
    outcomes, plans = [], []
    settings: dict[str, Any] = {}
    for key, (sites, end) in _norm_sites(model).items():
        text, layers = getattr(cfg, key), cfg.stack_depth(key)
        norms = list(dict.fromkeys(norm_at(text, site, layer, layers) for site in SITES[:2] for layer in range(layers)))
        groups = [(sites, norms[0]), *([([end], norm_at(text, "final", 0, layers))] if end else [])]
        became = []
        for group, name in groups:
            try:
                if len(norms) > 1:
                    name = text
                    raise ValueError("the stack has different norms")
                if name == "none":
                    raise ValueError("there is nothing to fold")
                plans += [(site, *site.fixed_affine()) for site in group]
                result, after = {"into": ", ".join(dict.fromkeys(site.into for site in group))}, "none"
            except ValueError as error:
                result, after = {"stays": str(error)}, name
            outcomes.append(Outcome(key, group is not sites, name, len(group), **result))
            became.append(after)
        inside, last = became[0], became[-1]
        settings[key] = inside if last == inside else f"{{attention:{inside},ffn:{inside},final:{last}}}"
    if not plans:
        raise ValueError("; ".join(dict.fromkeys(f"{outcome.norm}: {outcome.stays}" for outcome in outcomes)))
    for site, *_ in plans:
        _remove_weight_normalization(site.owner)
    for site, scale, shift in plans:
        site.fold(scale, shift)
    settings |= unread_settings(replace(cfg, **settings))
    return {key: value for key, value in settings.items() if value != getattr(cfg, key)}, outcomes


def _norm_sites(model: Any) -> dict[str, tuple[list[_Site], _Site | None]]:
    """Map the setting of each stack's norm to the norms of its sublayers and, in pre-norm, its final norm."""
    decoder, no_bias = model.decoder, "the output projection shares the embeddings or has no bias"
    if isinstance(model, NormTransformer):
        keys_and_values = [(layer.cross_attention.sublayer.kv, "weight", "bias") for layer in decoder.layers]
        encoder_end = _Site(model.encoder, "final_norm", tuple(keys_and_values), into="kv of every decoder layer")
        ends = {"encoder_norm": encoder_end, "decoder_norm": _Site(decoder, "final_norm", stays=no_bias)}
    else:
        vocabulary = decoder.vocabulary
        untied = decoder.adaptive_softmax is None and vocabulary.output is not vocabulary.embeddings
        output = _Site(decoder, "final_norm", ((vocabulary, "output", "output_bias"),), into="output")
        ends = {"norm": output if untied else _Site(decoder, "final_norm", stays=no_bias)}
    return {
        key: (_sublayer_norms(end.owner), None if end.owner.final_norm is None else end) for key, end in ends.items()
    }


def _sublayer_norms(stack: nn.Module) -> list[_Site]:
    sites = []
    for residual in stack.modules():
        if isinstance(residual, Residual):
            first = FIRST[type(residual.sublayer)]
            linear = getattr(residual.sublayer, first)
            if not residual.pre:
                sites.append(_Site(residual, "norm", stays="its output is also the residual"))
            elif linear.bias is None:
                sites.append(_Site(residual, "norm", stays=f"{first}, which reads it, has no bias"))
            else:
                sites.append(_Site(residual, "norm", ((linear, "weight", "bias"),), into=first))
            if residual.output_norm is not None:
                sites.append(_Site(residual, "output_norm", stays="a residual is added to its output"))
    if stack.embedding_norm is not None:
        sites.append(_Site(stack, "embedding_norm", stays="its output is also the residual"))
    return sites


def _remove_weight_normalization(owner: nn.Module) -> None:
    """Replace the weight normalization of a sublayer's linear maps by the weights that it computes."""
    for module in owner.sublayer.modules() if isinstance(owner, Residual) else ():
        if isinstance(module, nn.Linear) and is_parametrized(module):
            remove_parametrizations(module, "weight")
