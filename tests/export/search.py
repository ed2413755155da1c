"""Sentences and a search for the tests of the engines."""

import torch
from omegaconf import OmegaConf

from normplugins.evaluation import bleu

SEARCH = OmegaConf.create({"beam": 3, "length_penalty": 0.6, "max_length_a": 0, "max_length_b": 40, "max_tokens": 40})


def sentences(count=12):
    generator = torch.Generator().manual_seed(5)
    return [
        torch.cat([torch.randint(4, 20, (1 + number % 7,), generator=generator), torch.tensor([2])])
        for number in range(count)
    ]


def ours(model, task, source):
    return bleu.search_sentences(model, task, source, SEARCH)
