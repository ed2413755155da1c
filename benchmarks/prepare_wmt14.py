"""Rate and peak memory of preparing WMT14, on archives of its layout made of Multi30k, and what learning BPE takes.

Each line holds two captions, which makes it as long as WMT14's lines (about 25 words a side). Captions come again and
again with every tenth word of theirs varied by a number of letters that no other has, so that there are ever more types
of words, as there are in real text. Validation is Multi30k's; the test set is newstest2014.

    python benchmarks/prepare_wmt14.py --pairs 40000 160000 --types 100000 200000 [--folder DIR]

Rates are given per second and per second of CPU time, summed over processes: the second does not depend on what else
the machine did. It prints what it measured and adds it to results/prepare_wmt14.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from normplugins.bench.results import add_record
from normplugins.runs.record import git_commit, hardware, now, versions
from normplugins.utils.download import find_in_mirror
from normplugins.utils.files import read_lines
from normplugins.utils.worker_processes import available_cores

RESULTS = Path(__file__).parents[1] / "results" / "prepare_wmt14.json"
SHARES = {  # of WMT14's training pairs; Europarl, Common Crawl, News Commentary: one of the two is read
    "training-parallel-europarl-v7.tgz": ("training/europarl-v7.de-en", 0.43),
    "training-parallel-commoncrawl.tgz": ("commoncrawl.de-en", 0.53),
    "training-parallel-nc-v9.tgz": ("training/news-commentary-v9.de-en", 0.04),  # corpus=wmt14_fairseq
    "training-parallel-nc-v12.tgz": ("training/news-commentary-v12.de-en", 0.04),  # corpus=wmt14
}
WMT14_PAIRS = 4_500_000
# The command itself, each line that it prints with the time, and the CPU time of it and of the workers that have ended.
PREPARE = """
import builtins, json, os, sys, time
say = print
def stamped(*line, **to):
    say(*line, **to) if to else say(json.dumps([*line, time.time(), sum(os.times()[:4])]), flush=True)
builtins.print = stamped
if workers := int(sys.argv[2]):
    os.sched_getaffinity = lambda _: range(workers)
from normplugins.cli import main
sys.exit(main(["prepare", "wmt14", "data_dir=" + sys.argv[1], *sys.argv[3:]]))
"""
LEARN = """
import sys
from pathlib import Path
from normplugins.corpora.subwords import learn_bpe
types, merges = int(sys.argv[2]), int(sys.argv[3])
words = Path(sys.argv[1]).read_text(encoding="utf-8").split()
counts = {word: max(1, round((types / 2 / rank) ** 1.3)) for rank, word in enumerate(words, 1)}
learn_bpe(merges, counts, Path(sys.argv[1]).with_name("codes"))
"""


def captions(language: str, split: str) -> list[str]:
    path = find_in_mirror(f"{split}.{language}.gz", "multi30k")
    if path is None:
        sys.exit(f"no {split}.{language}.gz of Multi30k: set NORMPLUGINS_MIRROR to a folder that has it")
    return read_lines(path)


def lines(language: str) -> Iterator[str]:
    """Yield lines without end; the n-th of one language translates the n-th of the other."""
    text = captions(language, "train")
    turn = 0
    while True:
        for n in range(0, len(text) - 1, 2):
            words = f"{text[n]} {text[n + 1]}".split()
            if turn:
                words[turn % len(words)] += letters(turn * len(text) + n)
            yield " ".join(words)
        turn += 1


def letters(number: int) -> str:
    made = ""
    while number:
        number, digit = divmod(number, 20)
        made += "bcdfghjklmnpqrstvwxz"[digit]
    return made


def archive(path: Path, members: dict[str, Iterator[str]]) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as packed:
        for name, content in members.items():
            data = "".join(f"{line}\n" for line in content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))


def make(raw: Path, pairs: int) -> None:
    """Write the archives of both preparations."""
    raw.mkdir(parents=True)
    sides = {language: lines(language) for language in ("de", "en")}
    for name, (stem, share) in SHARES.items():
        count = round(pairs * share)
        archive(raw / name, {f"{stem}.{language}": islice(side, count) for language, side in sides.items()})
    archive(raw / "dev.tgz", {f"dev/newstest2013.{s}": iter(captions(s, "val")) for s in ("de", "en")})
    members = {}
    for language, kind in (("en", "src"), ("de", "ref")):
        path = find_in_mirror(f"newstest2014.{language}", "wmt14")
        if path is None:
            sys.exit(f"no newstest2014.{language}: put it into the mirror, a plain line a segment")
        segments = (f'<seg id="{n}">{line}</seg>' for n, line in enumerate(read_lines(path), 1))
        members[f"test-full/newstest2014-deen-{kind}.{language}.sgm"] = segments
    archive(raw / "test-full.tgz", members)


def memory(root: int) -> tuple[float, float]:
    """Return the memory of a process and all below it in MB: resident, and with shared pages counted once."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has just ended
                continue
    tree, before = {root}, 0
    while len(tree) != before:
        before = len(tree)
        tree |= {process for process, parent in parents.items() if parent in tree}
    found = {"Rss": 0, "Pss": 0}
    for process in tree:
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            key, _, value = line.partition(":")
            if key in found:
                found[key] += int(value.split()[0])
    return found["Rss"] / 1024, found["Pss"] / 1024


def watch(arguments: list[str]) -> tuple[dict[str, Any], str]:
    """Run Python in a process of its own; return seconds, CPU seconds and MB, and what it printed."""
    before, start = os.times(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen([sys.executable, "-c", *arguments], stdout=output)
        peak = peak_once = 0.0
        while child.poll() is None:
            resident, once = memory(child.pid)
            peak, peak_once = max(peak, resident), max(peak_once, once)
            time.sleep(0.2)
        if child.returncode:
            sys.exit(child.returncode)
        output.seek(0)
        said = output.read()
    used = os.times()
    cpu = used.children_user + used.children_system - before.children_user - before.children_system
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_rss_mb": round(peak),
        "peak_pss_mb": round(peak_once),
    }, said


def stages(said: str, pairs: int) -> dict[str, dict[str, float]]:
    marks = [json.loads(line) for line in said.splitlines()]
    starts = {"tokenize": "tokenizing", "learn": "learning", "split": "splitting", "binarize": "binarizing"}
    points = [next(mark for mark in marks if mark[0].startswith(f"wmt14: {word}")) for word in starts.values()]
    points.append(next(mark for mark in marks if mark[1] > points[-1][1]))
    made = {}
    for name, begin, end in zip(starts, points, points[1:], strict=False):
        seconds, cpu = end[1] - begin[1], end[2] - begin[2]
        made[name] = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
        made[name] |= {"pairs_per_second": round(pairs / seconds), "pairs_per_cpu_second": round(pairs / cpu)}
    return made


def measure(pairs: int, workers: int, settings: list[str], folder: Path | None) -> dict[str, Any]:
    """Prepare so many pairs; with 0 workers, by all cores."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        make(Path(root) / "wmt14" / "raw", pairs)
        mirror = os.environ.pop("NORMPLUGINS_MIRROR", None)
        measured, said = watch([PREPARE, root, str(workers), *settings])
        if mirror:
            os.environ["NORMPLUGINS_MIRROR"] = mirror
        (path,) = (Path(root) / "wmt14").glob("*/corpus.json")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        written = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
    times = stages(said, pairs)
    each = {name: time["cpu_seconds"] / pairs for name, time in times.items() if name != "learn"}
    return {
        "what": "prepare wmt14, Multi30k's captions in pairs, words varied, in WMT14's archives",
        "pairs": pairs,
        "settings": settings,
        "words": {key: value for key, value in manifest["counts"]["train"].items() if key != "pairs"},
        "pairs_kept": manifest["counts"]["train"]["pairs"],
        "test_pairs": manifest["counts"]["test"]["pairs"],
        "written_mb": round(written / 1e6),
        "workers": workers or available_cores(),
        **measured,
        "stages": times,
        "cpu_minutes_for_4_5_million_but_learning": round(sum(each.values()) * WMT14_PAIRS / 60),
    }


def measure_learning(types: int, merges: int, folder: Path | None) -> dict[str, Any]:
    """Learn BPE from so many made-up words with Zipf's counts, half of them seen once, as in real text."""
    known = sorted({word for language in ("de", "en") for line in captions(language, "train") for word in line.split()})
    long = [word for word in known if len(word) > 3]
    choose, words = random.Random(1), dict.fromkeys(known)
    while len(words) < types:
        one, other = choose.choice(long), choose.choice(long)
        words[one[: choose.randrange(2, len(one) + 1)] + other[choose.randrange(len(other) - 1) :].lower()] = None
    with tempfile.TemporaryDirectory(dir=folder) as root:
        path = Path(root) / "words"
        path.write_text("\n".join(list(words)[:types]), encoding="utf-8")
        measured, _ = watch([LEARN, str(path), str(types), str(merges)])
    return {"what": "learn BPE from counted words", "types": types, "merges": merges, **measured}


def main() -> None:
    """Measure all that was asked for, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="*", default=[])
    parser.add_argument("--workers", type=int, default=0, help="processes to share the work out to; 0: one a core")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the command: corpus=wmt14_fairseq")
    parser.add_argument("--types", type=int, nargs="*", default=[], help="sizes of vocabulary to learn BPE from")
    parser.add_argument("--merges", type=int, default=32000)
    parser.add_argument("--folder", type=Path, help="where the temporary folders go")
    options = parser.parse_args()
    around = {"commit": git_commit(), "hardware": hardware(cpu=True, processes=1), "versions": versions()}
    jobs = [lambda n=n: measure(n, options.workers, options.set, options.folder) for n in options.pairs]
    jobs += [lambda n=n: measure_learning(n, options.merges, options.folder) for n in options.types]
    for job in jobs:
        load = os.getloadavg()[0]
        row = job() | {"load_before": round(load, 1), "when": now(), **around}
        add_record(RESULTS, row)


if __name__ == "__main__":
    main()
