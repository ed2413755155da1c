"""Downloads against a real server on this machine: whole, resumed; and the mirror that goes first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from normplugins.utils import download
from normplugins.utils.download import fetch, find_in_mirror
from normplugins.utils.errors import UserError
from tests.helpers.corpora import quiet

CONTENT = bytes(range(256)) * 2000


BINARY, PAGE = "application/octet-stream", b"<!DOCTYPE html><title>Parked</title>"
# What an address sends with status 200 instead of the file: the content, its type, and the size that it announces.
FAULTS = {
    "half": (CONTENT[:2000], BINARY, 2000),
    "broken-off": (CONTENT[:150_000], BINARY, len(CONTENT)),
    "other": (CONTENT[::-1], BINARY, len(CONTENT)),
    "page": (PAGE, "text/html; charset=utf-8", len(PAGE)),
    "page-as-file": (PAGE, BINARY, len(PAGE)),
    "empty": (b"", BINARY, 0),
}
REASONS = {
    "moved-away": "returned 301",
    "404": "returned 404",
    "416": "returned 416",
    "silence": "cannot be downloaded",
    "broken-off": "bytes are kept",
    "page": "returned a web page",
    **dict.fromkeys(("half", "other", "page-as-file", "empty"), "returned another file"),
}


class Server(ThreadingHTTPServer):
    """Serves one file; can break off, ignore ranges, or serve another version. Its other addresses are faulty."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.version, self.ranges = CONTENT, '"1"', True
        self.asked: list[str | None] = []
        self.break_after: int | None = None
        self.silent = threading.Event()

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
            self.fail(self.path.strip("/"))
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

    def fail(self, fault: str) -> None:
        """Answer as a host does that has lost the file."""
        if fault == "silence":
            self.server.silent.wait()
        elif fault == "moved-away":
            self.send_response(301)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif fault.isdecimal():
            self.send_error(int(fault))
        elif fault in FAULTS:
            content, kind, size = FAULTS[fault]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(content)
        else:
            self.send_error(404)

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
    running.silent.set()
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.1))  # seconds to connect, and to wait for the next bytes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_whole_then_kept(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "raw"
    assert fetch("file.bin", [server.url], folder, quiet).read_bytes() == CONTENT
    assert names(folder) == ["file.bin"]
    fetch("file.bin", [server.url], folder, quiet)
    assert len(server.asked) == 1


def test_broken_off_download_is_kept_and_resumed(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "raw"
    server.break_after = 150_000  # more than a block, less than the file
    with pytest.raises(UserError, match="bytes are kept"):
        fetch("file.bin", [server.url], folder, quiet)
    assert not (folder / "file.bin").exists()
    held = (folder / "file.bin.part").stat().st_size
    assert 0 < held < len(CONTENT)
    server.break_after = None
    assert fetch("file.bin", [server.url], folder, quiet).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={held}-"
    assert names(folder) == ["file.bin"]


@pytest.mark.parametrize("change", ["ranges", "version"])
def test_no_resume_when_the_server_cannot_or_the_file_changed(server: Server, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "corpus" / "raw"
    server.break_after = 150_000  # more than a block, less than the file
    with pytest.raises(UserError):
        fetch("file.bin", [server.url], folder, quiet)
    server.break_after = None
    if change == "ranges":
        server.ranges = False
    else:
        server.version, server.content = '"2"', CONTENT[::-1]
    assert fetch("file.bin", [server.url], folder, quiet).read_bytes() == server.content


def test_a_complete_part_is_taken_and_a_longer_one_thrown_away(server: Server, tmp_path: Path) -> None:
    for held in (CONTENT, CONTENT + b"more"):
        folder = tmp_path / str(len(held)) / "raw"
        folder.mkdir(parents=True)
        (folder / "file.bin.part").write_bytes(held)
        assert fetch("file.bin", [server.url], folder, quiet).read_bytes() == CONTENT


def test_what_is_there_goes_first_then_the_mirror_then_an_address(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mirror = tmp_path / "corpus" / "raw", tmp_path / "mirror"
    (mirror / "deep" / "er").mkdir(parents=True)
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(mirror))
    (mirror / "deep" / "er" / "file.bin").write_bytes(b"one")
    assert fetch("file.bin", [server.url], folder, quiet).read_bytes() == b"one"
    (mirror / "deep" / "er" / "file.bin").write_bytes(b"two")
    assert fetch("file.bin", [server.url], folder, quiet).read_bytes() == b"one"
    (folder / "file.bin").unlink()
    assert fetch("file.bin", [server.url], folder, quiet).read_bytes() == b"two"
    assert fetch("file2.bin", [server.url], folder, quiet).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_mirror_prefers_the_corpus_folder_then_its_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(tmp_path))
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "train.gz").write_bytes(b"")
    assert find_in_mirror("train.gz", "mine") == tmp_path / "a" / "train.gz"
    assert find_in_mirror("train.gz", "b") == tmp_path / "b" / "train.gz"
    (tmp_path / "train.gz").write_bytes(b"")
    assert find_in_mirror("train.gz", "mine") == tmp_path / "train.gz"
    assert find_in_mirror("other.gz", "mine") is None
    monkeypatch.setenv("NORMPLUGINS_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="not a folder"):
        find_in_mirror("train.gz", "mine")


def is_the_file(path: Path) -> None:
    if path.read_bytes() != CONTENT:
        raise UserError(f"{path.name} is not the published file")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", REASONS)
def test_the_next_address_is_tried(server: Server, tmp_path: Path, fault: str) -> None:
    folder, said = tmp_path / "corpus" / "raw", list[str]()
    faulty = server.url.replace("file.bin", fault)
    path = fetch("file.bin", [faulty, server.url], folder, said.append, is_the_file)
    assert path.read_bytes() == CONTENT
    assert names(folder) == ["file.bin"]
    (failure,) = (line for line in said if line.endswith("trying the next address"))
    assert faulty in failure
    assert REASONS[fault] in failure


def test_an_interrupted_check_leaves_no_unchecked_file(server: Server, tmp_path: Path) -> None:
    def interrupted(path: Path) -> None:
        assert path.read_bytes() == CONTENT
        raise KeyboardInterrupt

    folder = tmp_path / "corpus" / "raw"
    with pytest.raises(KeyboardInterrupt):
        fetch("file.bin", [server.url], folder, quiet, interrupted)
    assert not {"file.bin", "unchecked"} & {*names(folder)}
    assert fetch("file.bin", [server.url], folder, quiet, is_the_file).read_bytes() == CONTENT


@pytest.mark.usefixtures("impatient")
def test_if_all_addresses_fail_one_line_names_them_and_the_way_out(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "raw"
    faulty = [server.url.replace("file.bin", fault) for fault in REASONS]
    with pytest.raises(UserError) as raised:
        fetch("file.bin", faulty, folder, quiet, is_the_file)
    message = str(raised.value)
    assert all(address in message for address in faulty)
    assert message.endswith("or put file.bin into a folder and set NORMPLUGINS_MIRROR to that folder")
    assert "\n" not in message
    kept = f"file.bin.part{1 + faulty.index(server.url.replace('file.bin', 'broken-off'))}"
    assert [name for name in names(folder) if not name.endswith(".version")] == [kept]
