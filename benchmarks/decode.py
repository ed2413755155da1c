"""Beam search with the same weights in our model, in stock fairseq's and, on a CPU, in other decoding engines.

python -m benchmarks.decode [--repeats 3] [--run FOLDER] [--lengths FILE.npz] [hardware=cpu ...]
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig

from benchmarks import page
from benchmarks.measure import case_of, machine, parse, parser_with, rows, take_turns
from benchmarks.step import BASELINE, composed
from benchmarks.stock import from_stock, stock_function, stock_model, to_stock
from benchmarks.texts import MADE_UP, random_batches, text_task
from benchmarks.translators import Translate, engines, translator
from normplugins.cli import call
from normplugins.corpora import PreparedCorpus
from normplugins.evaluation import bleu
from normplugins.models.norm_settings import all_norm_names
from normplugins.report.table import markdown
from normplugins.runs.check import check_bfloat16
from normplugins.runs.compose import fairseq_config
from normplugins.runs.trained import TrainedRun
from normplugins.runs.trained import load as load_run
from normplugins.training.distributed import on_cpu
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines, write_lines
from normplugins.utils.terminal import Column, Table
from normplugins.utils.threads import use_threads

PARSER = parser_with(__doc__, "--repeats", "--lengths", "overrides")
PARSER.add_argument(
    "--run", type=Path, metavar="FOLDER", help="measure the trained model of a run with ln, on its test set"
)
OURS = "ln"
TRAINED = "decoding.md"
"""The file with the table of a trained model, in the folder of results."""


@dataclass(frozen=True)
class Case:
    """The number of sentences, their batches and the beam."""

    sentences: int = 64
    batch: int = 32
    beam: int = 5


@dataclass(frozen=True)
class Models:
    """Both models with the same weights, and their task. Without a ``run`` the weights are untrained."""

    config: DictConfig
    task: Any
    text: str
    both: Mapping[str, Any]
    run: TrainedRun | None = None

    def describe(self, case: Case) -> str:
        """Return the case as text, with the sizes of the models."""
        cfg = self.both[OURS].decoder.cfg
        return case_of(
            layers=f"{cfg.encoder_layers}+{cfg.decoder_layers}",
            channels=cfg.decoder_embed_dim,
            types=len(self.task.target_dictionary),
            **asdict(case),
            text=self.text,
            weights="trained" if self.run else "untrained",
        )


def main(argv: Sequence[str] | None = None, case: Case | None = None) -> None:
    """Measure the speed of translation; ``case`` replaces the default case."""
    options = parse(PARSER, argv)
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    if options.run and options.overrides:
        raise UserError(f"--run measures a run with its own settings: leave out {' '.join(options.overrides)}")
    if options.run is None:
        models, case = load(composed(OURS, options.overrides), options.lengths), case or Case()
    else:
        models = load_trained(options.run)
        use_threads(options.threads)  # loading a run sets the threads of its config
        case = case or Case(1024, 128, models.config.evaluate.beam)  # the batch of the released scripts
    where = machine(options.threads, on_cpu(models.config))
    with page.regenerated(options.results):
        times, found = measure(models, case, options.repeats or 3)
        by = {(name, ""): each for name, each in times.items()}
        made = rows("decode", models.describe(case), by, BASELINE, where, sentences=case.sentences)
        table = comparison_table(models, case, made, found)
        page.add(options.results, made, table)
        if models.run:
            about = f"{where['hardware']}; commit {where['commit']}, {where['date']}"
            write_lines(options.results / TRAINED, [f"# {table.title}", "", about, "", markdown(table)])


def load(config: DictConfig, lengths: Path | None = None) -> Models:
    """Return stock fairseq's model and ours with the same weights, for the prepared corpus or else random sentences."""
    task, text = text_task(config, lengths)
    if text != MADE_UP:
        task.load_dataset("test")
    torch.manual_seed(config.seed)
    stock = stock_model(fairseq_config(config), task)
    both = {BASELINE: stock, OURS: from_stock(stock)}
    for model in both.values():
        model.eval().to("cpu" if on_cpu(config) else "cuda")
    return Models(config, task, text, both)


def load_trained(folder: Path) -> Models:
    """Return the model of a run, and stock fairseq's with the same weights, for the run's test set.

    Raises:
        UserError: the folder holds no translation run, or its model has another norm than LayerNorm.
    """
    run = load_run(folder)
    if not run.translates or set(all_norm_names(run.config.model)) != {OURS}:
        raise UserError(f"--run {folder}: only a translation run with ln has a counterpart in stock fairseq")
    run.task.load_dataset("test")
    stock = to_stock(run.model, stock_model(fairseq_config(run.config), run.task)).eval()
    both = {BASELINE: stock.to(next(run.model.parameters()).device), OURS: run.model}
    return Models(run.config, run.task, run.config.corpus.name, both, run)


def batches_of(models: Models, case: Case) -> list[dict[str, Any]]:
    """Return batches that are spread evenly over the test set in order of length, or batches of random sentences."""
    count = case.sentences // case.batch
    torch.manual_seed(0)
    if models.text == MADE_UP:
        _, batch, _ = random_batches(models.config)
        return [batch(case.batch) for _ in range(count)]
    data = models.task.dataset("test")
    whole = len(data) // case.batch
    if whole < count:
        raise UserError(f"{models.text}: {len(data)} test sentences are too few for {count} batches of {case.batch}")
    ordered = data.ordered_indices()
    starts = ((2 * turn + 1) * whole // (2 * count) * case.batch for turn in range(count))
    return [data.collater([data[index] for index in ordered[start : start + case.batch]]) for start in starts]


def measure(models: Models, case: Case, repeats: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Time all models and engines in turns.

    Returns:
        By name, the times, and the tokens of the best translation of each sentence in the order of :func:`batches_of`.
    """
    batches = batches_of(models, case)
    search = models.config.evaluate
    settings = {"beam": case.beam, "lenpen": search.length_penalty}
    # An untrained model never ends a sentence, so each translation is as long as its source.
    settings["max_len_a"] = search.max_length_a if models.run else 1.0
    settings["max_len_b"] = search.max_length_b if models.run else 0
    found: dict[str, list[list[int]]] = {}

    def call(name: str, translate: Translate) -> Callable[[], None]:
        return lambda: found.update({name: translate(settings, batches)})

    shared, cpu = (fairseq_config(models.config), models.task.source_dictionary), on_cpu(models.config)
    with ExitStack() as stack:
        theirs = stack.enter_context(stock_function(cpu, translator, models.both[BASELINE], *shared))
        calls: dict[str, Translate] = {BASELINE: theirs, OURS: translator(models.both[OURS], *shared)}
        with suppress(UserError):
            check_bfloat16(cpu)
            calls[f"{OURS} bf16"] = translator(models.both[OURS], *shared, bfloat16=True)
        if cpu:
            calls |= engines(models.both[OURS], models.task, Path(stack.enter_context(TemporaryDirectory())))
        times = take_turns({name: call(name, translate) for name, translate in calls.items()}, repeats)
    return times, found


def comparison_table(models: Models, case: Case, made: pd.DataFrame, found: Mapping[str, list[list[int]]]) -> Table:
    """Return the table of the measured rows ``made`` and of the translations ``found`` by :func:`measure`."""
    expected, run = found[BASELINE], models.run

    def text(tokens: Sequence[int]) -> str:
        if run is None:
            return " ".join(map(str, tokens))
        return run.pipeline.decode(run.task.target_dictionary.string(torch.tensor(tokens)))

    if run:
        ids = [number for batch in batches_of(models, case) for number in batch["id"].tolist()]
        assert isinstance(run.corpus, PreparedCorpus)
        lines = read_lines(run.corpus.reference_text)
        references = [lines[number] for number in ids]
        lowercase = bool(run.corpus.manifest["lowercase"])
        options: dict[str, Any] = {"lowercase": lowercase, "tokenize": run.corpus.score_tokenizer}
    else:
        references, options = list(map(text, expected)), {"tokenize": "none", "force": True}
    cells = []
    for _, row in made.iterrows():
        tokens = found[row["provider"]]
        alike = sum(one == other for one, other in zip(tokens, expected, strict=True)) / len(expected)
        score = bleu.bleu(list(map(text, tokens)), references, **options)["score"]
        numbers = f"{row['sentences_per_s']:.1f}", f"{1 / row['ratio']:.2f}", f"{100 * alike:.1f} %", f"{score:.2f}"
        cells.append([row["provider"], *numbers])
    heads = ("sentences/s", "speed", "as stock", "BLEU")
    notes = [
        f"speed: sentences a second divided by those of {BASELINE}, {int(made['repeats'].iloc[0])} turns",
        f"as stock: sentences that are translated as by {BASELINE}",
        f"BLEU: sacreBLEU against {'the test set' if run else f'the translations of {BASELINE}'}",
    ]
    return Table(f"decode: {models.describe(case)}", [Column("", right=False), *map(Column, heads)], cells, notes)


if __name__ == "__main__":
    sys.exit(call(main))
