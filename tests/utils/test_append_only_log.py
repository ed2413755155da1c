"""Files that grow together: taken up at the last note, whatever was written after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from normplugins.utils.append_only_log import JOURNAL, AppendOnlyLog


def write(folder: Path, chunks: int, notes: int) -> None:
    """Write so many chunks, of which the first ones are noted."""
    with AppendOnlyLog(folder, ["a", "b"], {"done": 0}) as files:
        for number in range(files.state["done"], chunks):
            files.write("a", [f"line {number}"])
            files.write("b", ["ä", f"{number}"])
            files.state["done"] = number + 1
            if number < notes:
                files.commit()


@pytest.mark.parametrize("notes", [0, 1, 3])
def test_what_was_not_noted_is_written_again(tmp_path: Path, notes: int) -> None:
    write(tmp_path, 3, notes)
    with AppendOnlyLog(tmp_path, ["a", "b"], {"done": 0}) as files:
        assert (files.resumed, files.state) == (notes > 0, {"done": notes})
    write(tmp_path, 5, 5)
    assert (tmp_path / "a").read_text(encoding="utf-8") == "".join(f"line {n}\n" for n in range(5))
    assert (tmp_path / "b").read_text(encoding="utf-8") == "".join(f"ä\n{n}\n" for n in range(5))


def test_a_file_that_is_shorter_than_noted_starts_all_anew(tmp_path: Path) -> None:
    write(tmp_path, 3, 3)
    (tmp_path / "b").write_bytes(b"")
    with AppendOnlyLog(tmp_path, ["a", "b"], {"done": 0}) as files:
        assert (files.resumed, files.state) == (False, {"done": 0})
    assert (tmp_path / "a").read_bytes() == b""
    assert (tmp_path / JOURNAL).is_file()
