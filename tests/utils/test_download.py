"""Downloads against a real server on this machine: whole, resumed; and the mirror that goes first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from normplugins.utils.download import fetch, find_in_mirror
from normplugins.utils.errors import UserError
from tests.helpers.corpora import quiet

CONTENT = bytes(range(256)) * 2000


class Server(ThreadingHTTPServer):
    """Serves one file; can break off, ignore ranges, or serve another version."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.version, self.ranges = CONTENT, '"1"', True
        self.asked: list[str | None] = []
        self.break_after: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, start = self.server, 0
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if not self.headers["User-Agent"].startswith("normplugins/"):  # some hosts refuse Python libraries' own names
            self.send_error(403)
            return
        if self.path != "/file.bin":
            self.send_error(404)
            return
        same = self.headers.get("If-Range") in (None, server.version)
        if asked and server.ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.version)
        self.end_headers()
        self.wfile.write(body if server.break_after is None else body[: server.break_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("NORMPLUGINS_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_whole_then_kept(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "raw"
    assert fetch("file.bin", server.url, folder, quiet).read_bytes() == CONTENT
    assert names(folder) == ["file.bin"]
    fetch("file.bin", server.url, folder, quiet)
    assert len(server.asked) == 1


def test_broken_off_download_is_kept_and_resumed(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "raw"
    server.break_after = 150_000  # more than a block, less than the file
    with pytest.raises(UserError, match="bytes are kept"):
        fetch("file.bin", server.url, folder, quiet)
    assert not (folder / "file.bin").exists()
    held = (folder / "file.bin.part").stat().st_size
    assert 0 < held < len(CONTENT)
    server.break_after = None
    assert fetch("file.bin", server.url, folder, quiet).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={held}-"
    assert names(folder) == ["file.bin"]


@pytest.mark.parametrize("change", ["ranges", "version"])
def test_no_resume_when_the_server_cannot_or_the_file_changed(server: Server, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "corpus" / "raw"
    server.break_after = 150_000  # more than a block, less than the file
    with pytest.raises(UserError):
        fetch("file.bin", server.url, folder, quiet)
    server.break_after = None
    if change == "ranges":
        server.ranges = False
    else:
        server.version, server.content = '"2"', CONTENT[::-1]
    assert fetch("file.bin", server.url, folder, quiet).read_bytes() == server.content


def test_a_complete_part_is_taken_and_a_longer_one_thrown_away(server: Server, tmp_path: Path) -> None:
    for held in (CONTENT, CONTENT + b"more"):
        folder = tmp_path / str(len(held)) / "raw"
        folder.mkdir(parents=True)
        (folder / "file.bin.part").write_bytes(held)
        assert fetch("file.bin", server.url, folder, quiet).read_bytes() == CONTENT


def test_missing_file_and_no_server_say_what_to_do(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"answers 404.*NORMPLUGINS_MIRROR"):
        fetch("file.bin", server.url + "x", tmp_path / "corpus" / "raw", quiet)
    with pytest.raises(UserError, match=r"cannot download .*NORMPLUGINS_MIRROR"):
        fetch("file.bin", "http://127.0.0.1:9/file.bin", tmp_path / "corpus" / "raw", quiet)
    assert not list((tmp_path / "corpus" / "raw").iterdir())


def test_mirror_goes_first_and_its_changes_are_seen(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mirror = tmp_path / "corpus" / "raw", tmp_path / "mirror"
    (mirror / "deep" / "er").mkdir(parents=True)
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror))
    (mirror / "deep" / "er" / "file.bin").write_bytes(b"one")
    assert fetch("file.bin", server.url, folder, quiet).read_bytes() == b"one"
    (mirror / "deep" / "er" / "file.bin").write_bytes(b"two")
    assert fetch("file.bin", server.url, folder, quiet).read_bytes() == b"two"
    assert fetch("file2.bin", server.url, folder, quiet).read_bytes() == CONTENT
    monkeypatch.delenv("NORMPLUGINS_MIRROR")
    assert fetch("file.bin", server.url, folder, quiet).read_bytes() == b"two"
    assert len(server.asked) == 1


def test_mirror_prefers_the_corpus_folder_and_refuses_to_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(tmp_path))
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "train.gz").write_bytes(b"")
    with pytest.raises(UserError, match="several folders"):
        find_in_mirror("train.gz", "mine")
    assert find_in_mirror("train.gz", "b") == tmp_path / "b" / "train.gz"
    (tmp_path / "train.gz").write_bytes(b"")
    assert find_in_mirror("train.gz", "mine") == tmp_path / "train.gz"
    assert find_in_mirror("other.gz", "mine") is None
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="not a folder"):
        find_in_mirror("train.gz", "mine")


def test_what_is_no_readable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, mirror = tmp_path / "corpus" / "raw", tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "file.bin").write_bytes(b"one")
    (folder / "file.bin").mkdir(parents=True)
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror))
    with pytest.raises(UserError, match=r"cannot read .*raw/file\.bin: Is a directory"):
        fetch("file.bin", "unused", folder, quiet)
