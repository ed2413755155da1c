"""The text of a benchmark: a prepared corpus, or random words in pairs whose lengths may be real ones."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fairseq import tasks
from fairseq.data import LanguagePairDataset
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

import normplugins
from normplugins.corpora import corpus_config
from normplugins.evaluation.tasks import run_task
from normplugins.runs.compose import fairseq_config
from normplugins.runs.dry_run import batch_tokens, corpus_size, synthetic_task
from normplugins.utils.errors import UserError

MADE_UP = "made-up"


class _RandomSentences:
    """Sentences (T,) of random words, each ended by ``</s>``; reading a sentence again draws other words."""

    def __init__(self, lengths: NDArray[np.integer[Any]], sentence: Callable[[int], Tensor]) -> None:
        self.lengths, self.sentence = lengths, sentence

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Tensor:
        return self.sentence(int(self.lengths[index]))


def random_batches(config: DictConfig) -> tuple[Any, Callable[[int], dict[str, Any]], int]:
    """Return a task without a corpus, a function that makes a random batch of N sentences, and the N of a full batch.

    The sentences have the mean length of the config's corpus or, for a language model, the length of a segment.
    """
    size = corpus_size(config)
    task, batch = synthetic_task(run_task(config.task._name), fairseq_config(config), size.types)
    return task, lambda sentences: batch(sentences, size.length), max(1, batch_tokens(config, size) // size.length)


def text_task(config: DictConfig, lengths: Path | None) -> tuple[Any, str]:
    """Return a translation task with its datasets, and the name of their text in a case.

    The text is random words in pairs with the lengths in a file; without a file, the prepared corpus. Without either,
    its name is ``MADE_UP``, and the task has no datasets.

    Args:
        config: the config of a translation experiment.
        lengths: an ``.npz`` file with an array of lengths for each language, under its code; lengths include ``</s>``.

    Raises:
        UserError: the file cannot be read or lacks a language.
    """
    normplugins.register()
    corpus, settings = corpus_config(config.corpus), fairseq_config(config)
    bin_dir = Path(config.data_dir) / corpus.name / corpus.variant() / "bin"
    if lengths is None and bin_dir.is_dir():
        settings.task.data = str(bin_dir)
        return tasks.setup_task(settings.task), corpus.name
    task, batch = synthetic_task(run_task(config.task._name), settings, corpus_size(config).types)
    if lengths is None:
        return task, MADE_UP
    try:
        with np.load(lengths) as arrays:
            sizes = [arrays[language] for language in (config.task.source_lang, config.task.target_lang)]
    except (OSError, EOFError, TypeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"--lengths {lengths}: no .npz file with an array for each language ({error})") from error

    def load_dataset(split: str, **_options: Any) -> None:
        sides = [_RandomSentences(side, lambda length: batch(1, length)["target"][0]) for side in sizes]
        task.datasets[split] = LanguagePairDataset(
            sides[0], sizes[0], task.source_dictionary, sides[1], sizes[1], task.target_dictionary
        )

    task.load_dataset = load_dataset
    return task, f"{MADE_UP} lengths={lengths.name.replace(' ', '_')}"
