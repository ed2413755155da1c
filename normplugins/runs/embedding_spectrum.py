"""``normplugins analyze embedding``: the singular values of the embeddings of a trained run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normplugins.models.embeddings import CLUSTER_WEIGHTS
from normplugins.runs.folder import finished_run
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError

EMBEDDING = re.compile(rf".*embed_tokens\.weight|decoder\.vocabulary\.embeddings|{CLUSTER_WEIGHTS}")
"""The names of embeddings in checkpoints of translation models and language models, as a regular expression."""


def measure_embeddings(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each singular value of each embedding of a run, the largest first.

    An embedding that encoder and decoder share is measured once, under its first name. The checkpoint is the one that
    the recipe is scored by. Nothing is written to the folder.

    Raises:
        UserError: the folder holds no finished run, its checkpoint is missing or damaged, or has no embedding.
    """
    config, _ = finished_run(directory)
    model = checkpoints.load(checkpoints.scored(directory, config.evaluate.average))["model"]
    measured: list[Tensor] = []
    for name, weight in model.items():
        if not EMBEDDING.fullmatch(name) or any(torch.equal(weight, other) for other in measured):
            continue
        measured.append(weight)
        run = {"experiment": config.experiment, "cell": config.variant, "seed": config.seed}
        for index, value in enumerate(torch.linalg.svdvals(weight.double()).tolist(), 1):
            yield {**run, "embedding": name.removesuffix(".weight"), "index": index, "singular_value": value}
    if not measured:
        raise UserError(f"the model of the run in {directory} has no embedding of a known name")
