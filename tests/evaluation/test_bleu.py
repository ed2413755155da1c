"""BLEU equals values computed by hand and by sacreBLEU's own command; translations are in the order of the corpus."""

import hashlib
import json
import math
import subprocess
import sys
from typing import ClassVar

import pytest
import sacrebleu
from omegaconf import OmegaConf

from normplugins.corpora import corpus_config, prepare
from normplugins.corpora.tokenizer import detokenize
from normplugins.evaluation.bleu import TEST_SETS, bleu, score, split_compounds, translate, write_translations
from normplugins.evaluation.loading import load_model
from normplugins.evaluation.tasks import run_task
from normplugins.training import checkpoints
from normplugins.utils.files import write_lines
from tests.helpers.translations import corpus_bleu, read_translations


def test_bleu_worked_out_by_hand():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; no shorter than the reference
    score = bleu(["the cat sat on a mat"], ["the cat sat on the mat"], tokenize="none")
    assert score["score"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25, abs=1e-9)
    assert score["precisions"] == [83.33, 60.0, 50.0, 33.33]
    assert (score["brevity_penalty"], score["system_length"], score["reference_length"]) == (1.0, 6, 6)


def test_case_and_tokens():
    assert bleu(["A b c d."], ["a B c d ."], lowercase=True)["score"] == pytest.approx(100)
    assert bleu(["A b c d ."], ["a B c d ."], tokenize="none")["score"] < 100
    assert "tok:13a" in bleu(["a"], ["a"])["signature"]
    line = run_task("translation").describe(bleu(["a b c d"], ["a b c d"]))
    assert line == "BLEU = 100.00 100.0/100.0/100.0/100.0 (BP=1.000, syslen=4, reflen=4)"


@pytest.fixture(scope="module")
def corpus(trained):
    config = OmegaConf.load(trained.directory / "config.yaml")
    return prepare(corpus_config(config.corpus), trained.data_dir, echo=lambda line: None)


SEARCH = OmegaConf.create(
    {"beam": 2, "length_penalty": 1.0, "max_length_a": 0.0, "max_length_b": 20, "max_tokens": 8192}
)


def test_translations_are_in_the_order_of_the_corpus(trained, corpus):
    """Batches are made by length: few sentences a batch must give the same lines as all in one."""
    model, task = load_model(trained.directory / checkpoints.LAST, corpus.bin_dir, cpu=True)
    together = translate(model, task, corpus, SEARCH, "test")
    small = OmegaConf.merge(SEARCH, {"max_tokens": 120})
    assert together == translate(model, task, corpus, small, "test")
    assert len(together) == 20
    assert not any("@@" in line for line in together)


@pytest.mark.parametrize(
    ("line", "split"),
    [
        ("ein E-Mail-Konto", "ein E ##AT##-##AT## Mail ##AT##-##AT## Konto"),
        ("das Spiel - Platz 1- -2 -", "das Spiel - Platz 1- -2 -"),
        ("die @-@ Zeit", "die @ ##AT##-##AT## @ Zeit"),
        ("x-y-z", "x ##AT##-##AT## y-z"),  # as published: y belongs to the first split
        ("Ä-ß 2013-14", "Ä ##AT##-##AT## ß 2013 ##AT##-##AT## 14"),
        ("", ""),
    ],
)
def test_hyphens_within_words_are_split(line, split):
    assert split_compounds([line]) == [split]


class _References:
    """A corpus with these references in a folder."""

    source, target, score_tokenizer = "en", "de", "13a"
    manifest: ClassVar = {"lowercase": False}
    score_words = staticmethod(list)

    def __init__(self, folder, tokens, text):
        self.reference_tokens, self.reference_text = folder / "tokens.de", folder / "text.de"
        write_lines(self.reference_tokens, tokens)
        write_lines(self.reference_text, text)

    def to_tokens(self, lines):
        return list(lines)

    def to_text(self, lines):
        return detokenize(lines, "de")


def test_compounds_count_as_their_parts(tmp_path):
    corpus = _References(tmp_path, ["Wir sehen das E-Mail Konto heute ."], ["Wir sehen das E-Mail Konto heute."])
    found = score(["Wir sehen das E-Mail-Konto heute ."], corpus, compounds=True)["test"]
    assert list(found) == ["bleu_compound", "sacrebleu", "chrf2", "ter"]
    # hypothesis: Wir sehen das E ## Mail ## Konto heute . (10); reference: Wir sehen das E ## Mail Konto heute . (9)
    precisions = [9 / 10, 7 / 9, 5 / 8, 3 / 7]
    assert found["bleu_compound"]["score"] == pytest.approx(100 * math.prod(precisions) ** 0.25, abs=1e-9)
    assert (found["bleu_compound"]["system_length"], found["bleu_compound"]["reference_length"]) == (10, 9)
    assert "case:mixed" in found["bleu_compound"]["signature"]
    assert "|compounds:split|" in found["bleu_compound"]["signature"]
    plain = score(["Wir sehen das E-Mail-Konto heute ."], corpus)["test"]
    assert list(plain) == ["bleu", "sacrebleu", "chrf2", "ter"]
    assert "compounds" not in plain["bleu"]["signature"]
    assert plain["sacrebleu"] == found["sacrebleu"]
    assert "test:" not in found["sacrebleu"]["signature"]  # references of our own


@pytest.mark.slow
def test_scores_are_those_of_sacrebleu_s_own_command(tmp_path):
    """Tokens split by sed and scored from files; plain text against the references as written."""
    reference = ["Ein Test-Satz mit Maß und Ziel .", "Der 2013-er Wein , sagt sie , sei gut .", "Es war einmal ."]
    text = ["Ein Test-Satz mit Maß und Ziel.", "Der 2013-er Wein, sagt sie, sei gut.", "Es war einmal."]
    hypotheses = ["Ein Test Satz mit Maß und Ziel .", "Der 2013-er Wein sei gut , sagt sie .", "es war einmal ."]
    corpus = _References(tmp_path, reference, text)
    found = score(hypotheses, corpus, compounds=True)["test"]
    write_lines(tmp_path / "hypotheses", hypotheses)
    write_lines(tmp_path / "detokenized", corpus.to_text(hypotheses))
    for name in ("hypotheses", "tokens.de"):
        split = subprocess.run(
            ["sed", "-E", r"s/([^ ])-([^ ])/\1 ##AT##-##AT## \2/g", str(tmp_path / name)],
            env={"LC_ALL": "C.UTF-8"},
            capture_output=True,
            check=True,
        )
        (tmp_path / f"split.{name}").write_bytes(split.stdout)
    for metric, files, options in (
        ("bleu_compound", ("split.tokens.de", "split.hypotheses"), ["--tokenize", "none", "--force"]),
        ("sacrebleu", ("text.de", "detokenized"), []),
        ("chrf2", ("text.de", "detokenized"), ["--metrics", "chrf"]),
        ("ter", ("text.de", "detokenized"), ["--metrics", "ter", "--ter-case-sensitive"]),
    ):
        one, other = (str(tmp_path / file) for file in files)
        command = [sys.executable, "-m", "sacrebleu", one, "-i", other, "--width", "9", *options]
        said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        assert found[metric]["score"] == pytest.approx(said["score"], abs=1e-8)
        assert found[metric]["signature"].replace("|compounds:split", "") == said["signature"]


def test_the_signature_names_a_test_set_of_sacrebleu_if_the_references_are_equal(tmp_path, monkeypatch):
    text = ["Es war einmal.", "Und so weiter."]
    digest = hashlib.sha256("".join(f"{line}\n" for line in text).encode()).hexdigest()
    monkeypatch.setitem(TEST_SETS, digest, "wmt14/full")
    found = score(["Es war einmal ."] * 2, _References(tmp_path, text, text), compounds=True)["test"]
    assert found["sacrebleu"]["signature"].startswith("nrefs:1|test:wmt14/full|lang:en-de|case:mixed|eff:no|tok:13a|")
    assert "test:" not in found["bleu_compound"]["signature"]  # tokens of ours, which sacreBLEU does not know
    assert "wmt14/full" in sacrebleu.get_available_testsets()
    changed = _References(tmp_path, text, [text[0], "und so weiter."])
    assert "test:" not in score(["Es war einmal ."] * 2, changed)["test"]["sacrebleu"]["signature"]


HYPOTHESES = ["the cat sat on a mat", "", "a b c d e f", "tab\tand \u2028 separator", "x"]
REFERENCES = ["the cat sat on the mat", "not translated", "a b c d e f", "tab and a separator", "y z"]


def sacrebleu_s(lines, references):
    return sacrebleu.metrics.BLEU(tokenize="none", force=True).corpus_score(lines, [references]).score


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The file that is kept of the made-up translations."""
    path = tmp_path_factory.mktemp("kept") / "one.tsv.gz"
    write_translations(path, HYPOTHESES, HYPOTHESES, REFERENCES)
    return path


@pytest.mark.parametrize("chosen", [[0], [1], [0, 1, 2, 3, 4], [2, 2, 0, 4], [4, 4, 4], [3, 1], []])
def test_bleu_of_any_resample_is_sacrebleu_s(chosen, kept):
    statistics = read_translations(kept)[1][chosen]
    resampled = [[lines[index] for index in chosen] for lines in (HYPOTHESES, REFERENCES)]
    assert corpus_bleu(statistics) == (sacrebleu_s(*resampled) if chosen else 0.0)


def test_equal_content_makes_equal_bytes(kept, tmp_path):
    write_translations(tmp_path / "other.tsv.gz", HYPOTHESES, HYPOTHESES, REFERENCES)
    written = (tmp_path / "other.tsv.gz").read_bytes()
    assert written == kept.read_bytes()
    assert written[4:8] == bytes(4), "the time of writing"
    assert read_translations(kept)[0] == HYPOTHESES
    assert [path.name for path in tmp_path.iterdir()] == ["other.tsv.gz"]
