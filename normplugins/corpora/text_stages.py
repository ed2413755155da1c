"""The stages that write text: raw pairs to tokens, and tokens to subwords."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from normplugins.corpora import subwords
from normplugins.corpora.base import SPLITS
from normplugins.corpora.languages import has_spaces
from normplugins.corpora.parallel import Bitext, NumberedPair, Pair, ParallelCorpus
from normplugins.corpora.split_writer import SplitWriter
from normplugins.corpora.symbols import refuse_symbols
from normplugins.corpora.tokenizer import clean_punctuation, detokenize, squeeze, tokenize
from normplugins.utils.errors import UserError
from normplugins.utils.files import iter_lines, read_lines, write_lines, write_text
from normplugins.utils.steps import Echo

_SPLIT_NAMES = {"train": "training", "valid": "validation", "test": "test"}


def write_tokens(
    corpus: ParallelCorpus, files: Mapping[str, Path], echo: Echo, workers: int | None, to: Path
) -> dict[str, Any]:
    """Write the three splits as the subword model reads them, and the references for scoring; return the stage's facts.

    ``reference.tokens`` is the target side of the test set in Moses (or given) tokens. ``reference.text`` is the same
    side as published, with its original case (detokenized if the files hold tokens).
    """
    echo(f"{corpus.name}: tokenizing")
    bitext = corpus.read(files)
    where = {split: bitext.where.get(split, bitext.where["train"]) for split in SPLITS}
    writer = SplitWriter(to, corpus, echo)

    def write(split: str, pairs: Iterable[Pair], valid_every: int | None = None) -> None:
        work = partial(_tokenize, corpus, split, where[split])
        writer.write(split, bitext.numbered(split, pairs), work, workers, valid_every)

    write("test", bitext.test)
    source, target = (read_lines(to / f"test.{language}") for language in (corpus.source, corpus.target))
    test = list(zip(source, target, strict=True))
    corpus.verify_test(test, where["test"])  # before the training text, which takes much longer
    for side, file in enumerate(where["test"]):
        for number, pair in bitext.numbered("test", test):
            if not pair[side]:
                raise UserError(f"{file}, line {number} is empty: a test pair must have both sides; remove it")
    _write_references(corpus, bitext, test, to)
    if bitext.valid is not None:
        write("valid", bitext.valid)
    write("train", bitext.train, getattr(corpus, "valid_every", None))
    counts = writer.counts
    notes = [*corpus.language_notes(), *bitext.notes, *corpus.cleaning_notes(counts["train"]["dropped"])]
    if empty := counts["valid"]["dropped"].get("empty"):
        notes.append(f"{empty:,} validation pairs with an empty side dropped")
    for split in SPLITS:
        if not counts[split]["pairs"]:
            missing = f"no {_SPLIT_NAMES[split]} pair is left in {' and '.join(where[split])}"
            raise UserError("; ".join([missing, *notes]))
    notes += _overlap_notes(test, [to / f"train.{language}" for language in (corpus.source, corpus.target)])
    names = f"words_{corpus.source}", f"words_{corpus.target}"
    return {
        "counts": {
            split: {"pairs": count["pairs"], **dict(zip(names, count["words"], strict=True))}
            for split, count in counts.items()
        },
        "notes": notes,
        "test_sets": bitext.test_sets,
    }


def _overlap_notes(test: Sequence[Pair], train: Sequence[Path]) -> list[str]:
    """Report how many test pairs occur in the training text, as pairs and on the source side."""
    sources = {source for source, _ in test}
    seen = {pair for pair in zip(*map(iter_lines, train), strict=True) if pair[0] in sources}
    if not seen:
        return []
    seen_sources = {source for source, _ in seen}
    both, alone = sum(pair in seen for pair in test), sum(source in seen_sources for source, _ in test)
    of_all = f"{both:,} of {len(test):,} test pairs also occur in the training text"
    return [f"{of_all}, {alone:,} counting the source side only"]


def _tokenize(
    corpus: ParallelCorpus, split: str, where: tuple[str, str], pairs: Sequence[NumberedPair]
) -> tuple[list[Pair], dict[str, int]]:
    """Return the tokens of the pairs that are kept, and the number of dropped pairs by reason.

    Raises UserError for a pair that holds a symbol; ``where`` names the file of each side.
    """

    def tokenize_side(side: int, line: str, number: int) -> str:
        tokens = tokenize_line(corpus, (corpus.source, corpus.target)[side], split, line)
        return refuse_symbols(tokens, corpus.subword, where[side], number)

    tokens = [
        (tokenize_side(0, source, number), tokenize_side(1, target, number)) for number, (source, target) in pairs
    ]
    if split == "train":
        return corpus.clean(tokens)
    if split == "valid":
        kept = [pair for pair in tokens if all(pair)]
        return kept, {"empty": len(tokens) - len(kept)}
    return tokens, {}


def tokenize_line(corpus: ParallelCorpus, language: str, split: str, line: str) -> str:
    """Tokenize a line of a split, and set its case, as the subword model reads it."""
    if split == "test":
        line = corpus.adapt_test_line(line)
    elif corpus.clean_punctuation and has_spaces(language):
        line = clean_punctuation(line, language)
    moses = corpus.tokenizer_of(language) == "moses"
    tokens = tokenize(line, language, corpus.split_hyphens) if moses else squeeze(line)
    return tokens.lower() if corpus.lowercase else tokens


def _write_references(corpus: ParallelCorpus, bitext: Bitext, test: list[Pair], to: Path) -> None:
    tokens = [target for _, target in test]
    # References are Moses tokens with hyphens unsplit, even if the text itself stays raw or has its hyphens split. A
    # language without spaces stays raw, and is split into words when it is scored.
    if corpus.resolved_tokenizer == "none" or corpus.split_hyphens:
        scored = replace(corpus, tokenizer="moses", split_hyphens=False)
        tokens = [tokenize_line(scored, corpus.target, "test", target) for _, target in bitext.test]
    text = [target for _, target in bitext.test]
    if corpus.resolved_tokenizer == "given":
        text = detokenize(text, corpus.target)
    write_lines(to / f"source.text.{corpus.source}", (squeeze(source) for source, _ in bitext.test))
    write_lines(to / f"reference.text.{corpus.target}", map(squeeze, text))
    write_lines(to / f"reference.tokens.{corpus.target}", tokens)


def write_subwords(corpus: ParallelCorpus, tokens: Path, echo: Echo, workers: int | None, to: Path) -> dict[str, Any]:
    """Write the subword model, and every split of the folder ``tokens`` in subwords; return the stage's facts."""
    writer = SplitWriter(to, corpus, echo)
    model = to / subwords.FILES[corpus.subword]
    if not model.exists():  # otherwise a killed call has made it
        _make_model(corpus, tokens, model, echo)
    echo(f"{corpus.name}: splitting words into subwords")
    split_line = subwords.splitter(corpus.subword, model)

    def split_pairs(pairs: list[Pair]) -> tuple[list[Pair], dict[str, int]]:
        return [(split_line(source), split_line(target)) for source, target in pairs], {}

    for split in SPLITS:
        source, target = (iter_lines(tokens / f"{split}.{language}") for language in (corpus.source, corpus.target))
        writer.write(split, zip(source, target, strict=True), split_pairs, workers)
    counts = writer.counts
    return {
        "subword": {
            "model": model.name,
            "subwords": {
                f"{split}.{language}": count
                for split in SPLITS
                for language, count in zip((corpus.source, corpus.target), counts[split]["words"], strict=True)
            },
        },
        # + 1 for the end of the sentence, which the model counts
        "longest": {
            split: {"source": counts[split]["longest"][0] + 1, "target": counts[split]["longest"][1] + 1}
            for split in SPLITS
        },
    }


def _make_model(corpus: ParallelCorpus, tokens: Path, model: Path, echo: Echo) -> None:
    if corpus.codes is not None:
        echo(f"{corpus.name}: taking the subwords of {corpus.codes}")
        # line by line, without a byte order mark, which would hide the version of the codes
        write_text(model, iter_lines(Path(corpus.codes).expanduser()))
        return
    echo(f"{corpus.name}: learning {corpus.subword_size:,} joint {corpus.subword} subwords")
    paths = [tokens / f"train.{language}" for language in (corpus.source, corpus.target)]
    subwords.learn(corpus.subword, corpus.subword_size, corpus.subword_min_count, paths, model)
