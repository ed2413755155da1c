"""``normplugins bench decode``: beam search and scoring with the same weights, ours and stock fairseq's."""

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
import torch
from fairseq import checkpoint_utils, tasks, utils
from fairseq.data import Dictionary
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import DictConfig, OmegaConf

import normplugins
from normplugins.bench.apart import Apart
from normplugins.bench.options import Options
from normplugins.bench.results import add_rows, case_of, here, measured
from normplugins.bench.step import BASELINE, composed
from normplugins.bench.stock import stock_model
from normplugins.bench.tables import case_table, growth_table, show
from normplugins.bench.timing import Timing, compare
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
REPEATS = 3
ROUNDING = 1e-4
"""Scores no further apart are the same."""
Batch = dict[str, Any]
Numbers = list[int] | list[float]


@dataclass(frozen=True)
class Case:
    """What is translated: so many sentences in batches, with a beam; with a beam of 0, their references are scored.

    ``length``: of made-up sentences, and the longest translation; None: sentences of the test set, as many tokens as
    the source has where the weights are untrained, which end no sentence by themselves.
    """

    sentences: int = 64
    batch: int = 32
    beam: int = 5
    length: int | None = None


@dataclass(frozen=True)
class Models:
    """Both models with the same weights, and the task that they decode for."""

    config: DictConfig
    task: Any
    text: str
    weights: str
    both: Mapping[str, Any]

    def describe(self, case: Case) -> str:
        """The case in words."""
        cfg = self.both[OURS].decoder.cfg
        sizes: dict[str, object] = {
            "layers": f"{cfg.encoder_layers}+{cfg.decoder_layers}",
            "channels": cfg.decoder_embed_dim,
            "types": len(self.task.target_dictionary),
            **{name: value for name, value in asdict(case).items() if value},
        }
        sizes |= {} if case.beam else {"scored": "references"}
        return case_of(**sizes, text="made-up" if case.length else self.text, weights=self.weights)


def run(options: Options, main: Case | None = None, series: Mapping[str, Sequence[Case]] | None = None) -> None:
    """Measure, print and record; how the cost grows with the beam and the sentences' length.

    ``main`` and ``series`` (by the field of a case that grows) stand in the place of the usual ones.

    Raises:
        UserError: the config is refused, or the checkpoint is none of a model with LayerNorm.
    """
    threads = options.set_threads()
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    config = composed(options, "ln")
    cpu, repeats = on_cpu(config), options.repeats or REPEATS
    where = here(repeats, threads, cpu)
    models = load(config, options.checkpoint)
    first = main or (Case(sentences=512, batch=128) if options.checkpoint else Case())
    for case in (first, replace(first, beam=0)):
        found, same = measure(models, case, repeats)
        add_rows(options.csv, rows := rows_of(models, case, found, where))
        show(case_table(rows))
        print(f"both {'translate' if case.beam else 'score'} {same} of {case.sentences} sentences alike\n")
    if not options.quick:
        for what, cases in (series or growing()).items():
            grown = []
            for case in cases:
                add_rows(options.csv, rows := rows_of(models, case, measure(models, case, repeats)[0], where))
                grown += rows
            show(growth_table(what, grown))


def growing() -> dict[str, list[Case]]:
    """Cases of growing work."""
    base = Case(sentences=16, batch=16, length=24)
    return {
        "beam": [replace(base, beam=beam) for beam in (1, 2, 5, 10)],
        "length": [replace(base, length=length) for length in (12, 24, 48, 96)],
    }


def load(config: DictConfig, checkpoint: Path | None) -> Models:
    """Both models: of a checkpoint of ours, or untrained.

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
    """The model of a checkpoint.

    Raises:
        UserError: there is none, its corpus is not prepared, or it has other norms than LayerNorm.
    """
    if not checkpoint.is_file() or not bin_dir.is_dir():
        missing = checkpoint if not checkpoint.is_file() else bin_dir
        raise UserError(f"{missing} is not there: decoding with trained weights takes both it and its corpus")
    try:
        (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(
            [str(checkpoint)], arg_overrides={"data": str(bin_dir)}
        )
    except RuntimeError as error:  # load_state_dict's, of other sizes
        raise UserError(
            f"{checkpoint} is no model of the corpus in {bin_dir}: choose its corpus with corpus=NAME"
        ) from error
    norms = {getattr(model.decoder.cfg, f"{side}_norm", None) for side in ("encoder", "decoder")}
    if norms != {"ln"}:
        raise UserError(f"{checkpoint}: stock fairseq has LayerNorm alone, and this model other norms")
    return model


def batches_of(models: Models, case: Case) -> list[Batch]:
    """Of all batches that translating the whole test set makes, in order of length, so many, evenly spread.

    Raises:
        UserError: the test set has fewer sentences.
    """
    count = case.sentences // case.batch
    if case.length or models.text == "made-up":
        length = case.length or corpus_size(models.config).length
        _, batch = made_up(kind_of(models.config.task._name), fairseq_config(models.config), len(models.task.src_dict))
        torch.manual_seed(0)
        return [batch(case.batch, length) for _ in range(count)]
    data = models.task.dataset("test")
    whole = len(data) // case.batch
    if whole < count:
        raise UserError(f"{models.text}: {len(data)} sentences to test are too few for {count} batches of {case.batch}")
    ordered = data.ordered_indices()
    starts = ((2 * turn + 1) * whole // (2 * count) * case.batch for turn in range(count))
    return [data.collater([data[index] for index in ordered[start : start + case.batch]]) for start in starts]


def measure(models: Models, case: Case, repeats: int) -> tuple[dict[str, Timing], int]:
    """Time both in turns; returns the times, and how many sentences both translate, or score, alike.

    On a CPU stock fairseq is in a process of its own.
    """
    cuda, dictionary = not on_cpu(models.config), models.task.source_dictionary
    batches = batches_of(models, case)
    evaluate = models.config.evaluate
    own = models.weights == "untrained" or case.length
    longest = {"max_len_a": 1.0, "max_len_b": 0} if own else {}
    longest = longest or {"max_len_a": evaluate.max_length_a, "max_len_b": evaluate.max_length_b}
    search = {"beam": case.beam, "lenpen": evaluate.length_penalty, **longest}
    found: dict[str, list[Numbers]] = {}

    def call(name: str, work: Callable[..., list[Numbers]]) -> Callable[[], None]:
        return lambda: found.update({name: work(search if case.beam else {"score_reference": True}, batches)})

    with ExitStack() as stack:
        terms = models.both[BASELINE], fairseq_config(models.config), dictionary
        stock = translator(*terms) if cuda else stack.enter_context(Apart(translator, *terms))
        ours = translator(models.both[OURS], *terms[1:])
        taken = compare({BASELINE: call(BASELINE, stock), OURS: call(OURS, ours)}, repeats, cuda=cuda)
    pairs = zip(*found.values(), strict=True)
    return taken, sum(len(one) == len(other) and np.allclose(one, other, rtol=0, atol=ROUNDING) for one, other in pairs)


def translator(model: Any, config: DictConfig, dictionary: Dictionary) -> Callable[..., list[Numbers]]:
    """What works through batches with a model: (settings, batches) -> for each sentence what it found.

    The settings are those of fairseq's ``generation``. It finds the best hypothesis' tokens, or with
    ``score_reference`` the log-probabilities of the reference's.
    """
    normplugins.register()
    task = bare_task(config.task, dictionary)

    def work(settings: dict[str, Any], batches: Sequence[Batch]) -> list[Numbers]:
        generator = task.build_generator([model], GenerationConfig(**settings))
        what = "positional_scores" if settings.get("score_reference") else "tokens"
        found = []
        for batch in batches:
            batch = batch if on_cpu(config) else utils.move_to_cuda(batch)
            found += task.inference_step(generator, [model], batch)
        return [hypotheses[0][what].tolist() for hypotheses in found]

    return work


def rows_of(models: Models, case: Case, found: Mapping[str, Timing], where: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a case."""

    def rate(_name: str, _direction: str, timing: Timing) -> dict[str, float]:
        return {"sentences_per_s": case.sentences / timing.median}

    by = {(name, ""): timing for name, timing in found.items()}
    return measured("decode", models.describe(case), by, BASELINE, rate, where)
