"""Translation batches whose sentences are alike in length on both sides, so that little of a batch is padding.

fairseq sorts by source length and then by target length. Its batches have no padding on the source side, and on the
target side what the lengths there differ by among sentences of one source length. A batch may hold ``max_tokens``
positions on its longer side. So here sentences are sorted by the longer of their two lengths, and then by how much
longer the target is, upwards where the longer length is even and downwards where it is odd: neighbours are near in
both lengths where one longer length ends and the next begins, too. Which sentences come into one batch is another
choice than the published one, and an epoch has fewer batches.
"""

from typing import Any

import numpy as np
from fairseq.data import LanguagePairDataset
from numpy.typing import NDArray

Lengths = NDArray[np.integer[Any]]


def sort_by_both_lengths(sources: Lengths, targets: Lengths) -> NDArray[np.int64]:
    """An order of sentences in which neighbours are near in both lengths; equals stay in the order they came in."""
    longer = np.maximum(sources, targets)
    lean = (targets.astype(np.int64) - sources) * np.where(longer % 2, -1, 1)
    return np.lexsort((lean, longer))


def bucket_by_length(task: Any, subset: str) -> None:
    """Let a translation task's ``subset`` be put into batches in that order, whenever it is loaded."""
    load = task.load_dataset

    def load_dataset(split: str, *args: Any, **options: Any) -> None:
        load(split, *args, **options)
        if split == subset:
            dataset = task.dataset(split)
            dataset.ordered_indices = lambda: _ordered(dataset)

    task.load_dataset = load_dataset


def _ordered(dataset: LanguagePairDataset) -> NDArray[np.int64]:
    shuffled = np.random.permutation(len(dataset)) if dataset.shuffle else np.arange(len(dataset))
    return shuffled[sort_by_both_lengths(dataset.src_sizes[shuffled], dataset.tgt_sizes[shuffled])]
