"""Prepared files and their state that were changed or damaged: noticed and made again, or refused in one line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from normplugins.corpora import PreparedCorpus, changed_files, prepare
from normplugins.utils.errors import UserError
from tests.helpers.corpora import custom, kill_at, quiet, tree, write_user_corpus

FILES = [
    "tokenized/train.de",
    "tokenized/reference.tokens.en",
    "tokenized/reference.text.en",
    "subword/codes",
    "bin/train.de-en.de.bin",
    "bin/test.de-en.en.idx",
    "bin/dict.en.txt",
]
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "edited": lambda data: data.replace(b"train", b"trial"),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    prepare(custom(write_user_corpus(folder / "c")), folder / "data", quiet)
    return folder


@pytest.fixture
def prepared(original: Path, tmp_path: Path) -> PreparedCorpus:
    """A copy of a prepared corpus."""
    shutil.copytree(original / "data", tmp_path / "data")
    return again(original, tmp_path)


def again(original: Path, folder: Path, echo: Callable[[str], None] = quiet) -> PreparedCorpus:
    found = prepare(custom(original / "c"), folder / "data", echo)
    assert isinstance(found, PreparedCorpus)
    return found


def change(path: Path) -> None:
    """Change one byte: not the size, and not the modification time."""
    data, times = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenized/train.de", "subword/codes", "bin/dict.en.txt"])
def test_a_changed_file_is_noticed_and_made_again(
    original: Path, prepared: PreparedCorpus, tmp_path: Path, name: str
) -> None:
    whole, said, path = tree(prepared.folder), list[str](), prepared.folder / name
    change(path)
    path.touch()
    assert again(original, tmp_path, said.append) == prepared
    assert said[0] == f"{path} has changed since it was prepared: {path.parent} is rebuilt"
    assert tree(prepared.folder) == whole


def test_a_file_with_the_old_modification_time_is_found_by_its_content(
    original: Path, prepared: PreparedCorpus, tmp_path: Path
) -> None:
    whole = tree(prepared.folder)
    assert changed_files(prepared.folder, prepared.manifest) == []
    for name in FILES:
        change(prepared.folder / name)
    assert sorted(changed_files(prepared.folder, prepared.manifest)) == sorted(FILES)
    assert again(original, tmp_path) == prepared  # and the next call does not trust them
    assert tree(prepared.folder) == whole


def test_a_changed_file_whose_input_is_gone_is_refused(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    found = prepare(custom(tmp_path / "c"), tmp_path / "data", quiet)
    (found.bin_dir / "train.de-en.de.bin").write_bytes(b"")
    (tmp_path / "c" / "train.de").unlink()
    with pytest.raises(UserError, match=r"corpus\.train: there is no file .*train\.de"):
        prepare(custom(tmp_path / "c"), tmp_path / "data", quiet)


@pytest.mark.parametrize("damage", [*DAMAGE, "folder"])
@pytest.mark.parametrize("name", ["bin/stage.json", "../.hashes.json", "corpus.json"])
def test_damaged_state_is_repaired(
    original: Path, prepared: PreparedCorpus, tmp_path: Path, name: str, damage: str
) -> None:
    whole, path = tree(prepared.folder), prepared.folder / name
    break_file(path, damage)
    if (name, damage) == ("corpus.json", "folder"):
        with pytest.raises(UserError, match=r"Is a directory \(.*/corpus\.json\); move it away"):
            again(original, tmp_path)
    else:
        assert again(original, tmp_path) == prepared
        assert tree(prepared.folder) == whole


def break_file(path: Path, damage: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
        (path / "inside").touch()
    else:
        path.write_bytes(DAMAGE[damage](data))


def test_a_file_in_the_place_of_a_prepared_folder_is_replaced(
    original: Path, prepared: PreparedCorpus, tmp_path: Path
) -> None:
    whole = tree(prepared.folder)
    shutil.rmtree(prepared.bin_dir)
    prepared.bin_dir.touch()
    assert again(original, tmp_path) == prepared
    assert tree(prepared.folder) == whole


@pytest.mark.slow
def test_a_killed_stage_with_damaged_progress_starts_over(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normplugins.corpora.split_writer.CHUNK", 10)
    kill_at(r"rename .*progress\.json", 4, lambda: again(original, tmp_path))
    (progress,) = (tmp_path / "data").rglob("progress.json")
    break_file(progress, "truncated")
    assert tree(again(original, tmp_path).folder) == tree(original / "data" / "custom" / progress.parents[1].name)


def test_a_stage_that_was_killed_while_its_record_was_written_is_not_rebuilt_twice(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normplugins.corpora.split_writer.CHUNK", 10)
    kill_at(r"rename .*stage\.json", 1, lambda: again(original, tmp_path))
    again(original, tmp_path)
    lines: list[str] = []
    again(original, tmp_path, lines.append)
    assert not [line for line in lines if "has changed" in line]


@pytest.mark.parametrize("stream", ["fifo", "/dev/zero", "link loop", "folder"])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, stream: str) -> None:
    folder = write_user_corpus(tmp_path / "c")
    path = folder / "train.de"
    path.unlink()
    if stream == "fifo":
        os.mkfifo(path)
    elif stream == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if stream == "link loop" else stream)
    reason = {"link loop": "Too many levels of symbolic links", "folder": "Is a directory"}
    with pytest.raises(UserError) as raised:
        prepare(custom(folder), tmp_path / "data", quiet)
    assert str(raised.value).startswith(f"corpus.train: cannot read {path}: {reason.get(stream, 'it is a FIFO')}")
