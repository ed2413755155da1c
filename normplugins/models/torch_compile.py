"""Compiles a model's layers in place, with ``torch.compile``: each kind of layer once, for all lengths and batch sizes.

Not the whole model: what is left out, embeddings, final norms and the projection to the vocabulary, has nothing to
fuse, and one layer compiles in a sixth of the time of six.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from normplugins.models.layers import DecoderLayer, SelfAttentionLayer


def compile_layers(model: nn.Module, backend: str = "inductor", fullgraph: bool = False) -> None:
    """Let the layers of ``model`` run compiled from now on; parameters, buffers and their names stay what they are.

    Args:
        model: a model of this package. Compiling happens at its first batch.
        backend: a backend of ``torch.compile``.
        fullgraph: raise an error at a graph break, where a norm of another package may have one.
    """
    for module in model.modules():
        if isinstance(module, SelfAttentionLayer | DecoderLayer):
            module.compile(backend=backend, dynamic=True, fullgraph=fullgraph)


def is_compiled(layers: nn.ModuleList) -> bool:
    """Whether :func:`compile_layers` has been here."""
    return any(layer._compiled_call_impl is not None for layer in layers)


@contextmanager
def not_compiled() -> Iterator[None]:
    """Inside, compiled layers run as they are written: nothing is compiled, and hooks on what is in them are called."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and it takes seconds to import
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
