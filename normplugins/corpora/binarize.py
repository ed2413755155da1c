"""Subword text to fairseq's data-bin folder: fairseq's own preprocess, one dictionary for both sides."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

_SPECIAL_SYMBOLS = 4  # <s> <pad> </s> <unk>: in every fairseq dictionary, and not in its file


def binarize(texts: Path, folder: Path, source: str, target: str) -> int:
    """Binarize ``texts/{train,valid,test}.{source,target}`` into ``folder``; returns the joined dictionary's types."""
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    logging.disable(logging.WARNING)  # advice to install what this project does not use
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from normplugins import compat  # noqa: F401  (first: it lets fairseq import)

        # isort: split
        from fairseq import options
        from fairseq_cli import preprocess
    logging.disable(disabled)
    root.handlers[:], root.level = handlers, level  # importing it sends all logging of the process to stdout

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
