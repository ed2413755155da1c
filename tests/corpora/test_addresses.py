"""Each published corpus takes a file from its second address if the first one has another file."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from normplugins.corpora import CORPORA, prepare
from normplugins.utils.errors import UserError
from tests.corpora.test_running_text import ARCHIVES, TEXTS, archive, ptb_files
from tests.helpers.corpora import (
    config,
    iwslt_members,
    quiet,
    tar,
    text,
    tree,
    wmt14_members,
    write_multi30k,
    write_wmt14,
)

OTHER = text(["other text"])


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of ``tmp_path``."""
    monkeypatch.delenv("NORMPLUGINS_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


def write_iwslt14(folder: Path) -> None:
    tar(folder / "de-en.tgz", iwslt_members())


def write_wmt14_files(folder: Path) -> None:
    for path in (write_wmt14(folder / "made", wmt14_members()) / "wmt14" / "raw").iterdir():
        path.rename(folder / path.name)


WRITE = {
    "multi30k": write_multi30k,
    "wikitext2": lambda folder: archive(folder / ARCHIVES["wikitext2"]),
    "ptb": ptb_files,
    "iwslt14": write_iwslt14,
    "wmt14": write_wmt14_files,
}


@pytest.mark.parametrize("name", WRITE)
def test_the_second_address_is_taken(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    good, bad, said = tmp_path / "good", tmp_path / "bad", list[str]()
    good.mkdir()
    bad.mkdir()
    WRITE[name](good)
    corpus = CORPORA[name]
    settings: dict[str, object] = {"verify": False, "subword_size": 40}
    if name == "ptb":  # plain text is known by its digest only
        settings = {"verify": True}
        digests = {split: f"sha256:{hashlib.sha256(content).hexdigest()}" for split, content in TEXTS.items()}
        monkeypatch.setattr(corpus, "DIGESTS", digests)
        monkeypatch.setattr(corpus, "PUBLISHED", {})
    elif name == "wikitext2":
        settings = {"verify": False}
    names = list(config(name, **settings).addresses())
    for number, file in enumerate(names):
        if file.endswith((".tgz", ".zip")):
            tar(bad / file, {"another.txt": OTHER})
        else:
            (bad / file).write_bytes(OTHER if number else (good / file).read_bytes()[:-7])
    addresses = {file: [f"{server}/bad/{file}", f"{server}/good/{file}"] for file in names}
    monkeypatch.setattr(corpus, "addresses", lambda _: addresses)
    prepare(config(name, **settings), tmp_path / "data", said.append)
    assert tree(tmp_path / "data" / name / "raw") == {file: (good / file).read_bytes() for file in names}
    assert sum(line.endswith("the next address is tried") for line in said) == len(names)


def test_a_bad_line_costs_no_download(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, raw, said = tmp_path / "files", tmp_path / "data" / "ptb" / "raw", list[str]()
    ptb_files(folder, valid=text(["a", "a </s> b"]))
    corpus = config("ptb", verify=False, url=f"{server}/files")
    for _ in range(2):
        with pytest.raises(UserError, match=rf"^{raw}/ptb\.valid\.txt, line 2: </s> would be read as a symbol"):
            prepare(corpus, tmp_path / "data", said.append)
        assert tree(raw) == tree(folder)
    assert sum("downloading" in line for line in said) == 3


def test_a_mirror_may_pack_the_files_as_zip(tmp_path: Path) -> None:
    members = wmt14_members()
    for root in ("tgz", "zip"):
        write_wmt14(tmp_path / root, members)
    for name, files in members.items():
        with zipfile.ZipFile(tmp_path / "zip" / "wmt14" / "raw" / name, "w", zipfile.ZIP_DEFLATED) as packed:
            for member, content in files.items():
                packed.writestr(member, content)
    corpus = config("wmt14", verify=False, subword_size=40, subword_min_count=1)
    one, other = (prepare(corpus, tmp_path / root, quiet) for root in ("tgz", "zip"))
    texts = {name: data for name, data in tree(one.folder).items() if not name.endswith(".json")}
    assert texts.items() <= tree(other.folder).items()
