"""Three checkpoints on four test sets: the scores of a record, and its translations."""

import json
from itertools import accumulate, pairwise

import pytest
import sacrebleu

from normplugins.corpora.multi30k import TEST_PARTS
from normplugins.corpora.tokenizer import detokenize
from normplugins.utils.files import read_lines, sha256
from normplugins.utils.json_file import HASH
from tests.helpers.corpora import write_multi30k
from tests.helpers.runs import MODEL, Trained, files, succeed
from tests.helpers.translations import corpus_bleu, read_translations

SIZES = (9, 8, 5, 7)  # of the four test sets
TINY = [
    *("norm=pn", "run_dir=run", "tracking=none", "hardware=cpu", "hardware.threads=1", "corpus.verify=false"),
    *("corpus.subword_size=60", "dataset.max_tokens=300", "lr_scheduler.warmup_updates=6", "common.log_interval=5"),
    *("evaluate.beam=2", "evaluate.max_length_b=10", "optimization.max_epoch=1", *MODEL),
]
COMMAND = ["run", "multi30k", *TINY]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """Files of Multi30k's names, with other text."""
    return str(write_multi30k(tmp_path_factory.mktemp("mirror") / "multi30k", SIZES).parent)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, mirror):
    folder = tmp_path_factory.mktemp("scored")
    said = succeed(COMMAND, folder, NORMPLUGINS_MIRROR=mirror)
    return Trained(folder, folder / "run", said)


def slices():
    ends = [0, *accumulate(SIZES)]
    return {"test": slice(None)} | {name: slice(*ends) for name, ends in zip(TEST_PARTS, pairwise(ends), strict=True)}


@pytest.mark.slow
def test_every_checkpoint_is_scored_on_each_test_set_and_on_all(scored):
    record = scored.record
    assert (record["format"], record["scored_by"]) == (2, "averaged")
    assert list(record["scores"]) == ["averaged", "last", "best"]
    assert record["metrics"] == record["scores"]["averaged"]["test"]
    assert record["corpus"]["test_sets"] == dict(zip(TEST_PARTS, SIZES, strict=True))
    (text,) = scored.data_dir.glob("multi30k/*/tokenized/reference.text.en")
    references = read_lines(text)
    for name, scores in record["scores"].items():
        assert list(scores) == ["test", *TEST_PARTS]
        output = "test.hypotheses" if name == "averaged" else f"test.{name}.hypotheses"
        plain = detokenize(read_lines(scored.directory / output), "en")
        for test_set, part in slices().items():
            found = scores[test_set]
            assert list(found) == ["bleu", "sacrebleu", "chrf2", "ter"]
            expected = sacrebleu.metrics.BLEU(lowercase=True).corpus_score(plain[part], [references[part]])
            assert (found["sacrebleu"]["score"], found["sacrebleu"]["reference_length"]) == (
                expected.score,
                expected.ref_len,
            )
            assert found["sacrebleu"]["brevity_penalty"] == round(expected.bp, 4)
            assert all("|case:lc|" in found[metric]["signature"] for metric in ("sacrebleu", "chrf2", "ter"))


def test_bleu_follows_from_the_published_translations(scored):
    record = scored.record
    assert set(record["translations"]) == {"averaged", "last", "best"}
    for name, kept in record["translations"].items():
        assert kept["file"] == f"seed1.{name}.tsv.gz"
        assert sha256(scored.directory / kept["file"]) == kept["sha256"]
        lines, statistics = read_translations(scored.directory / kept["file"])
        output = "test.hypotheses" if name == "averaged" else f"test.{name}.hypotheses"
        assert lines == read_lines(scored.directory / output)
        for test_set, part in slices().items():
            assert corpus_bleu(statistics[part]) == record["scores"][name][test_set]["bleu"]["score"]
    assert any(scores["test"]["bleu"]["score"] > 0 for scores in record["scores"].values())


def test_the_record_names_checkpoints_kernels_and_load(scored):
    record = scored.record
    for name, file in record["files"]["checkpoints"].items():
        assert file == {
            "file": f"checkpoint_{name}.pt",
            "sha256": sha256(scored.directory / f"checkpoint_{name}.pt"),
        }
    kernels = record["files"]["kernels"]
    assert isinstance(kernels, dict)
    assert all(name.endswith(".so") and len(digest) == 64 for name, digest in kernels.items())
    (load,) = record["hardware"]["load"]
    assert [len(load[moment]) for moment in ("start", "end")] == [3, 3]
    assert "later" not in record


def test_identical_checkpoints_are_translated_once(scored):
    """After one epoch, the last checkpoint is also the best one."""
    checkpoints = scored.record["files"]["checkpoints"]
    assert checkpoints["last"]["sha256"] == checkpoints["best"]["sha256"] != checkpoints["averaged"]["sha256"]
    done = json.loads((scored.directory / "scores.json").read_text(encoding="utf-8"))
    assert set(done) - {HASH} == {file["sha256"] for file in checkpoints.values()}
    assert scored.record["scores"]["last"] == scored.record["scores"]["best"]


def test_a_line_for_each_further_checkpoint_is_printed(scored):
    for name in ("last", "best"):
        found = scored.record["scores"][name]["test"]
        assert (
            f"\n{name}: BLEU {found['bleu']['score']:.2f}  sacreBLEU {found['sacrebleu']['score']:.2f} "
            f"(BP {found['sacrebleu']['brevity_penalty']:.3f})\n"
        ) in scored.output


@pytest.mark.slow
def test_evaluate_gives_the_score_of_the_record(scored, mirror):
    name, before = "last", files(scored.directory)
    said = succeed(["evaluate", "run", f"evaluate.checkpoint={name}"], scored.folder, NORMPLUGINS_MIRROR=mirror)
    scores = scored.record["scores"][name]
    assert f"bleu: BLEU = {scores['test']['bleu']['score']:.2f} " in said
    for test_set in TEST_PARTS:
        assert f"\n{test_set}: BLEU {scores[test_set]['bleu']['score']:.2f}  sacreBLEU " in said
    assert files(scored.directory) == before
