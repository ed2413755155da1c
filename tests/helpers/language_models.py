"""Tiny language models and text for them."""

from argparse import Namespace

import torch
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.models import FairseqLanguageModel

from normplugins.models.language_model import NormTransformerLM
from normplugins.models.tensor_transformer import TensorTransformerLM
from tests.helpers.models import PAD, make_dictionary

SEGMENT = 6
MODELS = {"transformer": NormTransformerLM, "tensor": TensorTransformerLM}


def make_task(size: int = 20) -> Namespace:
    dictionary = make_dictionary(size)
    return Namespace(source_dictionary=dictionary, target_dictionary=dictionary)


def make_language_model(kind: str, seed: int = 0, size: int = 20, **changes) -> FairseqLanguageModel:
    torch.manual_seed(seed)
    settings = {"layers": 2, "embed_dim": 16, "ffn_embed_dim": 24, "dropout": 0.0, "tokens_per_sample": SEGMENT}
    settings |= {"head_dim": 4} if kind == "tensor" else {"attention_heads": 2, "max_positions": 16}
    return MODELS[kind].build_model(Namespace(**(settings | changes)), make_task(size))


def make_segments(seed: int = 0, batch: int = 4, size: int = 20) -> torch.Tensor:
    """Segments (B, T + 1): the inputs are all tokens but the last, the targets all but the first."""
    return torch.randint(2, size, (batch, SEGMENT + 1), generator=torch.Generator().manual_seed(seed))


def log_probs(model: FairseqLanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    return model.get_normalized_probs(model(tokens), log_probs=True)


def lm_loss(model: FairseqLanguageModel, segments: torch.Tensor) -> torch.Tensor:
    """The loss per token by fairseq's criterion for the model; padding is not predicted."""
    source, target = segments[:, :-1], segments[:, 1:].contiguous()
    criterion = AdaptiveLoss if model.decoder.adaptive_softmax else CrossEntropyCriterion
    sample = {"net_input": {"src_tokens": source}, "target": target, "ntokens": int(target.ne(PAD).sum())}
    loss, size, _ = criterion(make_task(), sentence_avg=False)(model, sample)
    return loss / size


def train_lm(model: FairseqLanguageModel, updates: int = 4) -> FairseqLanguageModel:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for update in range(updates):
        optimizer.zero_grad()
        lm_loss(model, make_segments(update)).backward()
        optimizer.step()
    return model
