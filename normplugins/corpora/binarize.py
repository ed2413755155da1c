"""Text to fairseq's data-bin folder: dictionary and numbers, through fairseq's own tools."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

UNKNOWN = "<unk>"
RESERVED = frozenset({"<s>", "<pad>", "</s>"})  # with <unk> in every fairseq dictionary, and not in its file
_SPECIAL_SYMBOLS = len(RESERVED) + 1


def binarize(texts: Path, folder: Path, source: str, target: str) -> int:
    """Binarize ``texts/{train,valid,test}.{source,target}`` into ``folder``; returns the joined dictionary's types."""
    with _quiet_import():
        from fairseq import options
        from fairseq_cli import preprocess

    arguments = ["--source-lang", source, "--target-lang", target, "--destdir", str(folder), "--joined-dictionary"]
    for split in ("train", "valid", "test"):
        arguments += [f"--{split}pref", str(texts / split)]
    arguments += ["--workers", "1"]
    before = preprocess.logger.disabled, list(preprocess.logger.handlers)
    preprocess.logger.disabled = True
    try:
        preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    finally:
        for handler in preprocess.logger.handlers:
            if handler not in before[1]:
                handler.close()
        preprocess.logger.disabled, preprocess.logger.handlers = before
    (folder / "preprocess.log").unlink(missing_ok=True)
    with (folder / f"dict.{target}.txt").open(encoding="utf-8") as dictionary:
        return sum(1 for _ in dictionary) + _SPECIAL_SYMBOLS


def binarize_text(counts: Mapping[str, int], splits: Mapping[str, Iterable[list[str]]], folder: Path) -> int:
    """Write ``dict.txt`` of the counted words and each split's ``.bin`` and ``.idx``; returns the dictionary's types.

    ``splits``: the words of each line, ``</s>`` not among them; it ends every line. fairseq's own preprocess gives the
    same files, some eight times slower: it calls a Counter and writes to a tensor once a word.
    """
    with _quiet_import():
        import torch
        from fairseq.data import Dictionary, indexed_dataset

    dictionary = Dictionary()
    for word, count in counts.items():
        dictionary.add_symbol(word, count)
    dictionary.finalize(padding_factor=1)
    dictionary.save(str(folder / "dict.txt"))
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
