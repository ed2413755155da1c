"""Beam search with the same weights in our model, in stock fairseq's and, on a CPU, in the other decoding engines.

python -m benchmarks.decode [--repeats 3] [--lengths FILE.npz] [hardware=cpu ...]
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from fairseq import tasks, utils
from fairseq.data import Dictionary
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import DictConfig, OmegaConf

import normplugins
from benchmarks import page
from benchmarks.lengths import task_with_lengths, text_name
from benchmarks.measure import Times, arguments, case_of, machine, rows, take_turns
from benchmarks.step import BASELINE, composed
from benchmarks.stock import SeparateProcess, from_stock, stock_model
from normplugins.corpora import corpus_config
from normplugins.evaluation import bleu
from normplugins.evaluation.tasks import kind_of
from normplugins.export import ENGINES, QUANTIZATIONS
from normplugins.export.engines import module_of
from normplugins.runs.compose import fairseq_config
from normplugins.runs.plan import corpus_size, made_up
from normplugins.runs.trained import Engine
from normplugins.training.distributed import on_cpu
from normplugins.utils.errors import UserError

OURS = "ln"


@dataclass(frozen=True)
class Case:
    """The number of sentences, their batches and the beam."""

    sentences: int = 64
    batch: int = 32
    beam: int = 5


@dataclass(frozen=True)
class Models:
    """Both models with the same untrained weights, and their task."""

    config: DictConfig
    task: Any
    text: str
    both: Mapping[str, Any]

    def describe(self, case: Case) -> str:
        """Return the text of the case."""
        cfg = self.both[OURS].decoder.cfg
        return case_of(
            layers=f"{cfg.encoder_layers}+{cfg.decoder_layers}",
            channels=cfg.decoder_embed_dim,
            types=len(self.task.target_dictionary),
            **asdict(case),
            text=self.text,
            weights="untrained",
        )


def main(argv: Sequence[str] | None = None, case: Case | None = None) -> None:
    """Measure translating; ``case`` replaces the usual one."""
    options = arguments(__doc__, argv)
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    config = composed(OURS, options.overrides)
    where = machine(options.threads, on_cpu(config))
    models, case = load(config, options.lengths), case or Case()
    with page.regenerated(options.results):
        times, compared = measure(models, case, options.repeats or 3)
        by = {(name, ""): each for name, each in times.items()}
        page.add(options.results, rows("decode", models.describe(case), by, BASELINE, where, sentences=case.sentences))
        for name, (same, score) in compared.items():
            print(
                f"{name}: {same} of {case.sentences} sentences translated as by {BASELINE}, BLEU against it {score:.2f}"
            )


def load(config: DictConfig, lengths: Path | None = None) -> Models:
    """Return stock fairseq's model and a copy of it as ours, for the prepared corpus or else for random sentences."""
    corpus = corpus_config(config.corpus)
    bin_dir = Path(config.data_dir) / corpus.name / corpus.variant() / "bin"
    settings, text = fairseq_config(config), corpus.name
    normplugins.register()
    if lengths is not None:
        task, text = task_with_lengths(settings, corpus_size(config).types, lengths), text_name(lengths)
        task.load_dataset("test")
    elif bin_dir.is_dir():
        settings.task.data = str(bin_dir)
        task = tasks.setup_task(settings.task)
        task.load_dataset("test")
    else:
        task, _ = made_up(kind_of(config.task._name), settings, corpus_size(config).types)
        text = "made-up"
    torch.manual_seed(config.seed)
    stock = stock_model(settings, task)
    both = {BASELINE: stock, OURS: from_stock(stock)}
    for model in both.values():
        model.eval().to("cpu" if on_cpu(config) else "cuda")
    return Models(config, task, text, both)


def batches_of(models: Models, case: Case) -> list[dict[str, Any]]:
    """Return batches of the test set, evenly spread over its sentences in order of length, or random ones."""
    count = case.sentences // case.batch
    if models.text == "made-up":
        length = corpus_size(models.config).length
        _, batch = made_up(kind_of(models.config.task._name), fairseq_config(models.config), len(models.task.src_dict))
        torch.manual_seed(0)
        return [batch(case.batch, length) for _ in range(count)]
    torch.manual_seed(0)
    data = models.task.dataset("test")
    whole = len(data) // case.batch
    if whole < count:
        raise UserError(f"{models.text}: {len(data)} test sentences are too few for {count} batches of {case.batch}")
    ordered = data.ordered_indices()
    starts = ((2 * turn + 1) * whole // (2 * count) * case.batch for turn in range(count))
    return [data.collater([data[index] for index in ordered[start : start + case.batch]]) for start in starts]


def measure(models: Models, case: Case, repeats: int) -> tuple[dict[str, Times], dict[str, tuple[int, float]]]:
    """Time all in turns.

    Returns:
        The times, and for each but stock fairseq the number of sentences that it translates as stock fairseq does, and
        its BLEU with stock fairseq's translations, in tokens of the model, as the references.
    """
    batches = batches_of(models, case)
    # Untrained weights end no sentence: a translation is as long as its source.
    settings = {"beam": case.beam, "lenpen": models.config.evaluate.length_penalty, "max_len_a": 1.0, "max_len_b": 0}
    found: dict[str, list[list[int]]] = {}

    def call(name: str, translate: Callable[..., list[list[int]]]) -> Callable[[], None]:
        return lambda: found.update({name: translate(settings, batches)})

    shared = fairseq_config(models.config), models.task.source_dictionary
    with ExitStack() as stack:
        if on_cpu(models.config):
            theirs: Any = stack.enter_context(SeparateProcess(translator, models.both[BASELINE], *shared))
        else:
            theirs = translator(models.both[BASELINE], *shared)
        ours = translator(models.both[OURS], *shared)
        calls = {BASELINE: theirs, OURS: ours}
        if on_cpu(models.config):
            calls |= engines(models, Path(stack.enter_context(TemporaryDirectory())))
        times = take_turns({name: call(name, translate) for name, translate in calls.items()}, repeats)
    expected = found.pop(BASELINE)
    return times, {name: _alike(tokens, expected) for name, tokens in found.items()}


def _alike(found: list[list[int]], expected: list[list[int]]) -> tuple[int, float]:
    lines, references = ([" ".join(map(str, tokens)) for tokens in each] for each in (found, expected))
    same = sum(one == other for one, other in zip(found, expected, strict=True))
    return same, bleu.bleu(lines, references, tokenize="none", force=True)["score"]


def engines(models: Models, folder: Path) -> dict[str, Callable[..., list[list[int]]]]:
    """Export our model to ``folder`` for each installed engine and each type of weights that the processor computes in.

    Returns:
        What :func:`translator` returns, by the engine and the type.
    """
    found = {}
    for engine, packages in ENGINES.items():
        if not all(map(find_spec, packages)):
            print(f"{engine} is not installed and is left out")
            continue
        module = module_of(engine)
        for kind in QUANTIZATIONS[engine]:
            place = folder / f"{engine}-{kind}"
            place.mkdir()
            module.write(models.both[OURS], models.task, place, kind)
            translates = module.Engine(place, kind, models.both[OURS], models.task)
            if translates.computes_in.startswith(kind):
                found[f"{engine} {kind}"] = _engine_translator(translates, models.task.source_dictionary.pad())
    return found


def _engine_translator(engine: Engine, pad: int) -> Callable[..., list[list[int]]]:
    def translate(settings: dict[str, Any], batches: Sequence[dict[str, Any]]) -> list[list[int]]:
        search = {"beam": settings["beam"], "length_penalty": settings["lenpen"]}
        search |= {"max_length_a": settings["max_len_a"], "max_length_b": settings["max_len_b"]}
        found = []
        for batch in batches:
            sources = batch["net_input"]["src_tokens"]
            whole = OmegaConf.create(search | {"max_tokens": sources.numel()})
            found += engine([source[source.ne(pad)] for source in sources], whole)
        return [hypotheses[0]["tokens"].tolist() for hypotheses in found]

    return translate


def translator(model: Any, config: DictConfig, dictionary: Dictionary) -> Callable[..., list[list[int]]]:
    """Return the function (settings, batches) -> the best hypothesis' tokens of each sentence.

    The settings are fields of fairseq's ``generation``.
    """
    normplugins.register()
    task = kind_of("translation").bare_task(config.task, dictionary)

    def translate(settings: dict[str, Any], batches: Sequence[dict[str, Any]]) -> list[list[int]]:
        generator = task.build_generator([model], GenerationConfig(**settings))
        found = []
        for batch in batches:
            found += task.inference_step(generator, [model], batch if on_cpu(config) else utils.move_to_cuda(batch))
        return [hypotheses[0]["tokens"].tolist() for hypotheses in found]

    return translate


if __name__ == "__main__":
    main()
