"""A trained run in use: what it translates, scores and generates is what the run's own scoring found."""

import gzip
import io
import math
import shutil
import sys

import numpy as np
import pytest

import normplugins as package
from normplugins.models.language_model import NormTransformerLM
from normplugins.models.transformer import NormTransformer
from normplugins.utils.errors import UserError


@pytest.fixture
def stdin(monkeypatch):
    return lambda text: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.fixture
def source(trained):
    (path,) = trained.data_dir.glob("*/*/tokenized/source.text.*")
    return path


@pytest.fixture
def hypotheses(trained):
    return (trained.directory / "test.hypotheses").read_text(encoding="utf-8").splitlines()


def test_the_raw_test_set_gives_the_translations_that_were_scored(
    trained, normplugins, accepted, at_trained, source, hypotheses, tmp_path
):
    status, said, errors = normplugins("translate", "run", source)
    assert (status, errors) == (0, "")
    assert said.splitlines() == hypotheses  # of given tokens, which stay tokens
    for name in ("last", "best"):
        expected = (trained.directory / f"test.{name}.hypotheses").read_text(encoding="utf-8")
        assert accepted("translate", f"run/checkpoint_{name}.pt", source) == expected
    packed, output = tmp_path / "test.gz", tmp_path / "new" / "output"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    assert normplugins("translate", "run", packed, "--output", output) == (0, "", "")
    assert output.read_text(encoding="utf-8").splitlines() == hypotheses


def test_order_empty_lines_and_unknown_words(normplugins, at_trained, source, hypotheses, stdin):
    lines = source.read_text(encoding="utf-8").splitlines()
    stdin(f"{lines[3].upper()}\r\n\n  \n{lines[1]}\nthe 漢字 the 漢\n")
    status, said, errors = normplugins("translate", "run")
    assert status == 0
    assert said.splitlines()[:4] == [hypotheses[3], "", "", hypotheses[1]]
    assert errors == "2 words that the vocabulary cannot spell, read as <unk>: 漢字 漢\n"
    stdin("")
    assert normplugins("translate", "run") == (0, "", "")


def test_nbest_and_scores(normplugins, at_trained, source, hypotheses):
    status, said, _ = normplugins("translate", "run", source, "--nbest", 2, "--scores")
    rows = [line.split("\t") for line in said.splitlines()]
    assert (status, [row[0] for row in rows[:4]]) == (0, ["1", "1", "2", "2"])
    assert [row[2] for row in rows[::2]] == hypotheses
    assert all(0 > float(best[1]) >= float(second[1]) for best, second in zip(rows[::2], rows[1::2], strict=True))


def test_what_cannot_be_translated(refused, at_trained, tmp_path, stdin):
    text = tmp_path / "text"
    text.write_text("fine\n" + "the " * 1100 + "\n", encoding="utf-8")
    line = refused("translate", "run", text, "--output", tmp_path / "output")
    assert f"{text}, line 2: " in line
    assert "max_source_positions" in line
    assert not (tmp_path / "output").exists()
    text.write_text("fine\na </s> b\n", encoding="utf-8")
    assert f"{text}, line 2: </s> would be read as a symbol" in refused("translate", "run", text)
    text.write_text("fine\n", encoding="utf-8")
    assert "a beam of 2" in refused("translate", "run", text, "--nbest", 3)
    for beam in (0, -1):
        assert refused("translate", "run", text, "--beam", beam).endswith(f"a beam of {beam}: must be at least 1")
    for name in ("config.yaml", "train.log"):
        line = refused("translate", f"run/{name}", text)
        assert f"run/{name} was refused: it is damaged or not a checkpoint" in line
        assert "cp " not in line
    assert "holds no run" in refused("translate", tmp_path, text)
    assert "this is a translation run" in refused("score", "run", text)
    assert "cannot read" in refused("translate", "run", tmp_path / "nothing")


def test_from_python(at_trained, source, hypotheses):
    lines = source.read_text(encoding="utf-8").splitlines()
    run = package.load("run")
    assert run.translate(lines) == hypotheses
    assert (run.config.norm.name, run.record["scored_by"], run.checkpoint) == (
        "pn",
        "averaged",
        "checkpoint_averaged.pt",
    )
    hub = NormTransformer.from_pretrained("run")
    assert hub.translate(lines, beam=2, max_len_b=20) == hypotheses
    with pytest.raises(UserError, match="not a NormTransformerLM"):
        NormTransformerLM.from_pretrained("run")


def test_a_missing_mean_is_refused(trained, refused, at_trained, source, tmp_path):
    run = shutil.copytree(trained.directory, tmp_path / "run")
    (run / "checkpoint_averaged.pt").unlink()
    assert f"by its path {run}/checkpoint_last.pt" in refused("translate", run, source)


def test_scores_of_the_test_text_are_the_records(transformer_lm, normplugins, at_home, made_up_text):
    at_home(transformer_lm.folder)
    text = made_up_text / "ptb.test.txt"
    status, said, errors = normplugins("score", "run", text)
    assert status == 0, errors
    header, *rows = [line.split("\t") for line in said.splitlines()]
    assert header == ["logprob_nats", "tokens", "line"]
    assert [row[2] for row in rows] == text.read_text(encoding="utf-8").splitlines()
    logprobs = np.load(transformer_lm.directory / "test.logprobs.npy").astype(float)
    ends = np.cumsum([int(row[1]) for row in rows])
    assert [float(row[0]) for row in rows] == pytest.approx(
        [part.sum() for part in np.split(logprobs, ends[:-1])], abs=1e-4
    )
    assert f"perplexity = {transformer_lm.record['metrics']['ppl']['score']:.2f} " in errors


def test_lines_are_scored_with_their_ends_and_unknown_words_are_named(transformer_lm, at_home):
    at_home(transformer_lm.folder)
    run = package.load("run")
    (line,) = run.score(["w1 w7 w0"])
    assert (line.tokens, line.words, run.score([])) == (4, 4, [])
    assert run.score(["w3 neu w4"])[0].tokens == 4
    assert run.unknown == ["neu"]


def test_text_is_continued(transformer_lm, normplugins, accepted, at_home, stdin, refused):
    at_home(transformer_lm.folder)
    stdin("w1 w2\nw3\n")
    status, said, errors = normplugins("generate", "run", "--max-tokens", 30)
    assert (status, errors) == (0, "")
    assert [line.split()[0] for line in said.splitlines()] == ["w1", "w3"]
    again = [accepted("generate", "run", "--prompt", "w1", "--seed", seed) for seed in (3, 3, 4, 5, 6)]
    assert again[0] == again[1]
    assert len(set(again)) > 1
    greedy = accepted("generate", "run", "--prompt", "w1 w2", "--temperature", 0)
    assert greedy == accepted("generate", "run", "--prompt", "w1 w2", "--temperature", 1e-9)
    for most in (0, -5):
        line = refused("generate", "run", "--prompt", "w1", "--max-tokens", most)
        assert line.endswith(f"at most {most} new tokens: must be at least 1")
    assert "the temperature is -1.0" in refused("generate", "run", "--temperature", -1)
    assert "the seed is 9223372036854775808" in refused("generate", "run", "--seed", 2**63)
    assert "cannot translate" in refused("translate", "run", transformer_lm.directory / "config.yaml")
    assert isinstance(NormTransformerLM.from_pretrained("run").models[0], NormTransformerLM)


def test_a_model_that_sees_the_future_is_labelled_and_continues_nothing(
    tensor_lm, normplugins, at_home, refused, stdin
):
    at_home(tensor_lm.folder)
    stdin("w1 w2\n")
    status, _, errors = normplugins("score", "run")
    assert status == 0
    assert "unmasked: every position sees the tokens after it" in errors
    assert math.isfinite(package.load("run").score(["w1 w2"])[0].logprob)
    assert "cannot generate text" in refused("generate", "run", "--prompt", "w1")
