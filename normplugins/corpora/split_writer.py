"""The text files of a stage: written chunk by chunk, and resumed at the last complete chunk after a kill."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from normplugins.corpora.base import SPLITS
from normplugins.corpora.parallel import Pair, ParallelCorpus
from normplugins.utils.json_file import read_json_or_none, write_json
from normplugins.utils.steps import Echo
from normplugins.utils.worker_processes import chunked, map_ordered

PROGRESS = "progress.json"
CHUNK = 2000  # pairs
_ECHO_EVERY = 250_000  # pairs

Work = Callable[[list[Any]], tuple[list[Pair], dict[str, int]]]
"""Turns a chunk of pairs, numbered or not, into the pairs to write and the number of dropped pairs by reason."""


class SplitWriter:
    """Writes the pairs of each split to ``folder/{split}.{language}``.

    ``counts[split]`` holds the number of pairs read, written, and dropped by reason, and for each side the number of
    words and the length of the longest line in words. If the folder holds the progress of a killed call, the files are
    truncated after its last complete chunk, and ``counts`` continues from there.
    """

    def __init__(self, folder: Path, corpus: ParallelCorpus, echo: Echo) -> None:
        self._folder, self._name, self._echo = folder, corpus.name, echo
        self._languages = corpus.source, corpus.target
        self.counts: dict[str, dict[str, Any]] = {
            split: {"read": 0, "pairs": 0, "dropped": {}, "words": [0, 0], "longest": [0, 0]} for split in SPLITS
        }
        sizes = {f"{split}.{language}": 0 for split in SPLITS for language in self._languages}
        self._paths = [folder / name for name in sizes]
        saved = read_json_or_none(folder / PROGRESS)  # without it the stage starts over
        if saved and all(path.is_file() and path.stat().st_size >= saved["sizes"][path.name] for path in self._paths):
            self.counts, sizes = saved["counts"], saved["sizes"]
        for path in self._paths:
            with path.open("ab") as file:
                file.truncate(sizes[path.name])
        self._save_progress()

    def write(
        self, split: str, pairs: Iterable[Any], work: Work, workers: int | None, valid_every: int | None = None
    ) -> None:
        """Write ``work(chunk)`` for all pairs not yet read; every ``valid_every``-th result goes to ``valid``."""
        counts, valid = self.counts[split], self.counts["valid"]
        if counts["read"] and split == "train":
            self._echo(f"{self._name}: resuming after {counts['read']:,} pairs")

        chunks = chunked(islice(pairs, counts["read"], None), CHUNK)
        for kept, dropped in map_ordered(work, chunks, workers):
            read = len(kept) + sum(dropped.values())
            if valid_every:
                number = counts["pairs"] + valid["pairs"] + 1
                self._append("valid", [pair for n, pair in enumerate(kept, number) if n % valid_every == 0])
                kept = [pair for n, pair in enumerate(kept, number) if n % valid_every]
            self._append(split, kept)
            counts["dropped"] = dict(Counter(counts["dropped"]) + Counter(dropped))
            counts["read"] += read
            self._save_progress()
            if counts["read"] // _ECHO_EVERY > (counts["read"] - read) // _ECHO_EVERY:
                self._echo(f"{self._name}: {counts['read']:,} {split} pairs processed")

    def _append(self, split: str, pairs: list[Pair]) -> None:
        counts = self.counts[split]
        counts["pairs"] += len(pairs)
        for side, language in enumerate(self._languages):
            lengths = [len(pair[side].split()) for pair in pairs]
            counts["words"][side] += sum(lengths)
            counts["longest"][side] = max([counts["longest"][side], *lengths])
            with (self._folder / f"{split}.{language}").open("ab") as file:
                file.write("".join(f"{pair[side]}\n" for pair in pairs).encode())

    def _save_progress(self) -> None:
        sizes = {path.name: path.stat().st_size for path in self._paths}
        write_json(self._folder / PROGRESS, {"counts": self.counts, "sizes": sizes})
