"""Small corpora with the layout of the real ones, and their settings."""

from __future__ import annotations

import gzip
import io
import multiprocessing
import random
import signal
import sys
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from normplugins.corpora import corpus_config
from normplugins.corpora.iwslt14 import TEST_PARTS
from normplugins.corpora.multi30k import TEST_PARTS as MULTI30K_TESTS
from tests.helpers.runs import Point, signal_at

CONFIGS = Path(__file__).parents[2] / "configs" / "corpus"
_WMT14_ARCHIVES = {
    "training-parallel-europarl-v7.tgz": "training/europarl-v7.de-en.{}",
    "training-parallel-commoncrawl.tgz": "commoncrawl.de-en.{}",
    "training-parallel-nc-v12.tgz": "training/news-commentary-v12.de-en.{}",
}
_WMT14_TEST = {"en": "test-full/newstest2014-deen-src.en.sgm", "de": "test-full/newstest2014-deen-ref.de.sgm"}
WMT14_PAIRS = 40  # of each of the three parts of the training text


def config(name: str, **overrides: Any) -> Any:
    """A corpus with its committed settings, some of which are overridden."""
    values = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert isinstance(values, dict)
    corpus = values.pop("defaults")[0].removeprefix("_")
    return corpus_config({"name": corpus, **values, **overrides})


def custom(folder: Path, **overrides: Any) -> Any:
    """The corpus that ``write_user_corpus`` wrote to this folder, with drawn validation and test pairs."""
    settings = {"train": str(folder / "train"), "valid_size": 10, "test_size": 12, "subword_size": 40}
    return config("custom", **settings | overrides)


def sentences(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Raw sentence pairs of equal length, with case and punctuation."""
    words = {
        "de": ["Haus", "Tür", "groß", "und", "läuft", "schön", "Straße"],
        "en": ["house", "door", "big", "and", "runs", "nice", "street"],
    }
    choose = random.Random(seed)
    picks = [[choose.randrange(7) for _ in range(choose.randrange(3, 9))] for _ in range(count)]
    made = {
        language: [f"{' '.join(known[i] for i in pick).capitalize()}, Nr {n}." for n, pick in enumerate(picks)]
        for language, known in words.items()
    }
    return made["de"], made["en"]


def iwslt_members() -> dict[str, bytes]:
    """The files of the IWSLT14 archive: 60 training pairs, and three pairs in each part of the test set."""
    members = {}
    train = sentences(60)
    for side, language in enumerate(("de", "en")):
        talk = ["<url>http://x</url>", "<keywords>a, b</keywords>", "<talkid>1</talkid>"]
        talk += [
            "<title>Ein Titel , one title</title>",
            "<description>Mit vier Worten hier</description>",
            *train[side],
        ]
        members[f"de-en/train.tags.de-en.{language}"] = text(talk)
        for number, part in enumerate(TEST_PARTS):
            lines = [f'<seg id="{i}"> {line} </seg>' for i, line in enumerate(sentences(3, number + 1)[side], 1)]
            lines[0] = f'<seg id="1"> {part} it’s No. {number}, not U.S. </seg>'
            head = ['<?xml version="1.0"?>', "<doc>", "<title>left out</title>"]
            members[f"de-en/IWSLT14.{part}.de-en.{language}.xml"] = text([*head, *lines, "</doc>"])
    return members


def wmt14_members(news_commentary: str = "v12") -> dict[str, dict[str, bytes]]:
    """The files of each WMT14 archive, with files of another language pair beside ours, as upstream."""
    made: dict[str, dict[str, bytes]] = {}
    for seed, names in enumerate(_WMT14_ARCHIVES.items()):
        archive, name = (part.replace("v12", news_commentary) for part in names)
        made[archive] = {name.replace("de-en", "cs-en").format("en"): b"another pair's\n"}
        for language, lines in zip(("de", "en"), sentences(WMT14_PAIRS, seed), strict=True):
            made[archive][name.format(language)] = text(lines)
    made["dev.tgz"] = {
        f"dev/newstest2013.{language}": text(lines)
        for language, lines in zip(("de", "en"), sentences(6, 7), strict=True)
    }
    made["test-full.tgz"] = {}
    for language, lines in zip(("de", "en"), sentences(5, 8), strict=True):
        lines[0] = f"{language} it’s a well-kept test & no more than it’s"
        body = [f'<seg id="{n}">{line}</seg>' for n, line in enumerate(lines, 1)]
        made["test-full.tgz"][_WMT14_TEST[language]] = text(['<srcset setid="newstest2014">', "<doc>", *body, "</doc>"])
    return made


def write_wmt14(root: Path, files: dict[str, dict[str, bytes]]) -> Path:
    """Write archives to the folder where a corpus under ``root`` keeps its downloads."""
    for name, content in files.items():
        tar(root / "wmt14" / "raw" / name, content)
    return root


def tar(path: Path, members: dict[str, bytes]) -> Path:
    """Write a .tgz whose bytes depend only on its members."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return path


def text(lines: Iterable[str], end: str = "\n") -> bytes:
    """Lines as UTF-8 bytes."""
    return "".join(line + end for line in lines).encode()


def write_user_corpus(folder: Path, count: int = 120, **splits: int) -> Path:
    """Write a user's parallel corpus: train.de and train.en with ``count`` pairs, and the other splits."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, size) in enumerate({"train": count, **splits}.items()):
        for language, lines in zip(("de", "en"), sentences(size, seed), strict=True):
            (folder / f"{split}.{language}").write_bytes(text(lines))
    return folder


def write_multi30k(folder: Path, test_sizes: Sequence[int] = (5, 4, 2, 3)) -> Path:
    """Write files of Multi30k's names, with other text: 120 training pairs, 11 for validation, and four test sets."""
    sizes = dict(zip(MULTI30K_TESTS.values(), test_sizes, strict=True))
    made = write_user_corpus(folder.parent / "made", val=11, **sizes)
    folder.mkdir(parents=True, exist_ok=True)
    for path in made.iterdir():
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def kill_at(pattern: str, count: int, work: Callable[[], object]) -> None:
    """Do ``work`` in a process that is killed just before its ``count``-th open or rename that matches ``pattern``."""

    def child() -> None:
        sys.addaudithook(signal_at(Point(pattern, count)))
        work()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def quiet(line: str) -> None:
    """An echo that prints nothing."""
