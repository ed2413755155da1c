"""Corpora prepared end to end: output, skipped stages, and what remains after a crash."""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
from pathlib import Path

import pytest
from fairseq import options
from fairseq.data import Dictionary, data_utils
from fairseq_cli import preprocess

from normplugins.corpora import prepare, remove_subwords
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines
from normplugins.utils.locks import hold_lock
from normplugins.utils.worker_processes import call_in_subprocess
from tests.helpers.corpora import config, custom, kill_at, quiet, text, tree, write_user_corpus


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normplugins.corpora.split_writer.CHUNK", 10)


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_custom_gives_what_fairseq_translates_and_scores(tmp_path: Path, kind: str) -> None:
    prepared = prepare(
        custom(write_user_corpus(tmp_path / "c"), subword=kind, subword_size=45), tmp_path / "data", quiet
    )
    folder, manifest = prepared.folder, prepared.manifest
    words = Dictionary.load(str(prepared.bin_dir / "dict.en.txt"))
    assert (manifest["dictionary_types"], manifest["subword"]["kind"]) == (len(words), kind)
    assert (len(read_lines(prepared.reference_text)), len(read_lines(prepared.reference_tokens))) == (12, 12)
    # a perfect translation scores perfectly, in tokens and as text
    output = [remove_subwords(line, kind) for line in read_lines(folder / "subword" / "test.en")]
    assert output == read_lines(folder / "tokenized" / "test.en")
    assert prepared.to_tokens(output) == read_lines(prepared.reference_tokens)
    assert prepared.to_text(output) == [line.lower() for line in read_lines(prepared.reference_text)]
    assert json.loads((folder / "corpus.json").read_text(encoding="utf-8")) == manifest
    assert manifest["longest"].keys() == {"train", "valid", "test"}
    for split, longest in manifest["longest"].items():
        for side, language in (("source", "de"), ("target", "en")):
            stored = data_utils.load_indexed_dataset(str(prepared.bin_dir / f"{split}.de-en.{language}"), words)
            assert longest[side] == max(stored.sizes)


def test_fairseqs_own_preprocess_writes_the_same_files(tmp_path: Path) -> None:
    prepared = prepare(custom(write_user_corpus(tmp_path / "c")), tmp_path / "data", quiet)
    languages = ["--source-lang", "de", "--target-lang", "en"]
    arguments = [*languages, "--joined-dictionary", "--destdir", str(tmp_path / "bin")]
    for split in ("train", "valid", "test"):
        arguments += [f"--{split}pref", str(prepared.folder / "subword" / split)]
    preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    theirs = {name: data for name, data in tree(tmp_path / "bin").items() if name != "preprocess.log"}
    assert len(theirs) == 14
    assert {name: data for name, data in tree(prepared.bin_dir).items() if name != "stage.json"} == theirs


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
def test_same_bytes_whatever_the_workers_and_the_split_has_no_leak(tmp_path: Path) -> None:
    settings = custom(write_user_corpus(tmp_path / "c", 300))
    alone = prepare(settings, tmp_path / "one", quiet, workers=1)
    shared = prepare(settings, tmp_path / "three", quiet, workers=3)
    assert tree(alone.folder) == tree(shared.folder)
    texts = alone.folder / "tokenized"
    held_out = {*read_lines(texts / "valid.de"), *read_lines(texts / "test.de")}
    assert len(held_out) == 22
    assert not held_out & set(read_lines(texts / "train.de"))
    other = prepare(custom(tmp_path / "c", seed=2), tmp_path / "one", quiet)
    assert read_lines(other.reference_text) != read_lines(alone.reference_text)


def test_bpe_is_learned_from_words_that_are_there_often_enough(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        for language in ("de", "en"):
            (folder / f"{split}.{language}").write_bytes(text(["abab abab", "xyxyxy"]))
    files: dict[str, object] = {split: str(folder / split) for split in ("train", "valid", "test")}
    files |= {"valid_size": None, "test_size": None}

    def codes(least: int) -> str:
        prepared = prepare(custom(folder, **files, subword_min_count=least), tmp_path / "data", quiet)
        return "".join(read_lines(prepared.folder / "subword" / "codes")[1:])

    assert ("x" in codes(2), "x" in codes(3), "a" in codes(3)) == (True, False, True)  # in both sides together
    with pytest.raises(UserError, match="no word of two letters"):
        codes(5)


def test_demo_is_the_same_everywhere_and_well_formed(tmp_path: Path) -> None:
    sizes = {"train_size": 400, "valid_size": 30, "test_size": 30, "subword_size": 50}
    prepared = prepare(config("demo", **sizes), tmp_path, quiet)
    digest = prepared.manifest["sha256"]["tokenized/train.bb"]
    assert digest == DEMO_TRAIN_BB
    source = read_lines(prepared.folder / "tokenized" / "train.aa")
    lengths = [len(line.split()) for line in source]
    assert (min(lengths) >= 4, max(lengths) <= 30, len(set(lengths)) > 12) == (True, True, True)
    assert len({*source, *read_lines(prepared.folder / "tokenized" / "test.aa")}) == 430
    other = prepare(config("demo", **sizes, seed=2), tmp_path, quiet)
    assert other.manifest["sha256"]["tokenized/train.bb"] != digest


# Recorded once; it holds on every Python, since the generator draws with random() alone.
DEMO_TRAIN_BB = "2967ec3d817e87f4e11d8449f403ccb90df3888e62e7fbc7c2cabf3ae5338fb1"


def test_finished_stages_are_kept_and_changes_redo_them(tmp_path: Path) -> None:
    folder, root, said = write_user_corpus(tmp_path / "c"), tmp_path / "data", []
    first = prepare(custom(folder), root, quiet)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    again = prepare(custom(folder), root, said.append)
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before
    assert again == first
    assert not any("izing" in line for line in said)
    # another setting goes into another folder
    assert prepare(custom(folder, subword_size=41), root, quiet).folder != first.folder
    # a stage that is damaged is done again, and those before it are not
    whole = tree(first.folder)
    (first.bin_dir / "train.de-en.de.bin").write_bytes(b"")
    said.clear()
    prepare(custom(folder), root, said.append)
    assert [line for line in said if "izing" in line] == ["custom: binarizing"]
    assert tree(first.folder) == whole
    # other words in the input file redo everything in place
    changed = (folder / "train.de").read_bytes().replace(b"Haus", b"Heim").replace(b"haus", b"heim")
    (folder / "train.de").write_bytes(changed)
    redone = prepare(custom(folder), root, quiet)
    assert redone.folder == first.folder
    assert "heim" in (redone.folder / "tokenized" / "train.de").read_text(encoding="utf-8")
    assert redone.manifest["inputs"] != first.manifest["inputs"]


@pytest.mark.parametrize("limit", [700, 3000, 4300])  # bytes: less than a file of bin, tokenized and subword
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(tmp_path: Path, limit: int) -> None:
    folder, root = write_user_corpus(tmp_path / "c"), tmp_path / "data"
    whole = tree(prepare(custom(folder), tmp_path / "fresh", quiet).folder)
    if limit == 700:
        shutil.rmtree(prepare(custom(folder), root, quiet).bin_dir)

    def prepare_on_a_full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        prepare(custom(folder), root, quiet)

    with pytest.raises(UserError, match=r"^no space left to write .*: free some") as raised:
        call_in_subprocess(prepare_on_a_full_disk)
    assert "\n" not in str(raised.value)
    stages = [path for path in (root / "custom").rglob("*") if path.is_dir() and path.parent.name.startswith("de-en")]
    assert all((stage / "stage.json").is_file() for stage in stages)
    assert tree(prepare(custom(folder), root, quiet).folder) == whole


POINTS = {
    "the third chunk of tokens": (r"os.rename .*\.tokenized.*progress", 8, "resuming after 30 pairs"),
    "all tokens": (r"os.rename \S*\.tokenized\S*tmp \S*/tokenized", 1, "resuming after 98 pairs"),
    "learning": (r"open .*\.codes", 1, ""),
    "the second chunk of subwords": (r"os.rename .*\.subword.*progress", 3, "resuming after 10 pairs"),
    "binarizing": (r"open .*test\.de-en\.de\.idx", 1, "binarizing"),
    "the manifest": (r"os.rename .*corpus\.json", 1, ""),
}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.slow
def test_killed_in_any_stage_the_same_command_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    settings = custom(write_user_corpus(tmp_path / "c"))
    whole = tree(prepare(settings, tmp_path / "fresh", quiet).folder)
    for point, (event, count, told) in POINTS.items():
        root, said = tmp_path / point.replace(" ", "-"), list[str]()
        kill_at(event, count, lambda root=root: prepare(settings, root, quiet, workers=2))
        prepared = prepare(settings, root, said.append, workers=2)
        assert tree(prepared.folder) == whole, point
        assert told in "\n".join(said), point


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
def test_what_a_killed_call_left_is_not_mixed_with_other_text(tmp_path: Path) -> None:
    folder, root, said = write_user_corpus(tmp_path / "c"), tmp_path / "data", list[str]()
    kill_at(*POINTS["the third chunk of tokens"][:2], lambda: prepare(custom(folder), root, quiet))
    (folder / "train.de").write_bytes((folder / "train.de").read_bytes().replace(b"Haus", b"Heim"))
    prepared = prepare(custom(folder), root, said.append)
    assert "resuming" not in "\n".join(said)
    assert tree(prepared.folder) == tree(prepare(custom(folder), tmp_path / "fresh", quiet).folder)


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    folder, root, said = write_user_corpus(tmp_path / "c"), tmp_path / "data", list[str]()
    context = multiprocessing.get_context("fork")
    held, let_go = context.Event(), context.Event()

    def hold() -> None:
        with hold_lock(root / "custom" / ".lock", quiet):
            held.set()
            let_go.wait()

    def echo(line: str) -> None:
        said.append(line)
        if "waiting" in line:
            let_go.set()

    first = context.Process(target=hold)
    first.start()
    held.wait()
    prepare(custom(folder), root, echo)
    first.join()
    assert said[0].startswith(f"waiting for process {first.pid} on ")
    assert said[0].endswith(f", which prepares {root / 'custom'}")
