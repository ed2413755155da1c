"""A tiny translation task and models for it."""

from argparse import Namespace
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from torch import nn

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


def randomize(model: nn.Module) -> nn.Module:
    """Statistics, scales and shifts far from 0 and 1, as if trained; the model in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            place, _, kind = name.rpartition(".")
            drawn = torch.rand(value.shape, generator=generator)
            if kind in ("running_var", "running_phi"):
                value.copy_(drawn * 4 + 1)
            elif kind == "weight" and place.endswith("norm"):
                value.copy_(drawn * 0.6 + 0.2)
            elif kind in ("bias", "running_mean", "output_bias"):
                value.copy_(drawn - 0.3)
            elif kind == "original0":  # g of a weight-normalized map
                value.mul_(drawn * 0.5 + 0.2)
    return model.eval()


def make_sample(seed: int = 0) -> dict[str, Any]:
    """Return a batch of four sentence pairs in the format of fairseq's dataset."""
    batch = make_batch(seed)
    target = batch.pop("target")
    lengths = batch["src_tokens"].ne(PAD).sum(1)
    ntokens = int(target.ne(PAD).sum())
    return {"net_input": batch | {"src_lengths": lengths}, "target": target, "ntokens": ntokens, "nsentences": 4}


def translate(model: NormTransformer, incremental: bool = True) -> list[tuple[list[int], float]]:
    """The hypotheses of fairseq's beam search for one batch, each with its score."""
    generator = SequenceGenerator([model], model.decoder.dictionary, beam_size=3, max_len=12)
    generator.model.has_incremental = incremental
    hypotheses = generator.generate([model], {"net_input": {"src_tokens": make_batch(9)["src_tokens"]}})
    return [(h["tokens"].tolist(), h["score"].item()) for sentence in hypotheses for h in sentence]


def assert_same_translations(first, second, tolerance=1e-5):
    assert [tokens for tokens, _ in first] == [tokens for tokens, _ in second]
    assert [score for _, score in first] == pytest.approx([score for _, score in second], abs=tolerance)
