"""Writes text to fairseq's data-bin folder, with fairseq's own dictionary and dataset builder."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from normplugins.corpora.base import SPLITS
from normplugins.utils.files import iter_lines


def binarize(texts: Path, folder: Path, source: str, target: str) -> int:
    """Binarize ``texts/{train,valid,test}.{source,target}`` to ``folder``; return the size of the joined dictionary."""

    def words(split: str, language: str) -> Iterator[list[str]]:
        return (line.split() for line in iter_lines(texts / f"{split}.{language}"))

    languages = source, target
    counts = Counter(word for language in languages for line in words("train", language) for word in line)
    splits = {
        f"{split}.{source}-{target}.{language}": words(split, language) for split in SPLITS for language in languages
    }
    dictionaries = [f"dict.{language}.txt" for language in languages]
    return binarize_text(counts, splits, folder, dictionaries, padding_factor=8)  # as in fairseq-preprocess


def binarize_text(
    counts: Mapping[str, int],
    splits: Mapping[str, Iterable[list[str]]],
    folder: Path,
    dictionaries: Sequence[str] = ("dict.txt",),
    padding_factor: int = 1,
) -> int:
    """Write the dictionary of the counted words and each split's ``.bin`` and ``.idx``; return the dictionary's size.

    ``splits`` yields the words of each line; ``</s>`` is appended to every line. fairseq-preprocess writes the same
    files, but takes about eight times as long, because it handles one word at a time.
    """
    import torch
    from fairseq.data import Dictionary, indexed_dataset

    dictionary = Dictionary()
    for word, count in counts.items():
        dictionary.add_symbol(word, count)
    dictionary.finalize(padding_factor=padding_factor)
    for name in dictionaries:
        dictionary.save(str(folder / name))
    index, end, unknown = dictionary.indices, dictionary.eos(), dictionary.unk()
    for split, lines in splits.items():
        path = folder / f"{split}.bin"
        builder = indexed_dataset.make_builder(str(path), impl="mmap", vocab_size=len(dictionary))
        for words in lines:
            numbers = np.array([index.get(word, unknown) for word in words] + [end], dtype=np.int32)
            builder.add_item(torch.from_numpy(numbers))
        builder.finalize(str(path.with_suffix(".idx")))
    return len(dictionary)
