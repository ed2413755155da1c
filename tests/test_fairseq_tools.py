"""fairseq's command-line tools: the stock ones, and the mean of checkpoints."""

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from fairseq.models.transformer import TransformerModel

from normplugins.fairseq_tools import AVERAGE, TOOLS
from tests.helpers.corpora import sentences
from tests.helpers.runs import command, load, succeed

SIZES = [f"--{side}-{name}" for side in ("encoder", "decoder") for name in ("layers=1", "embed-dim=8")]
TRAINING = [
    *("--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam", "--lr", "0.01", "--max-tokens", "500"),
    *("--max-update", "3", "--share-all-embeddings", "--no-progress-bar", "--cpu", "--dropout", "0.1"),
]


def write(path, value):
    torch.save({"model": {"weight": torch.full((2,), float(value))}, "extra_state": {}}, path)
    return path


def test_each_tool_has_a_console_script_and_fairseq_has_no_other():
    ours, fairseqs = (
        {script.name for script in distribution(package).entry_points if script.name.startswith("fairseq-")}
        for package in ("normplugins", "fairseq")
    )
    assert ours == {f"fairseq-{tool}" for tool in TOOLS}
    assert fairseqs == ours - {f"fairseq-{AVERAGE}"}


@pytest.mark.parametrize(
    ("options", "mean"),
    [
        (["--num-epoch-checkpoints", 2], 6.5),
        (["--num-epoch-checkpoints", 2, "--checkpoint-upper-bound", 3], 2.5),
        (["--num-update-checkpoints", 2], 35),
    ],
)
def test_the_last_checkpoints_are_averaged(tmp_path, accepted, options, mean):
    for epoch in (2, 3, 10):
        write(tmp_path / f"checkpoint{epoch}.pt", epoch)
    for update, value in ((100, 10), (900, 30), (1000, 40)):
        write(tmp_path / f"checkpoint_1_{update}.pt", value)
    write(tmp_path / "checkpoint_best.pt", 1000)
    output = tmp_path / "mean.pt"
    accepted("fairseq", AVERAGE, "--inputs", tmp_path, "--output", output, *options)
    assert load(output)["model"]["weight"].tolist() == [mean, mean]


def test_given_files_are_averaged_and_too_few_are_refused(tmp_path, accepted, refused):
    paths = [write(tmp_path / f"{value}.pt", value) for value in (1, 3)]
    accepted("fairseq", AVERAGE, "--inputs", *paths, "--output", tmp_path / "mean.pt")
    assert load(tmp_path / "mean.pt")["model"]["weight"].tolist() == [2, 2]
    line = refused("fairseq", AVERAGE, "--inputs", tmp_path, "--output", "x.pt", "--num-epoch-checkpoints", 3)
    assert "holds 0 of the 3 checkpoints to average" in line


@pytest.mark.parametrize(("folders", "count"), [(1, -1), (1, 0), (2, 1)])
def test_the_last_checkpoints_are_those_of_one_folder(tmp_path, refused, folders, count):
    write(tmp_path / "checkpoint1.pt", 1)
    inputs = [tmp_path] * folders
    line = refused("fairseq", AVERAGE, "--inputs", *inputs, "--output", "x.pt", "--num-epoch-checkpoints", count)
    assert "give one folder" in line


def tool(name, *arguments, folder):
    """Run one of fairseq's tools, which must succeed, and return its output."""
    return succeed(["fairseq", name, *arguments], folder)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A folder with a corpus, a stock model and one of ours."""
    folder = tmp_path_factory.mktemp("session")
    for split, count in (("train", 60), ("valid", 10), ("test", 10)):
        for language, lines in zip(("de", "en"), sentences(count), strict=True):
            (folder / f"{split}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prefixes = [f"--{split}pref={split}" for split in ("train", "valid", "test")]
    joined = ["--source-lang", "de", "--target-lang", "en", "--joined-dictionary", "--destdir", "bin"]
    tool("preprocess", *prefixes, *joined, folder=folder)
    for save, model in (
        ("stock", ["--arch", "transformer_iwslt_de_en"]),
        ("ours", ["--arch", "transformer_pn_iwslt_de_en"]),
    ):
        heads = ["--encoder-attention-heads", "2", "--decoder-attention-heads", "2"]
        tool("train", "bin", *model, *SIZES, *heads, *TRAINING, "--save-dir", save, folder=folder)
    return folder


@pytest.mark.slow
def test_an_ensemble_of_a_stock_model_and_ours_translates_without_a_user_dir(session):
    paths = "stock/checkpoint_best.pt:ours/checkpoint_best.pt"
    options = ["bin", "--path", paths, "--cpu", "--max-len-b", "9"]
    said = tool("generate", *options, folder=session)
    assert sum(line.startswith("H-") for line in said.splitlines()) == 10
    script = Path(sys.executable).with_name("fairseq-interactive")
    with (session / "test.de").open() as text:
        again = subprocess.run([script, *options], cwd=session, stdin=text, capture_output=True, text=True, check=True)
    found, expected = ({line for line in out.splitlines() if line.startswith("D-")} for out in (again.stdout, said))
    assert {line.split("\t")[2] for line in found} == {line.split("\t")[2] for line in expected}


@pytest.mark.slow
@pytest.mark.parametrize("save", ["stock", "ours"])
def test_from_pretrained_with_a_user_dir(session, save):
    model = TransformerModel.from_pretrained(
        str(session / save), "checkpoint_best.pt", str(session / "bin"), user_dir="normplugins"
    )
    line = (session / "test.de").read_text(encoding="utf-8").splitlines()[0]
    alone, together = model.translate(line), model.translate([line, line])
    assert together == [alone, alone]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("generate", ["bin", "--path", "missing.pt"], "Model file not found: missing.pt"),
        ("train", ["nowhere", "--arch", "transformer", "--max-tokens", "9"], "nowhere"),
        ("preprocess", ["--trainpref", "train", "-s", "de", "-t", "en", "--destdir", "bin"], "bin/dict.de.txt"),
        ("generate", ["bin", "--path", "x.pt", "--sampling"], "--sampling requires --nbest"),
        ("hydra-train", ["task=translation", "dataset.max_tokns=3"], "Could not override 'dataset.max_tokns'"),
        ("validate", ["bin", "--path", "x.pt"], "name the task, --task translation or --task language_modeling"),
    ],
)
def test_a_mistake_that_fairseq_reports_is_one_line(session, normplugins, monkeypatch, tool, arguments, said):
    monkeypatch.chdir(session)
    status, _, errors = normplugins("fairseq", tool, *arguments)
    assert status == 1
    assert "Traceback" not in errors
    line = errors.splitlines()[-1]
    assert line.startswith(f"normplugins: fairseq-{tool}: ")
    assert said in line


@pytest.mark.slow
def test_a_scaled_loss_is_refused_before_training_with_pn(session, refused, monkeypatch):
    monkeypatch.chdir(session)
    line = refused("fairseq", "train", "bin", "--arch", "transformer_pn_iwslt_de_en", "--fp16", *TRAINING)
    assert "--fp16 changes the scale of the loss, and pn keeps" in line


@pytest.fixture(scope="module")
def language_model(transformer_lm):
    (data,) = transformer_lm.data_dir.glob("*/*/bin")
    return [str(data), "--path", str(transformer_lm.directory / "checkpoint_best.pt"), "--cpu", "--num-workers", "0"]


def test_eval_lm_refuses_segments_that_the_model_does_not_take(language_model, tmp_path):
    short = ["--model-overrides", "{'max_positions': 4}", "--tokens-per-sample", "8"]
    status, said = command(["fairseq", "eval-lm", *language_model, *short], tmp_path)
    assert status == 1
    assert "no token was scored" in said.splitlines()[-1]


def test_sentences_score_the_same_alone_and_in_batches(language_model, tmp_path):
    losses = []
    for size in ("1", "5"):
        cut = ["--sample-break-mode", "eos", "--tokens-per-sample", "8", "--batch-size", size]
        said = succeed(["fairseq", "eval-lm", *language_model, *cut], tmp_path)
        losses.append(next(line for line in said.splitlines() if "Loss (base 2)" in line).partition("Loss")[2])
    assert losses[0] == losses[1]


def test_a_language_model_continues_text(language_model, tmp_path):
    options = ["--task", "language_modeling", "--sample-break-mode", "eos", "--tokens-per-sample", "8"]
    lengths = ["--prefix-size", "1", "--beam", "2", "--max-len-b", "6", "--skip-invalid-size-inputs-valid-test"]
    said = succeed(["fairseq", "generate", *language_model, *options, *lengths], tmp_path)
    texts = {line[2:].partition("\t")[0]: line.split("\t")[-1] for line in said.splitlines() if line.startswith("T-")}
    found = {line[2:].partition("\t")[0]: line.split("\t")[-1] for line in said.splitlines() if line.startswith("H-")}
    assert found
    assert all(found[index].split()[0] == texts[index].split()[0] for index in found)
