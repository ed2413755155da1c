"""Speed of translating, in words per second, before and after ``normplugins fold``.

    python benchmarks/decoding.py BIN_DIR ln=runs/multi30k/ln/seed1/checkpoint_averaged.pt bn=... [--repeats 7]

Each checkpoint translates the first sentences of the test set; one with norms that can be folded does so folded too,
and must find the same translations. One thread, whose CPU time is counted, so that what else the machine does counts as
little as can be; the models take turns, in an order that changes. It prints a table and adds its rows to
results/benchmarks.csv: there median, 20th and 80th percentile are of all the sentences, in ms.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import GenerationConfig

import normplugins
from normplugins.bench.results import CSV, add_rows, here
from normplugins.runs.fold_checkpoint import fold_checkpoint
from normplugins.utils.errors import UserError

RESULTS = Path(__file__).parents[1] / "results" / CSV
MAX_LENGTH = 60  # subwords; none of the test set's sentences needs more


class Translator:
    """A checkpoint's model with beam search, and the batches that it translates."""

    def __init__(self, checkpoint: Path, bin_dir: Path, options: argparse.Namespace) -> None:
        (self.model,), _, self.task = checkpoint_utils.load_model_ensemble_and_task(
            [str(checkpoint)], arg_overrides={"data": str(bin_dir)}
        )
        self.model.eval()
        self.task.load_dataset("test")
        search = GenerationConfig(beam=options.beam, max_len_a=0, max_len_b=MAX_LENGTH)
        self.generator = self.task.build_generator([self.model], search)
        data = self.task.dataset("test")
        starts = range(0, options.sentences, options.batch_size)
        self.batches = [
            data.collater([data[i] for i in range(s, min(s + options.batch_size, len(data)))]) for s in starts
        ]

    def translate(self) -> tuple[float, list[str]]:
        """Seconds of CPU time, and the translations in words."""
        start = time.process_time()
        found = [self.task.inference_step(self.generator, [self.model], batch) for batch in self.batches]
        seconds = time.process_time() - start
        best = [hypotheses[0]["tokens"] for batch in found for hypotheses in batch]
        return seconds, [self.task.target_dictionary.string(tokens, "subword_nmt") for tokens in best]


def with_folded(named: list[str], folder: Path) -> dict[str, Path]:
    """Provider -> checkpoint: those of the command line, and after each what it folds into, where it does."""
    found = {}
    for name, _, path in (argument.partition("=") for argument in named):
        found[name] = Path(path)
        with contextlib.suppress(UserError), contextlib.redirect_stdout(io.StringIO()):
            found[f"{name} folded"] = fold_checkpoint(Path(path), folder / f"{name}.pt")
    return found


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", type=Path, help="the binarised corpus")
    parser.add_argument("named", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=25)
    parser.add_argument("--beam", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    normplugins.register()
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        paths = with_folded(options.named, Path(scratch))
        translators = {name: Translator(path, options.bin_dir, options) for name, path in paths.items()}
    words, seconds = {}, {name: [] for name in translators}
    first = {name: translator.translate()[1] for name, translator in translators.items()}  # a warm-up
    for name, lines in first.items():
        assert lines == first[name.removesuffix(" folded")], f"{name} translates otherwise"
        words[name] = sum(len(line.split()) for line in lines)
    for repeat in range(options.repeats):
        order = list(translators)
        for name in order[repeat % len(order) :] + order[: repeat % len(order)]:
            seconds[name].append(translators[name].translate()[0])
    write(options, translators, words, seconds)


def write(
    options: argparse.Namespace, translators: dict[str, Any], words: dict[str, int], seconds: dict[str, list[float]]
) -> None:
    """Print a row for each model and add it to the results."""
    where = here(options.repeats, threads=1)
    for name, each in seconds.items():
        model, fifths, median = translators[name].model, statistics.quantiles(each, n=5), statistics.median(each)
        cfg, speed = model.decoder.cfg, words[name] / median
        size = f"{cfg.encoder_layers}+{cfg.decoder_layers} layers C={cfg.decoder_embed_dim}"
        search = f"{options.sentences} sentences B={options.batch_size} beam={options.beam}"
        case = f"{size} {search}, CPU time: {words[name]:,} words, {speed:,.0f} words/s"
        times = {"median_ms": median, "p20_ms": fifths[0], "p80_ms": fifths[-1]}
        found = {key: round(1000 * value, 1) for key, value in times.items()} | {"peak_mb": ""}
        add_rows(RESULTS, [{"benchmark": "decoding", "provider": name, "case": case} | found | where])
        pairs = zip(seconds[name.removesuffix(" folded")], each, strict=True)
        faster = statistics.median(before / after for before, after in pairs)
        print(f"{name:20}  {case}  x {faster:.3f}")


if __name__ == "__main__":
    main()
