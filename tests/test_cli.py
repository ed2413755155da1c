"""The command line: its help, its errors, and stock fairseq's tools with the plugin."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import normplugins as package
from normplugins.cli import main
from tests.helpers.runs import MODEL, command, load, succeed, write_malicious

COMMANDS = ["run", "list", "publish", "clean", "prepare", "evaluate", "report", "import-checkpoint", "fold", "fairseq"]


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"normplugins {package.__version__}\n"


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert [name for name in COMMANDS if not re.search(rf"^ +{name}\b", said, re.MULTILINE)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_has_a_default_without_a_meaning(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert "None" not in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nope"], ["report", "--nope"], ["fairseq", "nope"], ["prepare"]])
def test_invalid_command_lines(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: normplugins" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nope"], ["'nope'", "demo", "iwslt14"]),
        (["prepare", "nope"], ["'nope'", "multi30k"]),
        (["prepare", "demo", "corpus.train_size=many"], ["corpus.train_size", "many"]),
        (["prepare", "demo", "data_dir=/proc/x"], ["cannot write /proc/x/", "No such file or directory"]),
        (["evaluate", "nowhere"], ["nowhere", "holds no run"]),
        (["import-checkpoint", "nowhere.pt", "there.pt"], ["nowhere.pt"]),
        (["fold", "nowhere.pt"], ["nowhere.pt", "No such file"]),
    ],
)
def test_an_error_that_the_user_can_correct_is_one_line(arguments, words, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused(*arguments)
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir())


def test_prepare_prints_the_folder(trained, normplugins):
    sizes = ["corpus.train_size=300", "corpus.valid_size=20", "corpus.test_size=20", "corpus.subword_size=60"]
    status, said, _ = normplugins("prepare", "demo", f"data_dir={trained.data_dir}", *sizes)
    (folder,) = trained.data_dir.glob("demo/*/bin")
    assert (status, said.splitlines()[-1]) == (0, f"ready in {folder}")


@pytest.mark.slow
def test_a_fairseq_tool_prints_its_help(tmp_path):
    said = succeed(["fairseq", "validate", "--help"], tmp_path)
    assert "Traceback" not in said
    assert len(said.splitlines()) > 5


def test_fairseq_score(tmp_path):
    (tmp_path / "text").write_text("a b c d\n")
    status, said = command(["fairseq", "score", "--sys", "text", "--ref", "text"], tmp_path)
    assert (status, "BLEU4 = 100.00" in said) == (0, True)


@pytest.fixture(scope="module")
def data(trained):
    (folder,) = trained.data_dir.glob("demo/*/bin")
    return folder


@pytest.mark.slow
def test_hydra_train_with_the_model_as_a_config_group(data, tmp_path):
    arguments = [
        *("fairseq", "hydra-train", f"task.data={data}", "task=translation", "model=norm_transformer", *MODEL),
        *("model.share_all_embeddings=true", "model.encoder_norm=bn", "criterion=label_smoothed_nll"),
        *("optimizer=fused_adam", "lr_scheduler=inverse_sqrt", "optimization.lr=[0.01]", "optimization.max_update=2"),
        *("dataset.max_tokens=1500", "common.cpu=true", f"checkpoint.save_dir={tmp_path}/saved"),
    ]
    succeed(arguments, tmp_path)
    state = load(tmp_path / "saved" / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 2
    assert "encoder.layers.0.self_attention.norm.running_var" in state["model"]


@pytest.mark.slow
def test_malicious_checkpoint_is_refused_by_every_command_that_reads_one(data, tmp_path):
    proof = tmp_path / "proof"
    write_malicious(tmp_path / "evil.pt", proof)
    write_malicious(tmp_path / "run" / "checkpoint_averaged.pt", proof)
    (tmp_path / "run" / "config.yaml").write_text((data.parents[3] / "run" / "config.yaml").read_text())
    for arguments in (
        ["fairseq", "generate", str(data), "--path", "evil.pt"],
        ["fairseq", "validate", str(data), "--path", "evil.pt", "--task", "translation", "--max-tokens", "99"],
        ["evaluate", "run", f"data_dir={data.parents[2]}"],
        ["import-checkpoint", "evil.pt", "there.pt"],
        ["fold", "evil.pt", "there.pt"],
    ):
        status, said = command(arguments, tmp_path)
        assert status == 1, said
        assert "Traceback" not in said
        last = said.splitlines()[-1]
        assert last.startswith("normplugins: ")
        assert "refused" in last
        assert not proof.exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="the system has no device that is always full")
def test_output_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "runs").mkdir()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "normplugins", "list", "--json"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert re.fullmatch(r"normplugins: no space left to write the output: free some, .*\n", done.stderr), done.stderr
