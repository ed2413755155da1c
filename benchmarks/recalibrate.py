"""Running statistics of finished translation runs: averaged, or measured anew on 10, 100 or an epoch's batches.

For each run, the same averaged weights are scored with each kind of statistics, and the last checkpoint alone beside
them: BLEU of the test set as in the run's record, and loss and perplexity of the validation set. A paired bootstrap
(sacrebleu, 1,000 resamples) compares each translation with that by averaged statistics.

    python benchmarks/recalibrate.py runs/multi30k/bn/seed1 runs/multi30k/pn/seed1

It prints a table and writes results/recalibrate/<experiment>/<variant>/seed<k>.json. No run's folder is changed. What
is done is kept in --work: the same command after a kill goes on from there.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq import checkpoint_utils, utils
from omegaconf import DictConfig, OmegaConf
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

import normplugins
from normplugins.corpora import PreparedCorpus, corpus_config, prepare
from normplugins.evaluation.bleu import Search, as_metrics, score, translate
from normplugins.evaluation.recalibrate import measure, norms_with_statistics, recalibrated
from normplugins.runs import record
from normplugins.training import checkpoints
from normplugins.utils.files import read_lines

RESULTS = Path(__file__).parents[1] / "results" / "recalibrate"
EPOCH = 1_000_000  # more batches than an epoch has
LAST, BASELINE = "last checkpoint", "averaged"
MEASURED = {
    "measured on 100 batches": (100, False),
    "measured on 100 batches, dropout on": (100, True),
    "measured on 10 batches": (10, False),
    "measured on an epoch": (EPOCH, False),
}
ORDER = (BASELINE, *list(MEASURED)[:1], LAST, *list(MEASURED)[1:])


def make(name: str, config: DictConfig, averaged: Path, bin_dir: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint with one kind of statistics, and on how many batches and tokens these were measured."""
    batches, dropout = MEASURED[name]
    OmegaConf.update(config, "evaluate.recalibrate", batches, force_add=True)
    if not dropout:
        path = recalibrated(config, averaged, bin_dir, folder)
        return path, checkpoints.load(path)["extra_state"]["recalibrated"]
    path = folder / "with_dropout.pt"
    if not path.exists():
        statistics, seen = measure(config, averaged, bin_dir, dropout=True)
        state = checkpoints.load(averaged)
        state["model"].update(statistics)
        checkpoints.write(state | {"extra_state": {"recalibrated": seen}}, path)
    return path, checkpoints.load(path)["extra_state"]["recalibrated"]


@torch.no_grad()
def validation(checkpoint: Path, config: DictConfig, bin_dir: Path) -> dict[str, float]:
    """Loss (bits, with label smoothing) and perplexity of the validation set, as training measures them."""
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(bin_dir)}
    )
    criterion = task.build_criterion(cfg.criterion)
    task.load_dataset("valid")
    batches = task.get_batch_iterator(
        dataset=task.dataset("valid"),
        max_tokens=config.dataset.max_tokens,
        max_positions=utils.resolve_max_positions(task.max_positions(), model.max_positions()),
    ).next_epoch_itr(shuffle=False)
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    for sample in batches:
        _, _, logged = criterion(model, sample)
        sums += torch.tensor([float(logged["loss"]), float(logged["nll_loss"]), float(logged["ntokens"])])
    loss, nll = (sums[:2] / sums[2] / torch.tensor(2.0).log()).tolist()
    return {"loss": loss, "ppl": 2**nll}


class Compared:
    """A run, and what was measured of it so far."""

    def __init__(self, directory: Path, work: Path) -> None:
        config = OmegaConf.load(directory / "config.yaml")
        assert isinstance(config, DictConfig)
        config.common.cpu = True
        corpus = prepare(corpus_config(config.corpus), Path(config.data_dir))
        assert isinstance(corpus, PreparedCorpus)
        self.directory, self.config, self.corpus = directory, config, corpus
        self.place = Path(config.experiment) / config.variant / f"seed{config.seed}"
        self.work = work / self.place
        self.names = [name for name in ORDER if name not in MEASURED or norms_with_statistics(config)]
        self.averaged = directory / checkpoints.AVERAGED

    def measure(self, name: str, translated: bool) -> None:
        """Measure the validation loss with one kind of statistics, and then the BLEU, each unless that is done."""
        done = self.done(name)
        if done is not None and ("lines" in done or not translated):
            return
        path, seen = self.directory / checkpoints.LAST if name == LAST else self.averaged, {}
        if name in MEASURED:
            (self.work / name).mkdir(parents=True, exist_ok=True)
            path, seen = make(name, self.config, self.averaged, self.corpus.bin_dir, self.work / name)
        if done is None:
            counts = {key: seen[key] for key in ("batches", "tokens") if key in seen}
            done = {"row": {**counts, "valid": validation(path, self.config, self.corpus.bin_dir)}}
            print(f"{self.place} {name}: valid {done['row']['valid']['loss']:.3f}", flush=True)
        if translated:
            if name == BASELINE:  # the run's own translation
                done["lines"] = read_lines(self.directory / "test.hypotheses")
            else:
                search = Search(**{field.name: self.config.evaluate[field.name] for field in fields(Search)})
                done["lines"] = translate(path, self.corpus, search, cpu=True)
            done["row"]["metrics"] = as_metrics(score(done["lines"], self.corpus)["test"])
            print(f"{self.place} {name}: BLEU {done['row']['metrics']['bleu']['score']:.2f}", flush=True)
        record.write(self.work / f"{name}.json", done)

    def done(self, name: str) -> dict[str, Any] | None:
        """What was measured with one kind of statistics; None where nothing was yet."""
        return record.read(self.work / f"{name}.json")

    def record(self) -> dict[str, Any]:
        """The record of all that was measured."""
        found = {name: done for name in self.names if (done := self.done(name))}
        rows = {name: done["row"] for name, done in found.items()}
        tokens = {name: self.corpus.to_tokens(done["lines"]) for name, done in found.items() if "lines" in done}
        for name, test in bootstrap(tokens, read_lines(self.corpus.reference_tokens)).items():
            rows[name]["bleu_against_averaged"] = test
        return {
            "experiment": self.config.experiment,
            "variant": self.config.variant,
            "norm": self.config.norm.name,
            "seed": self.config.seed,
            "averaged": checkpoints.averaged_from(self.averaged),
            "dropout": self.config.model.dropout,
            "statistics": rows,
            "corpus": {"name": self.corpus.manifest["corpus"], "sha256": self.corpus.manifest["sha256"]},
            "git_commit": record.git_commit(),
            "hardware": record.hardware(cpu=True, processes=1),
            "versions": record.versions(),
            "date": record.now(),
        }


def bootstrap(systems: dict[str, list[str]], references: list[str]) -> dict[str, dict[str, float]]:
    """sacrebleu's paired bootstrap of each system against ``BASELINE``: the difference in BLEU and its p-value."""
    named = sorted(systems.items(), key=lambda item: item[0] != BASELINE)
    metric = BLEU(tokenize="none", force=True)
    _, scores = PairedTest(named, {"BLEU": metric}, [references], test_type="bs", n_samples=1000)()
    baseline, *others = scores["BLEU"]
    return {
        name: {"difference": other.score - baseline.score, "p_value": other.p_value}
        for (name, _), other in zip(named[1:], others, strict=True)
    }


def table(records: list[dict[str, Any]]) -> str:
    """A row for each run and kind of statistics, in Markdown."""
    head = ["norm", "running statistics", "tokens", "valid loss (bits)", "valid ppl", "BLEU", "− averaged", "p"]
    rows = []
    for of in records:
        for name, row in of["statistics"].items():
            test = row.get("bleu_against_averaged")
            difference = [f"{test['difference']:+.2f}", f"{test['p_value']:.3f}"] if test else ["", ""]
            valid, bleu = row["valid"], f"{row['metrics']['bleu']['score']:.2f}" if "metrics" in row else "not run"
            tokens = f"{row['tokens']:,}" if "tokens" in row else ""
            numbers = [f"{valid['loss']:.3f}", f"{valid['ppl']:.2f}", bleu, *difference]
            rows.append([of["norm"], name, tokens, *numbers])
    rule = ["---", "---", *["---:"] * (len(head) - 2)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def main() -> None:
    """Compare the runs named, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, with averaged checkpoints")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/recalibrate"), help="translations (default: %(default)s)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    normplugins.register()
    compared = [Compared(directory, options.work) for directory in options.runs]
    for translated in (False, True):
        for name in ORDER:
            for run in compared:
                if name in run.names:
                    run.measure(name, translated)
    records = [run.record() for run in compared]
    for run, of in zip(compared, records, strict=True):
        record.write(RESULTS / run.place.with_suffix(".json"), of)
    print(table(records))


if __name__ == "__main__":
    main()
