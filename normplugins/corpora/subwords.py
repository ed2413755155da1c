"""Subwords: joint BPE (subword-nmt) or a joint SentencePiece model, learned on the training text of both languages."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

from normplugins.corpora.files import read_lines
from normplugins.errors import UserError

# The parts of its training that SentencePiece spreads over threads are summed per thread: with a fixed number, the
# model does not depend on the machine.
_SENTENCEPIECE_THREADS = 2


def learn(kind: str, size: int, lines: list[str], folder: Path) -> Path:
    """Learn a model on the lines of both languages and write it into ``folder``; returns its path."""
    if kind == "bpe":
        return _learn_bpe(size, lines, folder / "codes")
    return _learn_sentencepiece(size, lines, folder / "sentencepiece.model")


def splitter(kind: str, model: Path) -> Callable[[str], str]:
    """Return the function that splits one line into subwords joined by blanks."""
    if kind == "bpe":
        from subword_nmt.apply_bpe import BPE

        with model.open(encoding="utf-8") as codes:
            bpe = BPE(codes)
        return lambda line: str(bpe.process_line(line))
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=model.read_bytes())
    return lambda line: " ".join(processor.encode(line, out_type=str))


def remove_subwords(line: str, kind: str) -> str:
    """Join the subwords of one line back into words; ``kind`` is ``bpe`` or ``sentencepiece``."""
    if kind == "sentencepiece":
        return line.replace(" ", "").replace("▁", " ").strip()
    return f"{line} ".replace("@@ ", "").strip()


def _learn_bpe(merges: int, lines: list[str], path: Path) -> Path:
    from subword_nmt.learn_bpe import learn_bpe

    if not any(len(word) > 1 for line in lines for word in line.split()):
        raise UserError("the training text has no word of two letters: there is nothing for BPE to merge")
    with path.open("w", encoding="utf-8", newline="\n") as codes, contextlib.redirect_stderr(io.StringIO()):
        learn_bpe(lines, codes, merges)  # its progress bar goes to stderr unconditionally
    return path


def _learn_sentencepiece(pieces: int, lines: list[str], path: Path) -> Path:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=pieces,
            character_coverage=1.0,
            num_threads=_SENTENCEPIECE_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:  # most often: more pieces asked for than the text has
        reason = str(error).rpartition("] ")[2].strip() or str(error)
        raise UserError(f"SentencePiece cannot learn {pieces} pieces: {reason} (corpus.subword_size)") from None
    path.write_bytes(model.getvalue())
    return path


def learned_merges(model: Path) -> int:
    """Return how many merges a BPE model holds: fewer than asked for when the text is small."""
    return len(read_lines(model)) - 1  # the first line is a version
