"""The stage from raw pairs to tokens: tokenised, cleaned, lower-cased, split and streamed to files."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from normplugins.corpora.base import SPLITS, Echo
from normplugins.corpora.bitext import Bitext, Pair, Pairs, Stream
from normplugins.corpora.parallel import ParallelCorpus
from normplugins.corpora.stages import Inputs
from normplugins.corpora.tokenizer import clean_punctuation, detokenize, squeeze, tokenize
from normplugins.utils.append_only_log import AppendOnlyLog
from normplugins.utils.errors import UserError
from normplugins.utils.files import write_lines
from normplugins.utils.worker_processes import chunked, map_ordered

CHUNK = 2000  # pairs per work item; after a kill the stage resumes at the last complete chunk
_ECHO_EVERY = 250_000  # pairs
_SPLIT_NAMES = {"train": "training", "valid": "validation", "test": "test"}


_Chunk = tuple[int, list[Pair], dict[str, int]]
"""The number of pairs read, the tokenised pairs that are kept, and the number of dropped pairs by reason."""


def write_tokens(corpus: ParallelCorpus, inputs: Inputs, to: Path, echo: Echo, workers: int | None) -> dict[str, Any]:
    """Write the three splits as the subword model sees them, and the references for scoring; return the facts.

    ``reference.tokens`` is the target side of the test set in Moses (or given) tokens. ``reference.text`` is the same
    as published, cased (detokenised if the files hold tokens).
    """
    with inputs.reading():
        bitext = corpus.read(inputs.files)
        test = _tokenize_all(bitext.test, corpus, workers, "test")
        corpus.verify_test(test)  # before the training text, which takes long
    _refuse_empty(test)
    _write_references(bitext, test, corpus, to)
    in_memory, notes = {"test": test}, []
    if bitext.valid is not None:
        tokens = _tokenize_all(bitext.valid, corpus, workers, "valid")
        in_memory["valid"] = tokens.keep(lambda source, target: bool(source and target))
        if empty := len(tokens) - len(in_memory["valid"]):
            notes.append(f"{empty:,} validation pairs with an empty side dropped")
    for split, pairs in in_memory.items():
        write_lines(to / f"{split}.{corpus.source}", pairs.source)
        write_lines(to / f"{split}.{corpus.target}", pairs.target)
    state = _write_train(bitext, corpus, inputs, to, echo, workers)
    counts = {split: _count(list(pairs), corpus) for split, pairs in in_memory.items()} | state["counts"]
    notes = [*bitext.notes, *corpus.cleaning_notes(state["dropped"]), *notes]
    wheres = {"train": bitext.train.where, "valid": (bitext.valid or bitext.train).where, "test": bitext.test.where}
    for split in SPLITS:
        if not counts[split]["pairs"]:
            missing = f"no {_SPLIT_NAMES[split]} pair is left of {' and '.join(wheres[split])}"
            raise UserError("; ".join([missing, *notes]))
    return {"counts": {split: counts[split] for split in SPLITS}, "notes": notes, "test_sets": bitext.test_sets}


def _write_train(
    bitext: Bitext, corpus: ParallelCorpus, inputs: Inputs, to: Path, echo: Echo, workers: int | None
) -> dict[str, Any]:
    """Write the training pairs, and every n-th one as a validation pair if the corpus has no validation set."""
    every = None if bitext.valid is not None else bitext.valid_every
    splits = ["train", "valid"] if every else ["train"]
    initial: dict[str, Any] = {"read": 0, "dropped": {}, "counts": {split: _count([], corpus) for split in splits}}
    names = [f"{split}.{language}" for split in splits for language in (corpus.source, corpus.target)]
    with AppendOnlyLog(to, names, initial) as log:
        state = log.state
        if log.resumed:
            echo(f"{corpus.name}: going on after {state['read']:,} pairs")

        def rest() -> Iterator[Pair]:
            with inputs.reading():
                yield from islice(bitext.train, state["read"], None)

        for read, pairs, dropped in _tokenize(Stream(rest, bitext.train.where), corpus, workers, "train"):
            clean_before = sum(count["pairs"] for count in state["counts"].values())
            shares: dict[str, list[Pair]] = {split: [] for split in splits}
            for number, pair in enumerate(pairs, clean_before + 1):
                shares["valid" if every and number % every == 0 else "train"].append(pair)
            for split, share in shares.items():
                log.write(f"{split}.{corpus.source}", (source for source, _ in share))
                log.write(f"{split}.{corpus.target}", (target for _, target in share))
                state["counts"][split] = add_counts(state["counts"][split], _count(share, corpus))
            state["dropped"] = add_counts(state["dropped"], dropped)
            before, state["read"] = state["read"], state["read"] + read
            log.commit()
            if before // _ECHO_EVERY < state["read"] // _ECHO_EVERY:
                echo(f"{corpus.name}: {state['read']:,} pairs tokenized")
    return state


def _tokenize(pairs: Pairs | Stream, corpus: ParallelCorpus, workers: int | None, split: str) -> Iterator[_Chunk]:
    """Yield the tokenised pairs in chunks; training pairs are cleaned if their length counts in words."""
    source_work, target_work = (_line_work(corpus, language, split) for language in (corpus.source, corpus.target))

    def work(chunk: list[Pair]) -> _Chunk:
        tokens = [(source_work(source), target_work(target)) for source, target in chunk]
        if split == "train" and corpus.length_in == "words":
            return len(chunk), *corpus.clean(tokens)
        return len(chunk), tokens, {}

    return map_ordered(work, chunked(pairs, CHUNK), workers)


def _tokenize_all(pairs: Pairs, corpus: ParallelCorpus, workers: int | None, split: str) -> Pairs:
    tokens = [pair for _, kept, _ in _tokenize(pairs, corpus, workers, split) for pair in kept]
    return Pairs([source for source, _ in tokens], [target for _, target in tokens], pairs.where)


def _line_work(corpus: ParallelCorpus, language: str, split: str) -> Callable[[str], str]:
    moses = partial(tokenize, language=language, split_hyphens=corpus.split_hyphens)
    to_words = moses if corpus.resolved_tokenizer == "moses" else squeeze

    def work(line: str) -> str:
        if split != "test" and corpus.clean_punctuation:
            line = clean_punctuation(line, language)
        tokens = to_words(line)
        return tokens.lower() if corpus.lowercase else tokens

    return work


def _write_references(bitext: Bitext, test: Pairs, corpus: ParallelCorpus, to: Path) -> None:
    raw, tokens = bitext.raw_test or bitext.test, test.target
    # References are Moses tokens with whole hyphens, also if the text is left raw or hyphens are split.
    if corpus.resolved_tokenizer == "none" or corpus.split_hyphens:
        moses = _line_work(replace(corpus, tokenizer="moses", split_hyphens=False), corpus.target, split="test")
        tokens = [moses(line) for line in bitext.test.target]
    text = detokenize(raw.target, corpus.target) if corpus.resolved_tokenizer == "given" else raw.target
    write_lines(to / f"source.text.{corpus.source}", (squeeze(line) for line in raw.source))
    write_lines(to / f"reference.text.{corpus.target}", (squeeze(line) for line in text))
    write_lines(to / f"reference.tokens.{corpus.target}", tokens)


def _refuse_empty(test: Pairs) -> None:
    for lines, where in ((test.source, test.where[0]), (test.target, test.where[1])):
        if "" in lines:
            raise UserError(
                f"{where}, line {lines.index('') + 1} is empty: a test pair must have both sides; remove it"
            )


def _count(pairs: list[Pair], corpus: ParallelCorpus) -> dict[str, int]:
    words = [sum(len(pair[side].split()) for pair in pairs) for side in (0, 1)]
    return {"pairs": len(pairs), f"words_{corpus.source}": words[0], f"words_{corpus.target}": words[1]}


def add_counts(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    """Return the sum of two counts by key."""
    total = Counter(first)
    total.update(second)
    return dict(total)
