"""Runs on the user's own text: a language model with a table of its own, and pairs that are longer than a batch."""

import json

import pytest

from tests.helpers.corpora import write_user_corpus
from tests.helpers.runs import MODEL, TINY_LM

LM = [item for item in TINY_LM if not item.startswith("corpus.")] + ["tracking=none", "optimization.max_update=6"]


@pytest.mark.slow
def test_a_language_model_of_own_text_after_a_refusal(accepted, refused, made_up_text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = [f"corpus.{split}={made_up_text / f'ptb.{split}.txt'}" for split in ("train", "valid")]
    (tmp_path / "bad.txt").write_text("w1 <pad> w2\n", encoding="utf-8")
    (tmp_path / "good.txt").write_text("w1 unseen w2\n" * 9 + "\n", encoding="utf-8")
    arguments = ["run", "custom_lm", "experiment=mine", "norm=pn", *LM, *text]
    assert "bad.txt, line 1: <pad>" in refused(*arguments, "corpus.test=bad.txt")
    said = accepted(*arguments, "corpus.test=good.txt")  # the same folder, the right settings
    assert "9 test words that the training text does not have: read as <unk>" in said
    assert "not masked" not in said
    (path,) = (tmp_path / "runs" / "mine").rglob("record.json")
    ppl = json.loads(path.read_text(encoding="utf-8"))["metrics"]["ppl"]
    assert ppl["signature"] == "level:word|tokens:37|segment:8|context:0|partial:counted|causal:yes"
    assert "holds a run with other settings (corpus.test: good.txt there" in refused(*arguments, "corpus.test=bad.txt")
    subwords = ["corpus.subword=bpe", "corpus.subword_size=4", "run_dir=bpe"]
    said = accepted(*arguments, "corpus.test=good.txt", *subwords)
    assert "level:word|bpe:" in said
    assert "|tokens:37|" in said
    (tmp_path / "results").mkdir()
    accepted("publish", "--force", path.parent)
    accepted("report")
    page = (tmp_path / "results" / "README.md").read_text(encoding="utf-8")
    assert "## mine" in page
    run_page = next((tmp_path / "results" / "runs").rglob("seed1.md")).read_text(encoding="utf-8")
    assert "normplugins run custom_lm \\\n    experiment=mine" in run_page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "longer_than"),
    [
        (["dataset.max_tokens=80"], "a batch (dataset.max_tokens=80) or the model takes"),
        (
            ["dataset.max_tokens=null", "dataset.batch_size=9"]
            + [f"{section}.max_{side}_positions=80" for section in ("task", "model") for side in ("source", "target")],
            "the model takes",
        ),
    ],
)
def test_training_pairs_longer_than_a_batch_or_the_model_takes_are_counted(
    accepted, tmp_path, monkeypatch, batch, longer_than
):
    monkeypatch.chdir(tmp_path)
    write_user_corpus(tmp_path, 60, valid=9, test=8)
    for language in ("de", "en"):
        path = tmp_path / f"train.{language}"
        lines = path.read_text(encoding="utf-8").splitlines()
        lines[:7] = [" ".join([line] * 12) for line in lines[:7]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = [f"corpus.{split}={split}" for split in ("train", "valid", "test")]
    small = ["corpus.subword_size=60", "hardware=cpu", "hardware.threads=1", "tracking=none", *batch]
    ends = ["optimization.max_epoch=1", "evaluate.average=1", "evaluate.translate=false", "run_dir=run"]
    said = accepted("run", "custom", "experiment=long", "norm=ln", *files, *MODEL, *small, *ends)
    assert json.loads((tmp_path / "run" / "record.json").read_text(encoding="utf-8"))["training"]["skipped"] == 7
    log = (tmp_path / "run" / "train.log").read_text(encoding="utf-8")
    assert f"7 training examples will be skipped: longer than {longer_than}\n" in log
    assert "7 training examples were skipped" in said
