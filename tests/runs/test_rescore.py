"""``normplugins evaluate``: only settings of the search or of the windows can change, and the run stays unchanged."""

import re
import shutil

import pytest
from omegaconf import OmegaConf

from tests.helpers.runs import change_json, files, unseal


def test_scores_are_printed_and_the_run_stays_unchanged(trained, accepted, at_trained):
    before = trained.result.read_bytes(), (trained.directory / "test.hypotheses").read_bytes()
    said = accepted("evaluate", "run")
    bleu_line = next(line for line in said.splitlines() if line.startswith("bleu: "))
    assert bleu_line in trained.output.splitlines()
    said = accepted("evaluate", "run", "evaluate.beam=1", "hardware.threads=1")
    assert re.search(r"^bleu: BLEU = \d+\.\d\d .*\n  nrefs:1\|case:mixed\|eff:no\|tok:none", said, re.MULTILINE)
    assert re.search(r"^sacrebleu: BLEU = \d+\.\d\d .*\n  nrefs:1\|case:lc\|eff:no\|tok:13a", said, re.MULTILINE)
    assert (trained.result.read_bytes(), (trained.directory / "test.hypotheses").read_bytes()) == before


def test_a_run_without_newer_settings_is_scored_with_a_warning(trained, normplugins, accepted, at_trained, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(trained.directory, old)
    config = OmegaConf.load(old / "config.yaml")
    for key in ("translate", "split_compounds", "recalibrate"):
        del config.evaluate[key]
    config.train.probe = None
    OmegaConf.save(config, old / "config.yaml")
    unseal(old / "checkpoint_averaged.pt")
    before = files(old)
    _, said, errors = normplugins("evaluate", old)
    assert errors.count(f"the checkpoints in {old} name no run") == 1
    assert next(line for line in said.splitlines() if line.startswith("bleu: ")) in trained.output.splitlines()
    said = accepted("evaluate", old, "evaluate.recalibrate=3")
    assert re.search(r"re-estimated the running statistics on 3 batches \([\d,]+ tokens\)", said)
    assert "bleu: BLEU = " in said
    assert files(old) == before


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.dropout=0"], ["model.dropout=0", "evaluate.length_penalty"]),
        (["evaluate.beems=2"], ["evaluate.beems", "beam", "length_penalty"]),
        (["evaluate.beam"], ["evaluate.beam"]),
        (["evaluate.beam=many"], ["evaluate.beam", "many"]),
        (["evaluate.beam=1,2"], ["'evaluate.beam=1,2' has several values"]),
        (["evaluate.beam=${"], ["evaluate.beam=${ cannot be read"]),
        (["evaluate.beam=${x}"], ["evaluate.beam=${x} cannot be read"]),
        (["common.cpu=fals"], ["common.cpu=fals: true or false is needed"]),
        (["evaluate.checkpoint=newest"], ["evaluate.checkpoint=newest", "averaged, last, best"]),
    ],
)
def test_settings_that_do_not_change_the_score_are_refused(overrides, words, refused, at_trained):
    line = refused("evaluate", "run", *overrides)
    assert all(word in line for word in words), line


def test_a_data_folder_that_fairseq_would_split_is_refused(trained, refused, at_trained, tmp_path):
    (tmp_path / "at 10:30").symlink_to(trained.folder)  # a colon that a resolved path hides
    place = tmp_path / "at 10:30" / "data"
    message = f"data_dir={place}: fairseq splits paths at ':', so name a folder without a colon"
    assert refused("evaluate", "run", f"data_dir={place}").endswith(message)
    assert refused("run", "demo", "dry_run=true", f"data_dir={place}").endswith(message)
    run = shutil.copytree(trained.directory, tmp_path / "run")
    config = OmegaConf.load(run / "config.yaml")
    config.data_dir = str(place)
    OmegaConf.save(config, run / "config.yaml")
    assert refused("translate", run, tmp_path / "text").endswith(message)


def test_a_folder_may_be_named_like_a_number(trained, accepted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "010").symlink_to(trained.data_dir)
    said = accepted("evaluate", trained.directory, "data_dir=010")
    assert next(line for line in said.splitlines() if line.startswith("bleu: ")) in trained.output.splitlines()


def test_a_missing_checkpoint_is_refused(trained, refused, at_trained, tmp_path):
    run = shutil.copytree(trained.directory, tmp_path / "run")
    (run / "checkpoint_averaged.pt").unlink()
    (run / "checkpoint_best.pt").unlink()
    for name in ("averaged", "best"):
        line = refused("evaluate", run, f"evaluate.checkpoint={name}")
        assert f"checkpoint_{name}.pt is missing in" in line
        assert "evaluate.checkpoint=last" in line


def test_the_checkpoint_is_a_setting_of_evaluate_only(trained, refused, tmp_path, monkeypatch):
    assert not [key for key in trained.record["config"] if "checkpoint" in key and key.startswith("evaluate")]
    monkeypatch.chdir(tmp_path)
    for override in ("evaluate.checkpoint=last", "+evaluate.checkpoint=last"):
        assert "checkpoint" in refused("run", "demo", "tracking=none", override)
    assert not list(tmp_path.iterdir())


def test_a_language_model_has_no_mean_by_default(tensor_lm, accepted, refused, at_home, tmp_path):
    at_home(tensor_lm.folder)
    assert "has no averaged checkpoint" in refused("evaluate", "run", "evaluate.checkpoint=averaged")
    said = accepted("evaluate", "run", "evaluate.checkpoint=last", "--save", tmp_path)
    assert f"ppl: perplexity = {tensor_lm.record['scores']['last']['test']['ppl']['score']:.2f} " in said
    name = "test.last.logprobs.npy"
    assert (tmp_path / name).read_bytes() == (tensor_lm.directory / name).read_bytes()


def test_another_corpus_than_the_runs_is_refused(trained, refused, at_trained, tmp_path):
    run = shutil.copytree(trained.directory, tmp_path / "run")
    change_json(run / "provenance.json", corpus="another")
    assert f"has changed since the run in {run} began" in refused("evaluate", run)
    (run / "provenance.json").unlink()  # the record names the corpus too
    change_json(run / "record.json", corpus={**trained.record["corpus"], "sha256": {}})
    assert f"has changed since the run in {run} began" in refused("evaluate", run)


def test_a_run_folder_without_provenance_is_scored_with_a_warning(trained, accepted, at_trained, tmp_path):
    for name in ("config.yaml", "checkpoint_last.pt"):
        shutil.copy(trained.directory / name, tmp_path)
    said = accepted("evaluate", tmp_path, "evaluate.checkpoint=last")
    assert f"{tmp_path} does not name the corpus of its run" in said
    score = trained.record["scores"]["last"]["test"]["bleu"]["score"]
    assert f"bleu: BLEU = {score:.2f} " in said


def test_outputs_are_saved_in_the_given_folder(tensor_lm, accepted, at_home, tmp_path):
    at_home(tensor_lm.folder)
    accepted("evaluate", "run", "--save", tmp_path / "again")
    assert (tmp_path / "again" / "test.logprobs.npy").read_bytes() == (
        tensor_lm.directory / "test.logprobs.npy"
    ).read_bytes()
    accepted("evaluate", "run", "evaluate.context=4", "--save", tmp_path / "sliding")
    assert (tmp_path / "sliding" / "test.logprobs.npy").read_bytes() != (
        tensor_lm.directory / "test.logprobs.npy"
    ).read_bytes()


def test_a_folder_that_cannot_be_written_is_refused(tensor_lm, refused, at_home, tmp_path):
    at_home(tensor_lm.folder)
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused("evaluate", "run", "--save", tmp_path / "file")
