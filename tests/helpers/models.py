"""A tiny translation task and models for it."""

from argparse import Namespace

import torch
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from normplugins.models.transformer import NormTransformer
from normplugins.norms import sees_sentence
from tests.helpers.norms import NORMS

KINDS_OF_NORMS = ("ln", "pn", "instance", "weight")
"""One norm of each kind: over a token, the batch, a sentence, and one that also normalizes weights."""
CAUSAL_NORMS = tuple(norm for norm in NORMS if not sees_sentence(norm))
PAD = 1


def make_dictionary(size: int) -> Dictionary:
    dictionary = Dictionary()
    for index in range(len(dictionary), size):
        dictionary.add_symbol(f"w{index}")
    return dictionary


def make_task(size: int = 20) -> TranslationTask:
    dictionary = make_dictionary(size)
    return TranslationTask(TranslationConfig(source_lang="de", target_lang="en"), dictionary, dictionary)


def make_settings(**changes) -> Namespace:
    sizes = {"layers": 2, "embed_dim": 16, "ffn_embed_dim": 24, "attention_heads": 2}
    settings = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()}
    return Namespace(**(settings | {"dropout": 0.0, "share_all_embeddings": True} | changes))


def both_stacks(norm: str) -> dict[str, str]:
    """Settings with the norm in the encoder, and in the decoder if it can be there."""
    return {"encoder_norm": norm, "decoder_norm": norm if norm in CAUSAL_NORMS else "ln"}


def make_model(seed: int = 0, task: TranslationTask | None = None, **changes) -> NormTransformer:
    torch.manual_seed(seed)
    return NormTransformer.build_model(make_settings(**changes), task or make_task())


def make_batch(seed: int = 0, size: int = 20) -> dict[str, torch.Tensor]:
    """Four pairs of at most 7 and 6 tokens, padded as in fairseq: the source on the left, the target on the right."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(4, size, (4, 7), generator=generator)
    target = torch.randint(4, size, (4, 6), generator=generator)
    source[:, -1], target[:, -1] = 2, 2
    for row in range(1, 4):
        source[row, :row] = PAD
        target[row, 6 - row :] = PAD
        target[row, 5 - row] = 2
    previous = target.roll(1, dims=1)
    previous[:, 0] = 2
    for row in range(1, 4):
        previous[row, 6 - row :] = PAD
    return {"src_tokens": source, "prev_output_tokens": previous, "target": target}


def loss_of(model: NormTransformer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits, _ = model(batch["src_tokens"], None, batch["prev_output_tokens"])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["target"].flatten(), ignore_index=PAD)


def train(model: NormTransformer, updates: int = 4) -> NormTransformer:
    """A few real updates, so that weights and running statistics are no longer the initial ones."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for update in range(updates):
        optimizer.zero_grad()
        loss_of(model, make_batch(update)).backward()
        optimizer.step()
    return model
