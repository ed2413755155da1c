"""Loads what a finished language-model run left: its model, its settings, and the text that it was scored on."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from normplugins.corpora import PreparedText, corpus_config, prepare
from normplugins.evaluation.perplexity import load_model_and_text
from normplugins.evaluation.recalibrate import asked
from normplugins.models.config import is_causal
from normplugins.runs import folder, record
from normplugins.runs.run import set_threads
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError

TASK = "language_modeling"


@dataclass(frozen=True)
class TrainedLanguageModel:
    """A model of a finished run, in evaluation mode, with the test text and each place's input, (N,) word indices."""

    directory: Path
    checkpoint: Path
    config: DictConfig
    record: Mapping[str, Any]
    model: nn.Module
    corpus: PreparedText
    inputs: Tensor
    text: Tensor

    @property
    def masked(self) -> bool:
        """Whether attention is masked; the published tensor transformer's is not."""
        return bool(self.config.model.get("causal", True))

    @property
    def causal(self) -> bool:
        """Whether no position may see a later one at evaluation: attention is masked, and the norm sees no sentence."""
        return is_causal(self.config.model.norm, self.masked)

    @property
    def segment(self) -> int:
        """Tokens in a training segment."""
        return int(self.config.task.tokens_per_sample)

    @property
    def batch_size(self) -> int:
        """Segments in a training batch (of one process)."""
        dataset = self.config.dataset
        limits = [dataset.batch_size, dataset.max_tokens and dataset.max_tokens // self.segment]
        return max(1, min(limit for limit in limits if limit))

    def segments(self, count: int) -> tuple[Tensor, Tensor]:
        """Up to ``count`` whole segments spread evenly over the text: inputs and targets, (B, T) each.

        The input at a position is the token before its target, as in training.

        Raises:
            UserError: the text is shorter than a segment.
        """
        whole = len(self.text) // self.segment
        if not whole:
            raise UserError(f"the test text has {len(self.text):,} tokens, and a segment has {self.segment}")
        first = torch.linspace(0, whole - 1, min(count, whole)).long() * self.segment
        places = first[:, None] + torch.arange(self.segment)
        return self.inputs[places], self.text[places]


def load_trained(directory: Path) -> TrainedLanguageModel:
    """Load the model that the record of the run in ``directory`` is about; the corpus is prepared where it is not.

    Raises:
        UserError: the folder holds no finished run of a language model, or its checkpoint is gone.
    """
    done = record.read(directory / folder.RECORD)
    if done is None or not (directory / folder.CONFIG).exists():
        raise UserError(f"{directory} holds no finished run ({folder.CONFIG} and {folder.RECORD} are needed)")
    config = OmegaConf.load(directory / folder.CONFIG)
    assert isinstance(config, DictConfig)
    if config.task._name != TASK:
        raise UserError(f"the run in {directory} is of task {config.task._name}; {TASK} is needed")
    checkpoint = checkpoints.scored(directory, config.evaluate.average, asked(config))
    if not checkpoint.exists():
        raise UserError(f"the model of the run in {directory} is gone ({checkpoint.name})")
    set_threads(config)
    corpus = prepare(corpus_config(config.corpus), Path(config.data_dir))
    assert isinstance(corpus, PreparedText)
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    model, inputs, text = load_model_and_text(checkpoint, corpus.bin_dir, config.common.cpu)
    device = next(model.parameters()).device
    return TrainedLanguageModel(directory, checkpoint, config, done, model, corpus, inputs.to(device), text.to(device))
