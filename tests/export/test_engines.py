"""Runs exported for other decoding engines: the check against our beam search, and translate --engine."""

import json

import pytest

from normplugins.export import engines
from normplugins.runs.check import check_bfloat16
from normplugins.utils.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "package", "norm"), [("ctranslate2", "ctranslate2", "ln"), ("onnx", "onnxruntime", "pn")]
)
def test_it_translates_as_our_beam_search(engine, package, norm, request, tmp_path, monkeypatch, normplugins):
    pytest.importorskip(package, reason=f"{package} is not installed")
    run = request.getfixturevalue({"ln": "layer_norm", "pn": "trained"}[norm])
    monkeypatch.chdir(run.folder)
    status, said, errors = normplugins("export", "run", tmp_path / "model", "--format", engine)
    assert (status, errors) == (0, "")
    assert "20 of 20 test sentences translated as by our beam search" in said
    about = json.loads((tmp_path / "model" / "normplugins.json").read_text(encoding="utf-8"))
    assert (about["check"]["identical"], about["check"]["bleu_difference"]) == (20, 0.0)
    record = json.loads((run.directory / "record.json").read_text(encoding="utf-8"))
    assert about["check"]["our_bleu"] == pytest.approx(record["metrics"]["sacrebleu"]["score"]), "all test sentences"
    assert (tmp_path / "model" / "codes").is_file()
    (source,) = run.data_dir.glob("*/*/tokenized/source.text.*")
    expected = (run.directory / "test.hypotheses").read_text(encoding="utf-8")
    translate = ("translate", "run", source, "--engine", engine)
    status, said, errors = normplugins(*translate)
    assert (status, said) == (0, expected)
    assert errors.startswith(f"{engine}: 20 of 20")
    assert normplugins(*translate) == (0, expected, "")  # not exported again
    if engine == "ctranslate2":
        status, said, errors = normplugins(*translate, "--quantization", "int8")
        assert (status, len(said.splitlines())) == (0, 20)


@pytest.mark.slow
def test_own_search_in_bfloat16(trained, monkeypatch, normplugins):
    try:
        check_bfloat16(cpu=True)
    except UserError:
        pytest.skip("this processor has no bfloat16 arithmetic")
    monkeypatch.chdir(trained.folder)
    (source,) = trained.data_dir.glob("*/*/tokenized/source.text.*")
    plain, half = (
        normplugins("translate", "run", source, "--scores", "--precision", precision)[1].splitlines()
        for precision in ("float32", "bf16")
    )
    assert plain != half
    for one, other in zip(plain, half, strict=True):
        assert float(other.split("\t")[0]) == pytest.approx(float(one.split("\t")[0]), rel=0.03)


def test_refusals(trained, tmp_path, monkeypatch, refused, transformer_lm):
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed")
    monkeypatch.chdir(trained.folder)
    line = refused("export", "run", tmp_path / "model", "--format", "ctranslate2")
    assert "no norm pn, only ln" in line
    assert "--format onnx" in line
    assert "needs --engine own" in refused("translate", "run", "--engine", "onnx", "--precision", "bf16")
    assert "leave it out" in refused("export", "run", tmp_path / "model", "--quantization", "int8")
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    line = refused("export", "run", tmp_path / "model", "--format", "onnx")
    assert "onnx and onnxruntime not installed: pip install 'normplugins[onnx]'" in line
    assert not (tmp_path / "model").exists()
