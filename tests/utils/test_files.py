"""Files that appear complete or not at all, and places that cannot be written."""

import os
import threading
from pathlib import Path

import pytest

from normplugins.utils.errors import UserError
from normplugins.utils.files import iter_lines, whole_file, whole_folder, write_text


def names(folder):
    return [path.name for path in folder.iterdir()]


def fail_half_way(path):
    with whole_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "output"
    write_text(path, ["one"])
    with pytest.raises(ZeroDivisionError):
        fail_half_way(path)
    assert (path.read_text(), names(path.parent)) == ("one\n", ["output"])


def test_what_a_killed_process_has_left_is_not_written_into(tmp_path):
    """It may have linked the temporary name to another file, as checkpoints are linked."""
    write_text(tmp_path / "one", ["one"])
    os.link(tmp_path / "one", tmp_path / ".two.tmp")
    write_text(tmp_path / "two", ["two"])
    assert (tmp_path / "one").read_text() == "one\n"


def test_a_fifo_stays_a_fifo_and_carries_the_text(tmp_path):
    fifo, received = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: received.append(fifo.read_text()), daemon=True)
    reader.start()
    write_text(fifo, ["one", "two"])
    reader.join(10)
    assert (received, fifo.is_fifo(), names(tmp_path)) == (["one\ntwo\n"], True, ["fifo"])


def test_a_fifo_can_be_read(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    threading.Thread(target=lambda: fifo.write_text("one\ntwo\n"), daemon=True).start()
    assert list(iter_lines(fifo)) == ["one", "two"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_gets_the_text(tmp_path, exists):
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    if exists:
        write_text(target, ["old"])
    link.symlink_to("folder/target")
    write_text(link, ["new"])
    assert (link.is_symlink(), target.is_symlink(), target.read_text()) == (True, False, "new\n")
    assert names(target.parent) == ["target"]


def test_a_link_to_an_open_pipe_is_written(tmp_path):
    reading, writing = os.pipe()
    link = tmp_path / "stdout"
    link.symlink_to(f"/proc/self/fd/{writing}")
    write_text(link, ["text"])
    assert (os.read(reading, 99), link.is_symlink()) == (b"text\n", True)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/proc/x", r"cannot write /proc/x: No such file or directory \(/proc/.*\); name another place"),
        ("/proc/x/y", r"cannot write /proc/x/y: No such file or directory \(/proc/x\); name another place"),
        ("", r"cannot write \.: Is a directory \(\.\); move it away, or name another place"),
        ("folder", "cannot write folder: Is a directory"),
        ("n" * 300, "File name too long"),
    ],
)
def test_a_place_where_no_file_can_be_is_refused_in_one_line(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message):
        write_text(Path(path), ["text"])
    assert names(tmp_path) == ["folder"]


def test_what_a_killed_process_left_does_not_enter_a_folder_with_any_name(tmp_path):
    folder, left_over = tmp_path / "out[1]", tmp_path / ".out[1].previous.tmp"
    left_over.mkdir()
    (left_over / "stale").touch()
    with whole_folder(folder) as temporary:
        (temporary / "new").touch()
    assert names(tmp_path) == ["out[1]"]
    assert names(folder) == ["new"]


def test_a_place_where_no_folder_can_be_is_refused_in_one_line():
    with (
        pytest.raises(UserError, match=r"cannot write /proc/x: No such file or directory"),
        whole_folder(Path("/proc/x")),
    ):
        pass
