"""The stage from raw pairs to tokens: tokenised, cleaned, in the case asked for, split, and streamed to files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from normplugins.corpora.bitext import Bitext, Pair, Pairs, Stream
from normplugins.corpora.cleaning import Cleaner, add_counts
from normplugins.corpora.settings import CorpusConfig
from normplugins.corpora.stages import SPLITS, Echo
from normplugins.corpora.tokenizer import clean_punctuation, detokenize, squeeze, tokenize
from normplugins.utils.append_only_log import Growing
from normplugins.utils.errors import UserError
from normplugins.utils.files import write_lines
from normplugins.utils.worker_processes import chunked, map_ordered

CHUNK = 2000  # pairs that a worker takes at a time; the stage goes on from the last chunk after a kill
TELL_EVERY = 250_000  # pairs


def write_texts(
    bitext: Bitext,
    config: CorpusConfig,
    to: Path,
    *,
    reading: Callable[[], AbstractContextManager[None]],
    verify: Callable[[Pairs], None],
    echo: Echo,
    workers: int | None,
) -> dict[str, Any]:
    """Write the three splits as the subword model sees them, and what the test set is scored against; return the facts.

    ``reference.tokens``: the target side of the test set in Moses (or given) tokens; ``reference.text``: as written, in
    its own case (detokenised where only tokens were given). ``reading`` is entered where the corpus's own text is read
    and found bad; ``verify`` is given the tokenised test set before the training text is begun.
    """
    notes, cleaner = list(bitext.notes), Cleaner(config)
    work = partial(_tokenize, config=config, cleaner=cleaner, workers=workers)
    with reading():
        test = _hold(work(bitext.test, split="test"), bitext.test)
        verify(test)
    _refuse_empty(test)
    _write_test(bitext, test, config, to)
    held = {"test": test}
    if bitext.valid is not None:
        tokens = _hold(work(bitext.valid, split="valid"), bitext.valid)
        held["valid"] = tokens.keep(lambda source, target: bool(source and target))
        empty = len(tokens) - len(held["valid"])
    for split, pairs in held.items():
        write_lines(to / f"{split}.{config.source}", pairs.source)
        write_lines(to / f"{split}.{config.target}", pairs.target)
    counts = {split: _count(list(pairs), config) for split, pairs in held.items()}
    state = _write_train(bitext, work, config, to, reading, echo)
    counts |= state["counts"]
    notes += cleaner.notes(state["dropped"])
    if bitext.valid is not None and empty:
        notes.append(f"{empty:,} validation pairs with an empty side dropped")
    names = {"train": "training", "valid": "validation", "test": "test"}
    wheres = {"train": bitext.train.where, "valid": (bitext.valid or bitext.train).where, "test": bitext.test.where}
    for split in SPLITS:
        if not counts[split]["pairs"]:
            raise UserError("; ".join([f"no {names[split]} pair is left of {' and '.join(wheres[split])}", *notes]))
    return {"counts": {split: counts[split] for split in SPLITS}, "notes": notes, "test_sets": bitext.test_sets}


def _write_train(
    bitext: Bitext,
    work: Callable[..., Iterator[tuple[int, list[Pair], dict[str, int]]]],
    config: CorpusConfig,
    to: Path,
    reading: Callable[[], AbstractContextManager[None]],
    echo: Echo,
) -> dict[str, Any]:
    """Write the training pairs, and each n-th as validation pair where there are no others."""
    every = None if bitext.valid is not None else config.valid_every
    splits = ["train", "valid"] if every else ["train"]
    nothing: dict[str, Any] = {"read": 0, "dropped": {}, "counts": {split: _count([], config) for split in splits}}
    names = [f"{split}.{language}" for split in splits for language in (config.source, config.target)]
    with Growing(to, names, nothing) as files:
        state = files.state
        if files.resumed:
            echo(f"{config.name}: going on after {state['read']:,} pairs")

        def rest() -> Iterator[Pair]:
            with reading():
                yield from islice(bitext.train, state["read"], None)

        for read, pairs, dropped in work(Stream(rest, bitext.train.where), split="train"):
            before = sum(count["pairs"] for count in state["counts"].values())
            held_out = {i for i in range(len(pairs)) if every and (before + i) % every == every - 1}
            shares = {"train": [pair for i, pair in enumerate(pairs) if i not in held_out]}
            if every:
                shares["valid"] = [pairs[i] for i in sorted(held_out)]
            for split, share in shares.items():
                files.write(f"{split}.{config.source}", (source for source, _ in share))
                files.write(f"{split}.{config.target}", (target for _, target in share))
                add_counts(state["counts"][split], _count(share, config))
            add_counts(state["dropped"], dropped)
            told, state["read"] = state["read"] // TELL_EVERY, state["read"] + read
            files.note()
            if state["read"] // TELL_EVERY > told:
                echo(f"{config.name}: {state['read']:,} pairs tokenized")
    return state


def _tokenize(
    pairs: Pairs | Stream, config: CorpusConfig, cleaner: Cleaner, workers: int | None, split: str
) -> Iterator[tuple[int, list[Pair], dict[str, int]]]:
    """Yield a chunk's number of pairs, those of them that stay, tokenised, and how many went for which reason."""
    sides = [_line_work(config, language, split) for language in (config.source, config.target)]

    def tokens(chunk: list[Pair]) -> tuple[int, list[Pair], dict[str, int]]:
        done = [(sides[0](source), sides[1](target)) for source, target in chunk]
        if split == "train" and config.length_in == "words":
            return len(chunk), *cleaner.clean(done)
        return len(chunk), done, {}

    return map_ordered(tokens, chunked(pairs, CHUNK), workers)


def _line_work(config: CorpusConfig, language: str, split: str) -> Callable[[str], str]:
    moses = partial(tokenize, language=language, split_hyphens=config.split_hyphens)
    to_words = moses if config.text_kind == "moses" else squeeze

    def work(line: str) -> str:
        if split != "test" and config.clean_punctuation:
            line = clean_punctuation(line, language)
        done = to_words(line)
        return done.lower() if config.lowercase else done

    return work


def _hold(chunks: Iterator[tuple[int, list[Pair], dict[str, int]]], of: Pairs) -> Pairs:
    pairs = [pair for _, done, _ in chunks for pair in done]
    return Pairs([source for source, _ in pairs], [target for _, target in pairs], of.where)


def _write_test(bitext: Bitext, test: Pairs, config: CorpusConfig, to: Path) -> None:
    raw, tokens = bitext.raw_test or bitext.test, test.target
    # Scored in Moses tokens with hyphens whole, where text is left raw and where hyphens are split too.
    if config.text_kind == "none" or config.split_hyphens:
        moses = _line_work(replace(config, tokenizer="moses", split_hyphens=False), config.target, split="test")
        tokens = [moses(line) for line in bitext.test.target]
    text = detokenize(raw.target, config.target) if config.text_kind == "given" else raw.target
    write_lines(to / f"source.text.{config.source}", (squeeze(line) for line in raw.source))
    write_lines(to / f"reference.text.{config.target}", (squeeze(line) for line in text))
    write_lines(to / f"reference.tokens.{config.target}", tokens)


def _refuse_empty(test: Pairs) -> None:
    for lines, where in ((test.source, test.where[0]), (test.target, test.where[1])):
        if "" in lines:
            raise UserError(
                f"{where}, line {lines.index('') + 1} is empty: a test pair must have both sides; remove it"
            )


def _count(pairs: list[Pair], config: CorpusConfig) -> dict[str, int]:
    words = [sum(len(pair[side].split()) for pair in pairs) for side in (0, 1)]
    return {"pairs": len(pairs), f"words_{config.source}": words[0], f"words_{config.target}": words[1]}
