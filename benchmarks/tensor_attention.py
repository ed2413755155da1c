"""Time and memory of tensor attention's contraction order against the plain einsum, forward and backward.

    python benchmarks/tensor_attention.py [--repeats 7] [--threads 2]

Sizes: the paper's segment, batch and widths on PTB and WikiText-103, as published and causal, float32. Each case runs
in a process of its own. Peak memory is what it adds to the inputs and their gradients. It prints a table and adds its
rows to results/benchmarks.csv.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from normplugins.bench.results import CSV, add_rows, here
from normplugins.models.tensor_attention import contract, plain

RESULTS = Path(__file__).parents[1] / "results" / CSV
SIZES = {"ptb": (32, 120), "wikitext103": (80, 60)}  # segment, batch
HEAD_DIM, DIM = 40, 256
PROVIDERS = {"plain einsum": plain, "normplugins": contract}


def measure(provider: str, corpus: str, causal: bool, repeats: int) -> dict[str, float]:
    """Median and 20th and 80th percentile of forward and backward in ms, and peak memory in MB, of this process."""
    segment, batch = SIZES[corpus]
    torch.manual_seed(0)
    inputs = {name: torch.randn(batch, segment, HEAD_DIM) for name in "abkv"}
    inputs |= {"r": torch.randn(segment, HEAD_DIM), "weight": torch.randn(DIM, segment, segment)}
    for tensor in inputs.values():
        tensor.requires_grad_().grad = torch.zeros_like(tensor)
    g = torch.ones(batch, segment, DIM)
    torch.mm(torch.ones(512, 512), torch.ones(512, 512))  # what the libraries keep for themselves
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        PROVIDERS[provider](**inputs, causal=causal).backward(g)
        seconds.append(time.perf_counter() - start)
    fifths = statistics.quantiles(seconds[2:], n=5)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    times = {"median_ms": statistics.median(seconds[2:]), "p20_ms": fifths[0], "p80_ms": fifths[-1]}
    return {name: round(1000 * value, 1) for name, value in times.items()} | {"peak_mb": round(peak)}


def main() -> None:
    """Measure every case in a process of its own, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        provider, corpus, causal = options.case
        print(json.dumps(measure(provider, corpus, causal == "causal", options.repeats)))
        return
    where = here(options.repeats, options.threads)
    for corpus, (segment, batch) in SIZES.items():
        for causal in ("as published", "causal"):
            for provider in PROVIDERS:
                case = [provider, corpus, causal]
                limits = ["--repeats", str(options.repeats), "--threads", str(options.threads)]
                command = [sys.executable, __file__, *limits, "--case", *case]
                found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
                name = f"{corpus} {causal} L={segment} B={batch} d_head={HEAD_DIM} C={DIM} forward+backward"
                row = {"benchmark": "tensor_attention", "provider": provider, "case": name}
                add_rows(RESULTS, [row | found | where])
                print(f"{provider:13}  {name:66}  {found['median_ms']:8.1f} ms  {found['peak_mb']:6,.0f} MB")


if __name__ == "__main__":
    main()
