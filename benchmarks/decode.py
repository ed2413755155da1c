"""Beam search, and scoring of references, with the same weights in our model and in stock fairseq's.

python -m benchmarks.decode [--quick] [--checkpoint runs/multi30k/ln/seed1/checkpoint_averaged.pt corpus=multi30k]
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import numpy as np
import pandas as pd
import torch
from fairseq import checkpoint_utils, tasks, utils
from fairseq.data import Dictionary
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import DictConfig, OmegaConf

import normplugins
from benchmarks import page
from benchmarks.measure import Times, arguments, case_of, machine, rows, take_turns
from benchmarks.step import BASELINE, composed
from benchmarks.stock import SeparateProcess, stock_model
from normplugins.corpora import corpus_config
from normplugins.evaluation.tasks import kind_of
from normplugins.evaluation.translation import bare_task
from normplugins.models.stock import from_stock, load_into_stock
from normplugins.runs.compose import fairseq_config
from normplugins.runs.measured_step import made_up
from normplugins.runs.plan import corpus_size
from normplugins.training.distributed import on_cpu
from normplugins.utils.errors import UserError

OURS = "ln"
ROUNDING = 1e-4
"""Scores that are no further apart count as the same."""
Numbers = list[int] | list[float]


@dataclass(frozen=True)
class Case:
    """The number of sentences, their batches and the beam; a beam of 0 scores the references instead."""

    sentences: int = 64
    batch: int = 32
    beam: int = 5


@dataclass(frozen=True)
class Models:
    """Both models with the same weights, and their task."""

    config: DictConfig
    task: Any
    text: str
    weights: str
    both: Mapping[str, Any]

    def describe(self, case: Case) -> str:
        """Return the text of the case."""
        cfg = self.both[OURS].decoder.cfg
        sizes = {name: value for name, value in asdict(case).items() if value}
        return case_of(
            layers=f"{cfg.encoder_layers}+{cfg.decoder_layers}",
            channels=cfg.decoder_embed_dim,
            types=len(self.task.target_dictionary),
            **sizes,
            **({} if case.beam else {"scored": "references"}),
            text=self.text,
            weights=self.weights,
        )


def main(argv: Sequence[str] | None = None, main_case: Case | None = None) -> None:
    """Measure translating and scoring; ``main_case`` replaces the usual one."""
    options = arguments(__doc__, argv)
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    config = composed("ln", options.overrides)
    where = machine(options.threads, on_cpu(config))
    models = load(config, options.checkpoint)
    first = main_case or (Case(sentences=512, batch=128) if options.checkpoint else Case())
    with page.regenerated(options.results):
        for case in (first, replace(first, beam=0)):
            found, same = measure(models, case, options.repeats or 3)
            page.add(options.results, rows_of(models, case, found, where))
            print(f"both {'translate' if case.beam else 'score'} {same} of {case.sentences} sentences alike\n")


def load(config: DictConfig, checkpoint: Path | None) -> Models:
    """Return both models with the weights of a checkpoint of ours, or untrained.

    Raises:
        UserError: there is no such checkpoint, or its model has another norm than LayerNorm.
    """
    corpus = corpus_config(config.corpus)
    bin_dir = Path(config.data_dir) / corpus.name / corpus.variant() / "bin"
    settings, text = fairseq_config(config), corpus.name
    normplugins.register()
    if bin_dir.is_dir():
        settings.task.data = str(bin_dir)
        task = tasks.setup_task(settings.task)
        task.load_dataset("test")
    else:
        task, _ = made_up(kind_of(config.task._name), settings, corpus_size(config).types)
        text = "made-up"
    if checkpoint is None:
        torch.manual_seed(config.seed)
        stock = stock_model(settings, task)
        ours, weights = from_stock(stock), "untrained"
    else:
        ours, weights = trained(checkpoint, bin_dir), str(checkpoint)
        stock = stock_model(OmegaConf.create({"model": asdict(ours.decoder.cfg)}), task)
        load_into_stock(ours, stock)
    both = {BASELINE: stock, OURS: ours}
    for model in both.values():
        model.eval().to("cpu" if on_cpu(config) else "cuda")
    return Models(config, task, text, weights, both)


def trained(checkpoint: Path, bin_dir: Path) -> Any:
    """Return a checkpoint's model; raises UserError where it or its corpus is missing, or it has other norms."""
    if not checkpoint.is_file() or not bin_dir.is_dir():
        missing = checkpoint if not checkpoint.is_file() else bin_dir
        raise UserError(f"{missing} is missing: decoding with trained weights needs both it and its corpus")
    try:
        (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(
            [str(checkpoint)], arg_overrides={"data": str(bin_dir)}
        )
    except RuntimeError as error:  # raised by load_state_dict for other sizes
        raise UserError(
            f"{checkpoint} is no model of the corpus in {bin_dir}: choose its corpus with corpus=NAME"
        ) from error
    if {getattr(model.decoder.cfg, f"{side}_norm", None) for side in ("encoder", "decoder")} != {"ln"}:
        raise UserError(f"{checkpoint}: stock fairseq has LayerNorm alone, and this model other norms")
    return model


def batches_of(models: Models, case: Case) -> list[dict[str, Any]]:
    """Return batches of the test set, evenly spread over its sentences in order of length, or random ones."""
    count = case.sentences // case.batch
    if models.text == "made-up":
        length = corpus_size(models.config).length
        _, batch = made_up(kind_of(models.config.task._name), fairseq_config(models.config), len(models.task.src_dict))
        torch.manual_seed(0)
        return [batch(case.batch, length) for _ in range(count)]
    data = models.task.dataset("test")
    whole = len(data) // case.batch
    if whole < count:
        raise UserError(f"{models.text}: {len(data)} test sentences are too few for {count} batches of {case.batch}")
    ordered = data.ordered_indices()
    starts = ((2 * turn + 1) * whole // (2 * count) * case.batch for turn in range(count))
    return [data.collater([data[index] for index in ordered[start : start + case.batch]]) for start in starts]


def measure(models: Models, case: Case, repeats: int) -> tuple[dict[str, Times], int]:
    """Time both in turns; return the times, and the number of sentences that both translate, or score, alike."""
    batches, evaluate = batches_of(models, case), models.config.evaluate
    if models.weights == "untrained":  # such a model ends no sentence: a translation is as long as its source
        longest = {"max_len_a": 1.0, "max_len_b": 0}
    else:
        longest = {"max_len_a": evaluate.max_length_a, "max_len_b": evaluate.max_length_b}
    search = {"beam": case.beam, "lenpen": evaluate.length_penalty, **longest}
    settings = search if case.beam else {"score_reference": True}
    found: dict[str, list[Numbers]] = {}

    def call(name: str, work: Callable[..., list[Numbers]]) -> Callable[[], None]:
        return lambda: found.update({name: work(settings, batches)})

    shared = fairseq_config(models.config), models.task.source_dictionary
    with ExitStack() as stack:
        if on_cpu(models.config):
            theirs: Any = stack.enter_context(SeparateProcess(translator, models.both[BASELINE], *shared))
        else:
            theirs = translator(models.both[BASELINE], *shared)
        ours = translator(models.both[OURS], *shared)
        times = take_turns({BASELINE: call(BASELINE, theirs), OURS: call(OURS, ours)}, repeats)
    pairs = zip(*found.values(), strict=True)
    return times, sum(len(one) == len(other) and np.allclose(one, other, rtol=0, atol=ROUNDING) for one, other in pairs)


def translator(model: Any, config: DictConfig, dictionary: Dictionary) -> Callable[..., list[Numbers]]:
    """Return the function (settings, batches) -> the best hypothesis' tokens of each sentence.

    The settings are those of fairseq's ``generation``; with ``score_reference`` it returns the log-probabilities of
    each reference's tokens.
    """
    normplugins.register()
    task = bare_task(config.task, dictionary)

    def work(settings: dict[str, Any], batches: Sequence[dict[str, Any]]) -> list[Numbers]:
        generator = task.build_generator([model], GenerationConfig(**settings))
        what = "positional_scores" if settings.get("score_reference") else "tokens"
        found = []
        for batch in batches:
            found += task.inference_step(generator, [model], batch if on_cpu(config) else utils.move_to_cuda(batch))
        return [hypotheses[0][what].tolist() for hypotheses in found]

    return work


def rows_of(models: Models, case: Case, found: Mapping[str, Times], where: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of a case, with the sentences per second."""

    def rate(_name: str, _direction: str, times: Times) -> dict[str, float]:
        return {"sentences_per_s": case.sentences / times.median}

    by = {(name, ""): times for name, times in found.items()}
    return rows("decode", models.describe(case), by, BASELINE, rate, where)


if __name__ == "__main__":
    main()
