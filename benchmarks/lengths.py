"""Sentence pairs of random words with the lengths of a real corpus, so that batches have the corpus' shapes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import LanguagePairDataset
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from normplugins.evaluation.tasks import kind_of
from normplugins.runs.plan import made_up
from normplugins.utils.errors import UserError


class _RandomSentences:
    """Sentences (T,) of random words, each ended by ``</s>``; reading a sentence again draws other words."""

    def __init__(self, lengths: NDArray[np.integer[Any]], sentence: Callable[[int], Tensor]) -> None:
        self.lengths, self.sentence = lengths, sentence

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Tensor:
        return self.sentence(int(self.lengths[index]))


def task_with_lengths(config: DictConfig, types: int, path: Path) -> Any:
    """Return a translation task whose datasets hold pairs of random words with the lengths in a file.

    Args:
        config: fairseq's part of a translation experiment's config.
        types: symbols of the dictionary.
        path: an ``.npz`` file with an array of lengths for each language, named by it; ``</s>`` counts.

    Raises:
        UserError: the file cannot be read or lacks a language.
    """
    task, batch = made_up(kind_of("translation"), config, types)
    try:
        with np.load(path) as arrays:
            sizes = [arrays[language] for language in (config.task.source_lang, config.task.target_lang)]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"--lengths {path}: no .npz file with an array for each language ({error})") from error

    def load_dataset(split: str) -> None:
        sides = [_RandomSentences(lengths, lambda length: batch(1, length)["target"][0]) for lengths in sizes]
        task.datasets[split] = LanguagePairDataset(
            sides[0], sizes[0], task.source_dictionary, sides[1], sizes[1], task.target_dictionary
        )

    task.load_dataset = load_dataset
    return task


def text_name(path: Path) -> str:
    """Return how the text of such a task is named in a case."""
    return f"made-up lengths={path.name.replace(' ', '_')}"
