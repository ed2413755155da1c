"""Files of pairs that are resumed at the last complete chunk, whatever was written after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from normplugins.corpora.split_writer import PROGRESS, SplitWriter
from tests.helpers.corpora import config, quiet

PAIRS = [(f"ein Haus {n}", f"ä house {n} .") for n in range(8)]


def write(folder: Path, count: int, broken_off: bool = False) -> dict[str, int]:
    """Write pairs in chunks of two; every third goes to ``valid``."""

    def pairs():
        yield from PAIRS[:count]
        if broken_off:
            raise KeyboardInterrupt

    writer = SplitWriter(folder, config("custom"), quiet)
    try:
        writer.write("train", pairs(), lambda chunk: (chunk, {}), workers=1, valid_every=3)
    except KeyboardInterrupt:
        with (folder / "train.de").open("a") as file:
            file.write("half a line")
    return {split: counts["pairs"] for split, counts in writer.counts.items()}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normplugins.corpora.split_writer.CHUNK", 2)


@pytest.mark.parametrize("done", [0, 1, 5])
def test_a_broken_off_chunk_is_written_again(tmp_path: Path, done: int) -> None:
    write(tmp_path, done, broken_off=True)
    counts = SplitWriter(tmp_path, config("custom"), quiet).counts
    assert counts["train"]["pairs"] + counts["valid"]["pairs"] == done // 2 * 2
    assert write(tmp_path, 8) == {"train": 6, "valid": 2, "test": 0}
    for split, pairs in {"valid": PAIRS[2::3], "train": [pair for n, pair in enumerate(PAIRS, 1) if n % 3]}.items():
        for side, language in enumerate(("de", "en")):
            expected = "".join(f"{pair[side]}\n" for pair in pairs)
            assert (tmp_path / f"{split}.{language}").read_text(encoding="utf-8") == expected


def test_a_file_that_is_shorter_than_recorded_starts_from_the_beginning(tmp_path: Path) -> None:
    write(tmp_path, 8)
    (tmp_path / "valid.en").write_bytes(b"")
    assert SplitWriter(tmp_path, config("custom"), quiet).counts["train"]["read"] == 0
    assert (tmp_path / "train.de").read_bytes() == b""
    assert (tmp_path / PROGRESS).is_file()
