"""Rate and peak memory of preparing WikiText-103, on an archive of its layout and size made of WikiText-2.

The archive holds WikiText-2's training text 50 times (104 million tokens). In every copy but the first, WikiText-2's
4,785 rarest words get the copy's number, which brings the vocabulary to WikiText-103's 267,735 types and more: a plain
repetition would keep it at 33,278, and flatter the memory.

    python benchmarks/prepare_wikitext103.py [--copies 50] [--wikitext2 wikitext-2-v1.zip] [--folder DIR]

It prints what it measured and adds it to results/prepare_wikitext103.json. The temporary folder takes about 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

from normplugins.bench.results import add_record
from normplugins.runs.record import git_commit, hardware, now, versions
from normplugins.utils.download import find_in_mirror

RESULTS = Path(__file__).parents[1] / "results" / "prepare_wikitext103.json"
TYPES = 267_735  # of WikiText-103
MARK = b"\0"
CHILD = """
import sys
from pathlib import Path
from normplugins.corpora import corpus_config, prepare
prepare(corpus_config({"name": "wikitext103", "verify": False}), Path(sys.argv[1]))
"""


def make_archive(wikitext2: Path, path: Path, copies: int) -> None:
    """Write an archive of WikiText-103's layout."""
    path.parent.mkdir(parents=True)
    with (
        zipfile.ZipFile(wikitext2) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made,
    ):
        for split in ("valid", "test"):
            made.writestr(f"wikitext-103/wiki.{split}.tokens", source.read(f"wikitext-2/wiki.{split}.tokens"))
        lines = [line.split(b" ") for line in source.read("wikitext-2/wiki.train.tokens").split(b"\n")]
        counts = Counter(word for words in lines for word in words if word)
        wanted = -(-(TYPES - len(counts)) // max(1, copies - 1))
        rare = {word for word, _ in counts.most_common()[-wanted:]}
        text = b"\n".join(b" ".join(word + MARK if word in rare else word for word in words) for words in lines)
        with made.open("wikitext-103/wiki.train.tokens", "w", force_zip64=True) as train:
            for copy in range(copies):
                train.write(text.replace(MARK, b"~%d" % copy if copy else b""))


def memory(root: int) -> dict[int, float]:
    """Return the highest resident memory so far of a process and of each below it, in MB."""
    parents, peaks = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = dict(line.split(":\t", 1) for line in (entry / "status").read_text().splitlines())
            except (OSError, ValueError):  # it has just ended
                continue
            parents[int(entry.name)] = int(status["PPid"])
            peaks[int(entry.name)] = int(status.get("VmHWM", "0 kB").split()[0]) / 1024
    tree, before = {root}, 0
    while len(tree) != before:
        before = len(tree)
        tree |= {process for process, parent in parents.items() if parent in tree}
    return {process: peaks[process] for process in tree if process in peaks}


def measure(root: Path) -> dict[str, float | int]:
    """Prepare in a process of its own; return seconds, MB and processes.

    The memory is the sum of every process's own peak: what they hold at one time is not more.
    """
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(root)], env=os.environ | {"NORMPLUGINS_MIRROR": ""})
    peaks: dict[int, float] = {}
    while child.poll() is None:
        for process, peak in memory(child.pid).items():
            peaks[process] = max(peak, peaks.get(process, 0.0))
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    if child.returncode:
        sys.exit(child.returncode)
    return {"seconds": round(seconds, 1), "peak_mb": round(sum(peaks.values())), "processes": len(peaks)}


def main() -> None:
    """Make the archive, prepare it, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--wikitext2", type=Path, default=find_in_mirror("wikitext-2-v1.zip", "wikitext2"))
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    options = parser.parse_args()
    wikitext2 = options.wikitext2 or Path("data/wikitext2/raw") / "wikitext-2-v1.zip"
    if not wikitext2.is_file():
        parser.error(f"no {wikitext2}: prepare wikitext2 first, or name its archive with --wikitext2")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        archive = root / "wikitext103" / "raw" / "wikitext-103-v1.zip"
        make_archive(wikitext2, archive, options.copies)
        size = archive.stat().st_size
        measured = measure(root)
        manifest = json.loads((root / "wikitext103" / "word" / "corpus.json").read_text(encoding="utf-8"))
    tokens = sum(counts["tokens"] for counts in manifest["counts"].values())
    row = {
        "text": f"WikiText-2's training text {options.copies} times, rare words varied, in WikiText-103's layout",
        "train_tokens": manifest["counts"]["train"]["tokens"],
        "tokens": tokens,
        "types": manifest["types"],
        "archive_mb": round(size / 1e6),
        **measured,
        "tokens_per_second": round(tokens / measured["seconds"]),
        "nice": os.nice(0),
        "when": now(),
        "commit": git_commit(),
        "hardware": hardware(cpu=True, processes=1),
        "versions": versions(),
    }
    add_record(RESULTS, row)


if __name__ == "__main__":
    main()
