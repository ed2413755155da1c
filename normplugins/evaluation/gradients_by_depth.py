"""Gradient norms by depth at initialization, for each placement of the norms (Xiong et al. 2020, arXiv 2002.04745).

The paper shows that in a post-norm transformer the gradients of the last layers are large at initialization, which
makes the warmup of the learning rate necessary, and that pre-norm has gradients of similar size at all depths. It
measures the gradient of the second weight of each feed-forward layer in the decoder; this module does so in both
stacks.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from normplugins.models.import_checkpoint import numbered_dictionary
from normplugins.models.placement import PLACEMENTS
from normplugins.models.transformer import NormTransformer

WIDTH, HEADS = 512, 4  # as in the transformer for IWSLT14, whose feed-forward layers have twice the width
TYPES = 1004  # 1,000 words, and fairseq's own four symbols
SENTENCES, LENGTH = 16, 24


def measure_gradients(norm: str, layers: Sequence[int], seeds: int = 3, width: int = WIDTH) -> Iterator[dict[str, Any]]:
    """Yield the gradient norms of newly initialized transformers of each depth in ``layers`` on random sentences.

    Both stacks have the same depth, norm and ``width``, and feed-forward layers have twice that width. Raises UserError
    if the norm is unknown, or a decoder cannot use it.

    Yields:
        A row for each placement, number of layers, stack and layer, with the keys ``norm``, ``placement``, ``layers``,
        ``stack``, ``layer`` (from 1), ``gradient``, ``seeds`` and ``width``. The gradient is the Frobenius norm of
        dL/dW of the layer's second feed-forward weight, where L is the mean negative log-likelihood of a token in nats,
        averaged over ``seeds`` initializations and batches.
    """
    for placement in PLACEMENTS:
        for depth in layers:
            measured = torch.stack([_gradients(norm, placement, depth, width, seed) for seed in range(seeds)]).mean(0)
            for stack, gradients in zip(("encoder", "decoder"), measured.tolist(), strict=True):
                for layer, gradient in enumerate(gradients, 1):
                    row = {"placement": placement, "layers": depth, "stack": stack, "layer": layer}
                    yield {"norm": norm, **row, "gradient": gradient, "seeds": seeds, "width": width}


def _gradients(norm: str, placement: str, layers: int, width: int, seed: int) -> torch.Tensor:
    """Return the gradient norms (2, layers) of the encoder's and the decoder's layers."""
    dictionary = numbered_dictionary(TYPES)
    sizes = {"layers": layers, "embed_dim": width, "ffn_embed_dim": 2 * width, "attention_heads": HEADS}
    settings: dict[str, Any] = {
        f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()
    }
    settings |= {"encoder_norm": norm, "decoder_norm": norm, "placement": placement, "share_all_embeddings": True}
    torch.manual_seed(seed)
    task = Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    model = NormTransformer.build_model(Namespace(dropout=0.0, **settings), task).train()
    source, target = torch.randint(dictionary.nspecial, len(dictionary), (2, SENTENCES, LENGTH))
    previous = torch.cat([torch.full((SENTENCES, 1), dictionary.eos()), target[:, :-1]], dim=1)
    logits, _ = model(source, None, previous)
    F.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
    stacks = model.encoder, model.decoder
    return torch.tensor(
        [[layer.feed_forward.sublayer.fc2.weight.grad.norm() for layer in each.layers] for each in stacks]
    )
