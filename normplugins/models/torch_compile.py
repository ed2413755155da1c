"""Compiles a model's layers in place, with ``torch.compile``: each kind of layer once, for all lengths and batch sizes.

The embeddings, final norms and the projection to the vocabulary are not compiled, because they have nothing to fuse.
Compiling one layer takes a sixth of the time of compiling all six.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from normplugins.models.layers import DecoderLayer, SelfAttentionLayer


def compile_layers(model: nn.Module, backend: str = "inductor", fullgraph: bool = False) -> None:
    """Compile the layers of ``model`` in place; parameters, buffers and their names do not change.

    Args:
        model: a model of this package. Compiling happens at its first batch.
        backend: a backend of ``torch.compile``.
        fullgraph: raise an error at a graph break; a norm of another package may have one.
    """
    for module in model.modules():
        if isinstance(module, SelfAttentionLayer | DecoderLayer):
            module.compile(backend=backend, dynamic=True, fullgraph=fullgraph)


def is_compiled(layers: nn.ModuleList) -> bool:
    """Return whether :func:`compile_layers` has compiled these layers."""
    return any(layer._compiled_call_impl is not None for layer in layers)


@contextmanager
def not_compiled() -> Iterator[None]:
    """Run compiled layers eagerly inside this context, so that hooks on their modules are called."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and it takes seconds to import
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
