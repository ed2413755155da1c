"""Translates a test set with a trained model and scores it, as published and with sacreBLEU."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
import sacrebleu
import torch
from fairseq import checkpoint_utils, utils
from fairseq.dataclass.configs import GenerationConfig
from rich.console import Console
from rich.progress import track

import normplugins
from normplugins.corpora import PreparedCorpus, remove_subwords
from normplugins.corpora.files import read_lines


@dataclass(frozen=True)
class Score:
    """A BLEU score with what is needed to read it."""

    score: float
    signature: str
    precisions: list[float]
    brevity_penalty: float
    system_length: int
    reference_length: int

    def __str__(self) -> str:
        parts = "/".join(f"{precision:.1f}" for precision in self.precisions)
        return (
            f"BLEU = {self.score:.2f} {parts} (BP={self.brevity_penalty:.3f}, "
            f"syslen={self.system_length}, reflen={self.reference_length})"
        )


@dataclass(frozen=True)
class Search:
    """Beam search: the ``evaluate`` section of the config says what each is."""

    beam: int
    length_penalty: float
    max_length_a: float
    max_length_b: int
    max_tokens: int


def translate(checkpoint: Path, corpus: PreparedCorpus, search: Search, cpu: bool, subset: str = "test") -> list[str]:
    """Translate a split of the corpus, in its own order.

    Returns:
        One line a sentence, subwords joined again: tokens, or plain text where the corpus is not tokenised.
    """
    normplugins.register()
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(corpus.bin_dir)}
    )
    device = "cuda" if torch.cuda.is_available() and not cpu else "cpu"
    for model in models:
        model.eval().to(device)
    task.load_dataset(subset)
    generator = task.build_generator(
        models,
        GenerationConfig(
            beam=search.beam,
            lenpen=search.length_penalty,
            max_len_a=search.max_length_a,
            max_len_b=search.max_length_b,
        ),
    )
    batches = task.get_batch_iterator(
        dataset=task.dataset(subset),
        max_tokens=search.max_tokens,
        max_positions=utils.resolve_max_positions(task.max_positions(), *(model.max_positions() for model in models)),
        required_batch_size_multiple=1,
    ).next_epoch_itr(shuffle=False)
    lines = [""] * len(task.dataset(subset))
    kind = corpus.manifest["subword"]["kind"]
    console = Console()
    for sample in track(batches, f"translating {subset}", console=console, disable=not console.is_terminal):
        sample = utils.move_to_cuda(sample) if device == "cuda" else sample
        for index, hypotheses in zip(
            sample["id"].tolist(), task.inference_step(generator, models, sample), strict=True
        ):
            lines[index] = remove_subwords(task.target_dictionary.string(hypotheses[0]["tokens"]), kind)
    return lines


def bleu(hypotheses: Sequence[str], references: Sequence[str], **options: Any) -> Score:
    """Corpus BLEU by sacrebleu, one reference a line; ``options`` are those of ``sacrebleu.metrics.BLEU``."""
    metric = sacrebleu.metrics.BLEU(**options)
    result = metric.corpus_score(list(hypotheses), [list(references)])
    return Score(
        score=result.score,
        signature=str(metric.get_signature()),
        precisions=[round(precision, 2) for precision in result.precisions],
        brevity_penalty=round(result.bp, 4),
        system_length=result.sys_len,
        reference_length=result.ref_len,
    )


def score(translations: Sequence[str], corpus: PreparedCorpus) -> dict[str, Score]:
    """Score a translation of the test set.

    Returns:
        ``bleu``: on lower-cased Moses tokens, as published; ``sacrebleu``: on plain text against the untouched
        references, ignoring case because the models are trained on lower-cased text.
    """
    tokens, text = corpus.to_tokens(translations), corpus.to_text(translations)
    lower = bool(corpus.manifest["lowercase"])
    return {
        "bleu": bleu(tokens, read_lines(corpus.reference_tokens), tokenize="none", force=True),
        "sacrebleu": bleu(text, read_lines(corpus.reference_text), lowercase=lower),
    }


def as_metrics(scores: dict[str, Score]) -> dict[str, dict[str, Any]]:
    """Scores as they stand in a run's JSON."""
    return {name: asdict(value) for name, value in scores.items()}
