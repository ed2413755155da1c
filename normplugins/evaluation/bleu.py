"""Translates a test set with a trained model and scores it: BLEU as published, and sacreBLEU, chrF2 and TER."""

import gzip
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sacrebleu
from fairseq import utils
from fairseq.data import FairseqDataset
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import DictConfig
from sacrebleu.metrics.bleu import BLEUScore
from torch import Tensor

from normplugins.corpora import PreparedCorpus, remove_subwords, wmt14
from normplugins.corpora.languages import has_spaces
from normplugins.evaluation.beam_search import BeamSearch, Hypothesis
from normplugins.utils.files import read_lines, whole_file
from normplugins.utils.steps import Echo, progress

SEARCH = ("beam", "length_penalty", "max_length_a", "max_length_b", "max_tokens")
"""Keys of the config's ``evaluate`` section that change a translation."""
TEST_SETS = dict.fromkeys(wmt14.TEST_SHA256.values(), "wmt14/full")
"""sacreBLEU's names of test sets, by the SHA-256 of their references, in which each line ends in LF."""
Metric = dict[str, Any]
"""A metric as it is stored in a record: ``score``, the ``signature`` that says how it was computed, and details."""
_HYPHEN_IN_WORD = re.compile(r"(\S)-(\S)")


def translate(model: Any, task: Any, corpus: PreparedCorpus, search: DictConfig, name: str) -> list[str]:
    """Translate the test set with a model in evaluation mode and its fairseq task; the progress shows ``name``.

    Returns:
        One line per sentence, in the order of the corpus, with subwords joined: tokens, or plain text if the corpus is
        not tokenized.
    """
    task.load_dataset("test")
    kind = corpus.manifest["subword"]["kind"]
    title = f"translating {len(task.dataset('test')):,} sentences with {name}"
    found = _search(model, task, task.dataset("test"), search, title, print)
    return [remove_subwords(task.target_dictionary.string(hypotheses[0]["tokens"]), kind) for hypotheses in found]


def search_sentences(
    model: Any, task: Any, sentences: list[Tensor], search: DictConfig, begin: Callable[[Tensor], Any] | None = None
) -> list[list[Hypothesis]]:
    """Translate sentences (T,) that end in ``</s>`` by beam search with a model in evaluation mode.

    ``search`` is the config's section ``evaluate``; only its keys ``SEARCH`` are read. ``begin`` replaces the model's
    computation, see :attr:`normplugins.evaluation.beam_search.BeamSearch.begin`. Nothing is printed to stdout.

    Returns:
        The hypotheses of each sentence, best first.
    """
    dataset = task.build_dataset_for_inference(sentences, [len(sentence) for sentence in sentences])
    return _search(model, task, dataset, search, "translating", None, begin)


def _search(
    model: Any,
    task: Any,
    dataset: FairseqDataset,
    search: DictConfig,
    title: str,
    echo: Echo | None,
    begin: Callable[[Tensor], Any] | None = None,
) -> list[list[Hypothesis]]:
    options = GenerationConfig(
        beam=search.beam, lenpen=search.length_penalty, max_len_a=search.max_length_a, max_len_b=search.max_length_b
    )
    generator = task.build_generator([model], options, seq_gen_cls=BeamSearch)
    if begin is not None:
        generator.begin = begin
    found: list[list[Hypothesis]] = [[] for _ in range(len(dataset))]
    cuda = next(model.parameters()).is_cuda
    for sample in progress(batches(model, task, dataset, search), title, echo=echo):
        hypotheses = task.inference_step(generator, [model], utils.move_to_cuda(sample) if cuda else sample)
        for index, of_sentence in zip(sample["id"].tolist(), hypotheses, strict=True):
            found[index] = of_sentence
    return found


def batches(model: Any, task: Any, dataset: FairseqDataset, search: DictConfig) -> Any:
    """Return the batches in which :func:`search_sentences` translates a dataset, as an iterator with a length."""
    return task.get_batch_iterator(
        dataset=dataset,
        max_tokens=search.max_tokens,
        max_positions=utils.resolve_max_positions(task.max_positions(), model.max_positions()),
        required_batch_size_multiple=1,
        disable_iterator_cache=True,
    ).next_epoch_itr(shuffle=False)


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], fields: Mapping[str, str] | None = None, **options: Any
) -> Metric:
    """Compute corpus BLEU with one reference per line and the ``options`` of ``sacrebleu.metrics.BLEU``.

    ``fields`` are additional fields of the signature, such as sacreBLEU's own ``test`` and ``lang``.
    """
    return _measure(sacrebleu.metrics.BLEU(**options), hypotheses, references, fields or {})


def _measure(metric: Any, hypotheses: Sequence[str], references: Sequence[str], fields: Mapping[str, str]) -> Metric:
    """Return the score of a metric of sacreBLEU with its signature, and the details of BLEU."""
    result, signature = metric.corpus_score(list(hypotheses), [list(references)]), metric.get_signature()
    for name, value in fields.items():
        signature.update(name, value)
    found = {"score": result.score, "signature": str(signature)}
    if isinstance(result, BLEUScore):
        found["precisions"] = [round(precision, 2) for precision in result.precisions]
        found["brevity_penalty"] = round(result.bp, 4)
        found["system_length"], found["reference_length"] = result.sys_len, result.ref_len
    return found


def score(translations: Sequence[str], corpus: PreparedCorpus, compounds: bool = False) -> dict[str, dict[str, Metric]]:
    """Score the translations of the test set that :func:`translate` returned.

    Returns:
        Metrics by test set: ``test`` is the whole set, followed by the corpus's individual test sets if it has several.
        ``bleu`` is computed on Moses tokens with the case of the training text, as published. With ``compounds``, words
        are split at hyphens, as in the published BLEU on WMT14 en-de. This score is called ``bleu_compound``, because
        it cannot be compared with ``bleu``. ``sacrebleu``, ``chrf2`` and ``ter`` are computed on plain text with the
        original references, and ignore case if the training text is lower-cased. A language without spaces is split
        into words by ``corpus.score_tokenizer``, which the signatures name. The signature of ``sacrebleu`` names the
        test set if the references are byte for byte those of one of sacreBLEU's test sets.
    """
    tokens, reference_tokens = scored_tokens(translations, corpus, compounds)
    text, reference_text = corpus.to_text(translations), read_lines(corpus.reference_text)
    name, fields = ("bleu_compound", {"compounds": "split"}) if compounds else ("bleu", {})
    if _without_blanks(corpus):
        fields["words"] = corpus.score_tokenizer
    slices, begin = {"test": slice(None)}, 0
    for test_set, count in corpus.manifest.get("test_sets", {}).items():
        slices[test_set] = slice(begin, begin + count)
        begin += count
    lower, scores = bool(corpus.manifest["lowercase"]), {}
    for test_set, part in slices.items():
        plain, references = text[part], reference_text[part]
        digest = hashlib.sha256("".join(f"{line}\n" for line in references).encode()).hexdigest()
        known = {"test": TEST_SETS[digest], "lang": f"{corpus.source}-{corpus.target}"} if digest in TEST_SETS else {}
        scores[test_set] = {
            name: bleu(tokens[part], reference_tokens[part], fields, tokenize="none", force=True),
            "sacrebleu": bleu(plain, references, known, lowercase=lower, tokenize=corpus.score_tokenizer),
        }
        scores[test_set]["chrf2"] = _measure(sacrebleu.metrics.CHRF(lowercase=lower), plain, references, {})
        words = corpus.score_words(plain), corpus.score_words(references)  # TER counts words
        split = {} if has_spaces(corpus.target) else {"words": corpus.score_tokenizer}
        scores[test_set]["ter"] = _measure(sacrebleu.metrics.TER(case_sensitive=not lower), *words, split)
    return scores


def scored_tokens(translations: Sequence[str], corpus: PreparedCorpus, compounds: bool) -> tuple[list[str], list[str]]:
    """Return the tokenized lines of a translation of the test set, and of its references, for BLEU as published."""
    both = corpus.to_tokens(translations), read_lines(corpus.reference_tokens)
    if _without_blanks(corpus):
        both = corpus.score_words(both[0]), corpus.score_words(both[1])
    return (split_compounds(both[0]), split_compounds(both[1])) if compounds else both


def _without_blanks(corpus: PreparedCorpus) -> bool:
    """Whether the target text has no spaces and no given tokens, and is therefore split into words for BLEU."""
    return corpus.manifest.get("tokenizer") != "given" and not has_spaces(corpus.target)


def split_compounds(lines: Sequence[str]) -> list[str]:
    """Split hyphenated words, as in the published BLEU on WMT14 en-de (arXiv 1806.00187).

    ``a-b`` becomes ``a ##AT##-##AT## b``, and ``a @-@ b``, which a tokenizer has split already, becomes
    ``a @ ##AT##-##AT## @ b``. Matches do not overlap, as published: only the first hyphen of ``x-y-z`` is split.
    """
    return [_HYPHEN_IN_WORD.sub(r"\1 ##AT##-##AT## \2", line) for line in lines]


def write_translations(path: Path, lines: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Write the file that is kept with a published record: translations and the statistics of their BLEU.

    The file is gzipped text with one line per sentence, in the order of the test set. Its columns, separated by tabs,
    are the translation, from ``lines``, and the sufficient statistics of ``bleu`` or ``bleu_compound``, from the
    tokenized ``hypotheses`` and ``references``: length of hypothesis and reference, matches of 1- to 4-grams, and their
    totals. The sum of these whole numbers over any set of sentences gives its BLEU, without the references, which are
    other people's text. Equal content gives equal bytes. Raises UserError if the file cannot be written.
    """
    # effective_order avoids a warning about sentence scores and does not change the statistics.
    metric = sacrebleu.metrics.BLEU(tokenize="none", force=True, effective_order=True)
    rows = []
    for line, hypothesis, reference in zip(lines, hypotheses, references, strict=True):
        found = metric.sentence_score(hypothesis, [reference])
        rows.append("\t".join(map(str, [line, found.sys_len, found.ref_len, *found.counts, *found.totals])) + "\n")
    with whole_file(path) as temporary:
        temporary.write_bytes(gzip.compress("".join(rows).encode(), mtime=0))
