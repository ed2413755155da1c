"""Text to fairseq's data-bin folder: dictionary and numbers, through fairseq's own tools."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from normplugins.utils.files import iter_lines

UNKNOWN = "<unk>"
RESERVED = frozenset({"<s>", "<pad>", "</s>"})  # with <unk> in every fairseq dictionary, and not in its file


def binarize(texts: Path, folder: Path, source: str, target: str) -> int:
    """Binarize ``texts/{train,valid,test}.{source,target}`` into ``folder``; returns the joined dictionary's types."""
    counts = Counter[str]()
    for language in (source, target):
        for words in _split_lines(texts / f"train.{language}"):
            counts.update(words)
    splits = {
        f"{split}.{source}-{target}.{language}": _split_lines(texts / f"{split}.{language}")
        for split in ("train", "valid", "test")
        for language in (source, target)
    }
    dictionaries = [f"dict.{language}.txt" for language in (source, target)]
    return binarize_text(counts, splits, folder, dictionaries, padding_factor=8)  # fairseq-preprocess's own factor


def _split_lines(path: Path) -> Iterator[list[str]]:
    return (line.split() for line in iter_lines(path))


def binarize_text(
    counts: Mapping[str, int],
    splits: Mapping[str, Iterable[list[str]]],
    folder: Path,
    dictionaries: Sequence[str] = ("dict.txt",),
    padding_factor: int = 1,
) -> int:
    """Write the dictionary of the counted words and each split's ``.bin`` and ``.idx``; returns the dictionary's types.

    ``splits``: the words of each line, ``</s>`` not among them; it ends every line. fairseq's own preprocess gives the
    same files, some eight times slower: it calls a Counter and writes to a tensor once a word.
    """
    with _quiet_import():
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


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Import fairseq without its advice to install what is not needed here, and without its hold on all logging."""
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from normplugins import compat  # noqa: F401  (first: it lets fairseq import)

            yield
    finally:
        logging.disable(disabled)
        root.handlers[:], root.level = handlers, level  # importing it sends all logging of the process to stdout
