"""What a translation run does its own way: long sentences are refused, the test set is translated and scored."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import torch
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationTask
from omegaconf import MISSING, DictConfig
from torch import Tensor

from normplugins.corpora import ParallelCorpus, PreparedCorpus
from normplugins.evaluation import translations
from normplugins.evaluation.bleu import BleuScore, Score, Search, as_metrics, score, scored_tokens, translate
from normplugins.utils.errors import UserError
from normplugins.utils.files import read_lines, whole_file, write_lines

CORPUS = ParallelCorpus
RESCORABLE = (
    "evaluate.recalibrate",
    *(f"evaluate.{field.name}" for field in fields(Search)),
    "evaluate.split_compounds",
)
OUTPUT = "hypotheses"
OUTPUTS = (f"test*.{OUTPUT}", "seed*.tsv.gz")


@dataclass
class EvaluateSection:
    """Types of the ``evaluate`` section."""

    average: int | None = MISSING
    recalibrate: int | None = None
    translate: bool = True
    split_compounds: bool = False
    beam: int = MISSING
    length_penalty: float = MISSING
    max_length_a: float = MISSING
    max_length_b: int = MISSING
    max_tokens: int = MISSING


SECTIONS = {"evaluate": EvaluateSection}


def check(_config: DictConfig) -> None:
    """Refuse settings that cannot work; the parts that all runs share are checked for all of them."""


def check_corpus(config: DictConfig, corpus: PreparedCorpus) -> None:
    """Refuse validation and test sentences that the model cannot take: fairseq would, after hours of training."""
    for split, longest in corpus.manifest["longest"].items():
        for side, length in longest.items():
            most = config.model[f"max_{side}_positions"]
            if split != "train" and length > most:
                raise UserError(
                    f"the longest {side} sentence of the {split} set has {length:,} subwords, and the model takes "
                    f"{most:,}: set model.max_{side}_positions and task.max_{side}_positions to {length}"
                )
        if split != "train" and max(longest.values()) > (config.dataset.max_tokens or math.inf):
            raise UserError(
                f"a sentence of the {split} set has {max(longest.values()):,} subwords, more than a batch may hold "
                f"(dataset.max_tokens={config.dataset.max_tokens})"
            )


def evaluate(
    config: DictConfig, checkpoint: Path, corpus: PreparedCorpus, output: Path
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, float]]:
    """Translate and score the test set, and leave the translation in the file ``output``, a line a sentence.

    Returns:
        By test set, the metrics as they stand in a record, and how long it took: ``seconds`` and
        ``sentences_per_second``. Both are empty with ``evaluate.translate`` off.
    """
    if not config.evaluate.translate:
        return {}, {}
    begun = time.perf_counter()
    search = Search(**{field.name: config.evaluate[field.name] for field in fields(Search)})
    lines = translate(checkpoint, corpus, search, config.common.cpu)
    seconds = time.perf_counter() - begun
    with whole_file(output) as temporary:
        write_lines(temporary, lines)
    speed = {"seconds": round(seconds, 1), "sentences_per_second": round(len(lines) / seconds, 2)}
    scores = score(lines, corpus, config.evaluate.split_compounds)
    return {test_set: as_metrics(found) for test_set, found in scores.items()}, speed


def keep_translations(config: DictConfig, corpus: PreparedCorpus, output: Path, kept: Path) -> bool:
    """Write the file that is kept with a published record, of the translation in ``output``; returns True."""
    lines = read_lines(output)
    statistics = translations.sentence_statistics(*scored_tokens(lines, corpus, config.evaluate.split_compounds))
    translations.write(kept, translations.Translations(lines, statistics))
    return True


def bare_task(settings: DictConfig, dictionary: Dictionary) -> TranslationTask:
    """The task of these settings without a corpus: with one dictionary for both languages."""
    return TranslationTask(settings, dictionary, dictionary)


def made_up_batch(tokens: Tensor) -> dict[str, Any]:
    """A batch as fairseq's datasets make it: sentences (B, T), each ended by ``</s>``, that translate themselves."""
    lengths = torch.full((len(tokens),), tokens.shape[1])
    inputs = {"src_tokens": tokens, "src_lengths": lengths, "prev_output_tokens": tokens.roll(1, dims=1)}
    return {
        "id": torch.arange(len(tokens)),
        "nsentences": len(tokens),
        "ntokens": tokens.numel(),
        "net_input": inputs,
        "target": tokens,
    }


def describe(metric: dict[str, Any]) -> str:
    """A metric of a record, as a line."""
    return str(BleuScore(**metric) if "precisions" in metric else Score(**metric))


def brief(metrics: Mapping[str, Any]) -> str:
    """The metrics of one test set, in a few words."""
    name, plain = "bleu" if "bleu" in metrics else "bleu_compound", metrics["sacrebleu"]
    title = {"bleu": "BLEU", "bleu_compound": "BLEU, compounds split,"}[name]
    penalty = f"(BP {plain['brevity_penalty']:.3f})"
    return f"{title} {metrics[name]['score']:.2f}  sacreBLEU {plain['score']:.2f} {penalty}"


def label(_settings: Mapping[str, Any]) -> str:
    """What a reader of any figure of this run has to know; nothing, for a translation."""
    return ""
