"""Subwords: joint BPE (subword-nmt) or a joint SentencePiece model, learned on the training text of both languages."""

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

from normplugins.utils.errors import UserError
from normplugins.utils.files import iter_lines, read_lines, whole_file
from normplugins.utils.worker_processes import call_in_subprocess

PACKAGES = {"bpe": "subword-nmt", "sentencepiece": "sentencepiece"}
FILES = {"bpe": "codes", "sentencepiece": "sentencepiece.model"}

# SentencePiece adds up its training counts per thread. A fixed number of threads gives every machine the same model.
_SENTENCEPIECE_THREADS = 2
_LONGEST_LINE = 2**30  # bytes, the maximum of SentencePiece; by default it skips lines longer than 4,192
_CODES_VERSION = "#version: 0.2"
_CACHED_WORDS = 100_000  # about 40 MB per process


def learn(kind: str, size: int, min_count: int, texts: Sequence[Path], model: Path) -> None:
    """Learn a joint model on the lines of these files and write it. Raises UserError for too little text.

    BPE learns from the counts of words that occur at least ``min_count`` times, and keeps only these in memory while it
    learns; SentencePiece loads all text. A subprocess does both, so that its memory is released.
    """
    lines = chain.from_iterable(map(iter_lines, texts))
    with whole_file(model) as temporary:
        if kind == "sentencepiece":
            call_in_subprocess(lambda: _learn_sentencepiece(size, lines, temporary))
        else:
            call_in_subprocess(lambda: _learn_bpe(size, min_count, lines, temporary))


def _learn_bpe(merges: int, min_count: int, lines: Iterable[str], path: Path) -> None:
    from subword_nmt.learn_bpe import learn_bpe

    every = Counter(word for line in lines for word in line.split())
    counts = {word: count for word, count in every.items() if count >= min_count}
    del every  # frees memory: most words occur once
    if not any(len(word) > 1 for word in counts):
        raise UserError("the training text has no word of two letters: there is nothing for BPE to merge")
    vocabulary = (f"{word} {count}" for word, count in counts.items())
    # learn_bpe prints its progress to stderr
    with path.open("w", encoding="utf-8", newline="\n") as codes, contextlib.redirect_stderr(io.StringIO()):
        learn_bpe(vocabulary, codes, merges, is_dict=True)


def _learn_sentencepiece(pieces: int, lines: Iterable[str], path: Path) -> None:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=pieces,
            character_coverage=1.0,
            max_sentence_length=_LONGEST_LINE,
            num_threads=_SENTENCEPIECE_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:  # usually: the text has fewer pieces
        reason = str(error).rpartition("] ")[2].strip() or str(error)
        raise UserError(f"SentencePiece cannot learn {pieces} pieces: {reason} (corpus.subword_size)") from None
    path.write_bytes(model.getvalue())


def splitter(kind: str, model: Path) -> Callable[[str], str]:
    """Return a function that splits a line into subwords, separated by spaces."""
    if kind == "bpe":
        from subword_nmt.apply_bpe import BPE

        with model.open(encoding="utf-8") as codes:
            bpe = BPE(codes)

        def split(line: str) -> str:
            if len(bpe.cache) > _CACHED_WORDS:  # it would grow to the whole vocabulary in each worker
                bpe.cache.clear()
            return str(bpe.process_line(line))

        return split
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=model.read_bytes())
    return lambda line: " ".join(processor.encode(line, out_type=str))


def remove_subwords(line: str, kind: str) -> str:
    """Join the subwords of one line back into words; ``kind`` is ``bpe`` or ``sentencepiece``."""
    if kind == "sentencepiece":
        return line.replace(" ", "").replace("▁", " ").strip()
    return f"{line} ".replace("@@ ", "").strip()


def count_merges(codes: Path) -> int:
    """Return the number of merges in a file of BPE codes, fewer than requested if the training text is small.

    Raises UserError unless the file has subword-nmt's format: a version, then two pieces per line.
    """
    version, *merges = read_lines(codes) or [""]
    bad = [number for number, line in enumerate(merges, 2) if len(line.split(" ")) != 2 or line != line.strip(" ")]
    if version != _CODES_VERSION or bad:
        wrong = f"line {bad[0]} is not two pieces" if version == _CODES_VERSION else f"line 1 is not {_CODES_VERSION!r}"
        raise UserError(f"{codes} is not a file of BPE codes as subword-nmt writes them: {wrong}")
    return len(merges)
