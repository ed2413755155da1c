"""Encoder and decoder layers: sublayers wrapped in dropout, a residual connection and a padding-aware norm."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from normplugins.models.attention import Cache
from normplugins.models.dropout import ACTIVATIONS, add_dropout
from normplugins.models.linear import Linear
from normplugins.models.placement import Placement, initialize
from normplugins.models.varlen import VarlenLayout

NORM_ATTRIBUTES = ("norm", "output_norm", "embedding_norm", "final_norm")
"""The names of the norms in a residual connection and in a stack."""


class FeedForward(nn.Module):
    """Two linear maps, dim -> inner -> dim, with an activation and dropout between them.

    The initial weights are Xavier-uniform and the biases zero, as in the released code.
    """

    def __init__(self, dim: int, inner: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.activation, self.dropout = ACTIVATIONS[activation], dropout
        self.fc1, self.fc2 = Linear(dim, inner), Linear(inner, dim)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of x (T, B, C), and return (T, B, C)."""
        return self.fc2(self.activation(self.fc1(x), self.dropout, self.training))


class Residual(nn.Module):
    """A sublayer with its residual connection, dropout and one or two norms, as placement.py describes."""

    def __init__(
        self, sublayer: nn.Module, norm: Callable[[], nn.Module], dropout: float, placement: Placement
    ) -> None:
        super().__init__()
        initialize(sublayer, placement)
        self.sublayer, self.norm = sublayer, norm()
        self.output_norm = norm() if placement.output_norm else None
        if wrap_linears := getattr(self.norm, "wrap_linears", None):
            wrap_linears(sublayer)
        self.pre, self.scale, self.dropout = placement.pre_norm, placement.scale, dropout

    def forward(self, x: Tensor, padding_mask: Tensor | None, *args: Tensor | Cache | VarlenLayout | None) -> Tensor:
        """Apply the sublayer to x (T, B, C), with padding_mask (B, T), True = padding; ``args`` go to the sublayer.

        An unpadded x is (N, C) and has no mask. The result has the shape of x.
        """
        if self.pre:
            y = self.sublayer(self.norm(x, padding_mask), *args)
            if self.output_norm is not None:
                y = self.output_norm(y, padding_mask)
            return add_dropout(x, y, self.dropout, self.training)
        y = self.sublayer(x, *args)
        total = add_dropout(x if self.scale == 1 else self.scale * x, y, self.dropout, self.training)
        return self.norm(total, padding_mask)

    def evaluate(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute the connection at evaluation, with the function ``sublayer`` instead of the module's own sublayer.

        x (N, C) is unpadded. The function must return a new tensor, to which x is added in place.
        """
        y = sublayer(self.norm(x, None) if self.pre else x)
        if self.output_norm is not None:
            y = self.output_norm(y, None)
        y.add_(x, alpha=self.scale)
        return y if self.pre else self.norm(y, None)


class Layer(nn.Module):
    """A layer: self-attention of any kind, cross-attention if there is an encoder, and a feed-forward network.

    The function ``norm`` builds a norm for the site "attention" or "ffn".
    """

    def __init__(
        self,
        attention: nn.Module,
        cross_attention: nn.Module | None,
        feed_forward: nn.Module,
        norm: Callable[[str], nn.Module],
        dropout: float,
        placement: Placement,
    ) -> None:
        super().__init__()
        at_attention = partial(norm, "attention")
        self.self_attention = Residual(attention, at_attention, dropout, placement)
        self.cross_attention = cross_attention and Residual(cross_attention, at_attention, dropout, placement)
        self.feed_forward = Residual(feed_forward, partial(norm, "ffn"), dropout, placement)

    def forward(
        self, x: Tensor, padding_mask: Tensor | None, args: tuple[Any, ...], cross_args: tuple[Any, ...] = ()
    ) -> Tensor:
        """Apply the layer; x and padding_mask are as in :class:`Residual`, the others are the attentions' arguments."""
        x = self.self_attention(x, padding_mask, *args)
        if self.cross_attention is not None:
            x = self.cross_attention(x, padding_mask, *cross_args)
        return self.feed_forward(x, padding_mask)


class Stack(nn.Module):
    """Mixin for fairseq's encoder and decoder classes: the layers, and the norms before and after them."""

    cfg: Any
    layers: nn.ModuleList
    embedding_norm: nn.Module | None
    final_norm: nn.Module | None

    def _build_layers(
        self,
        key: str,
        attention: Callable[[], nn.Module],
        feed_forward: Callable[[], nn.Module],
        cross_attention: Callable[[], nn.Module] | None = None,
    ) -> None:
        """Build the layers and norms of the stack whose norm setting is ``key``.

        Each function builds one sublayer; ``cross_attention`` is None without an encoder.
        """
        cfg = self.cfg
        norm, placement = partial(cfg.build_norm, key), cfg.placement_of(key)
        self.layers = nn.ModuleList()
        for layer in range(cfg.stack_depth(key)):
            sublayers = attention(), cross_attention and cross_attention(), feed_forward()
            self.layers.append(Layer(*sublayers, partial(norm, layer=layer), cfg.dropout, placement))
        self.embedding_norm = norm("attention") if placement.embeddings else None
        self.final_norm = norm("final") if placement.pre_norm else None

    def _run_layers(self, x: Tensor, padding_mask: Tensor | None, layer_args: Sequence[tuple[Any, ...]]) -> Tensor:
        """Apply the norm of the embeddings, if there is one, the layers and, in pre-norm, the final norm.

        x is (T, B, C) with a padding_mask (B, T), True = padding, or unpadded (N, C) without one. ``layer_args`` has
        the further arguments of each layer. With ``checkpoint_activations`` in training, only the inputs of a layer are
        saved, and the backward pass runs it again.
        """
        if self.embedding_norm is not None:
            x = self.embedding_norm(x, padding_mask)
        recompute = self.cfg.checkpoint_activations and torch.is_grad_enabled()
        for layer, args in zip(self.layers, layer_args, strict=True):
            if recompute and layer.training:
                x = checkpoint(layer, x, padding_mask, *args, use_reentrant=False)
            else:
                x = layer(x, padding_mask, *args)
        return x if self.final_norm is None else self.final_norm(x, padding_mask)

    def reorder_incremental_state(self, incremental_state: dict[str, Cache], new_order: Tensor) -> None:
        """Reorder a decoder's caches for fairseq's beam search: row i of each becomes row ``new_order[i]``."""
        for cache in incremental_state.values():
            cache.reorder(new_order)


def compile_layers(model: nn.Module, backend: str = "inductor") -> None:
    """Compile the layers of ``model`` in place at its first batch; parameters, buffers and names do not change.

    Each kind of layer is compiled once, for all lengths and batch sizes. Embeddings, final norms and the projection to
    the vocabulary are left out, because they have nothing to fuse. Compiling one layer takes a sixth of the time of
    compiling all six.
    """
    for module in model.modules():
        if isinstance(module, Layer):
            module.compile(backend=backend, dynamic=True)


def is_compiled(layers: nn.ModuleList) -> bool:
    """Return whether :func:`compile_layers` has compiled these layers."""
    return any(layer._compiled_call_impl is not None for layer in layers)


@contextmanager
def not_compiled() -> Iterator[None]:
    """Run compiled layers eagerly inside this context, so that hooks on their modules are called."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled, and the import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
