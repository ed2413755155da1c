"""Translates a test set with a trained model and scores it: BLEU as published, and sacreBLEU, chrF2 and TER."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
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
from normplugins.corpora import PreparedCorpus, remove_subwords, wmt14
from normplugins.utils.files import read_lines

# The sets that sacreBLEU has by name, by the sha256 of their references: one line a sentence, each with its newline.
TEST_SETS = dict.fromkeys(wmt14.TEST_SHA256.values(), "wmt14/full")
_HYPHEN_IN_WORD = re.compile(r"(\S)-(\S)")


@dataclass(frozen=True)
class Score:
    """A score with the signature that says how it was computed."""

    score: float
    signature: str

    def __str__(self) -> str:
        return f"{self.score:.2f}"


@dataclass(frozen=True)
class BleuScore(Score):
    """A BLEU score with what is needed to read it."""

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


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], said: Mapping[str, str] | None = None, **options: Any
) -> BleuScore:
    """Corpus BLEU by sacrebleu, one reference a line.

    Args:
        hypotheses: one line a sentence.
        references: likewise.
        said: further fields of the signature; sacrebleu has a place for ``test`` and ``lang``.
        options: those of ``sacrebleu.metrics.BLEU``.
    """
    metric = sacrebleu.metrics.BLEU(**options)
    result = metric.corpus_score(list(hypotheses), [list(references)])
    signature = metric.get_signature()
    for name, value in (said or {}).items():
        signature.update(name, value)
    return BleuScore(
        score=result.score,
        signature=str(signature),
        precisions=[round(precision, 2) for precision in result.precisions],
        brevity_penalty=round(result.bp, 4),
        system_length=result.sys_len,
        reference_length=result.ref_len,
    )


def score(translations: Sequence[str], corpus: PreparedCorpus, compounds: bool = False) -> dict[str, dict[str, Score]]:
    """Score a translation of the test set, and each part of it that is a test set of its own.

    Args:
        translations: as ``translate`` gives them.
        corpus: whose test set it is.
        compounds: split hyphenated words on both sides, as BLEU on WMT14 en-de is published.

    Returns:
        Under ``test``, and under the name of each of several test sets: ``bleu``, or ``bleu_compound`` with
        ``compounds``, which is not to be compared with it: on Moses tokens, cased as the training text, as published;
        ``sacrebleu``, ``chrf2`` and ``ter``: on plain text against the untouched references, ignoring case where the
        model is trained on lower-cased text. The signature of ``sacrebleu`` names the test set if the references are,
        byte for byte, one that sacreBLEU has.
    """
    tokens, reference_tokens = scored_tokens(translations, corpus, compounds)
    text, reference_text = corpus.to_text(translations), read_lines(corpus.reference_text)
    name, said = ("bleu_compound", {"compounds": "split"}) if compounds else ("bleu", {})
    lower, scores = bool(corpus.manifest["lowercase"]), {}
    for test_set, part in scored_slices(corpus).items():
        plain, references = text[part], reference_text[part]
        known = known_test_set(references, corpus.source, corpus.target)
        scores[test_set] = {
            name: bleu(tokens[part], reference_tokens[part], said, tokenize="none", force=True),
            "sacrebleu": bleu(plain, references, known, lowercase=lower),
            "chrf2": _by_sacrebleu(sacrebleu.metrics.CHRF(lowercase=lower), plain, references),
            "ter": _by_sacrebleu(sacrebleu.metrics.TER(case_sensitive=not lower), plain, references),
        }
    return scores


def scored_slices(corpus: PreparedCorpus) -> dict[str, slice]:
    """Return the lines of each scored test set: ``test`` has all lines, and each of several sets has its part."""
    found, begin = {"test": slice(None)}, 0
    for name, count in corpus.manifest.get("test_sets", {}).items():
        found[name] = slice(begin, begin + count)
        begin += count
    return found


def scored_tokens(
    translations: Sequence[str], corpus: PreparedCorpus, compounds: bool = False
) -> tuple[list[str], list[str]]:
    """The lines of tokens, of a translation of the test set and of its references, that BLEU as published is of."""
    both = corpus.to_tokens(translations), read_lines(corpus.reference_tokens)
    return (split_compounds(both[0]), split_compounds(both[1])) if compounds else both


def _by_sacrebleu(metric: Any, hypotheses: list[str], references: list[str]) -> Score:
    result = metric.corpus_score(hypotheses, [references])
    return Score(result.score, str(metric.get_signature()))


def split_compounds(lines: Iterable[str]) -> list[str]:
    """Set a hyphen between two characters apart, as BLEU on WMT14 en-de is published (arXiv 1806.00187).

    ``a-b`` becomes ``a ##AT##-##AT## b``, and ``a @-@ b``, where a tokenizer has split the hyphen already,
    ``a @ ##AT##-##AT## @ b``. A character takes part in one split only, as published: of ``x-y-z`` the first hyphen is
    set apart.
    """
    return [_HYPHEN_IN_WORD.sub(r"\1 ##AT##-##AT## \2", line) for line in lines]


def known_test_set(references: Sequence[str], source: str, target: str) -> dict[str, str]:
    """The fields ``test`` and ``lang`` of sacreBLEU's signature, where these references are a set that it has."""
    digest = hashlib.sha256("".join(f"{line}\n" for line in references).encode()).hexdigest()
    return {"test": TEST_SETS[digest], "lang": f"{source}-{target}"} if digest in TEST_SETS else {}


def as_metrics(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Scores as they stand in a run's JSON."""
    return {name: asdict(value) for name, value in scores.items()}
