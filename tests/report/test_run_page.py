"""The page of a run: what its record says, and the command that gives the run again."""

from pathlib import Path

import pytest

from normplugins.report.run_page import command
from normplugins.runs.cell import join_cell_name
from tests.helpers.records import language_model, put, put_diverged, put_translated, record, scored

CELL = "pn,norm.group_scaling=false,optimization.lr=0.01"


@pytest.mark.slow
def test_a_page_stands_beside_each_record(page, tmp_path: Path) -> None:
    corpus = {"corpus": "multi30k", "counts": {"train": {"pairs": 1234}}, "notes": ["3 pairs dropped"],
              "sha256": {"bin/train.bin": "f00d"}, "inputs": {"train.de.gz": "cafe"}}  # fmt: skip
    put_translated(tmp_path, CELL, 2, {1: 30}, corpus=corpus, config={"optimization.lr": [0.01]})
    put_diverged(tmp_path, "multi30k", "pn", 1)
    page()
    link = f"runs/multi30k/{CELL}/seed2.md"
    assert not (tmp_path / "runs/multi30k/pn/seed1.md").exists()
    text = (tmp_path / link).read_text()
    assert text.index("averaged") < text.index("| BLEU")
    assert "[Record](seed2.json)" in text
    assert (tmp_path / link).parent.joinpath("../../../README.md").is_file()
    assert "| optimization.lr | [0.01] |" in text
    for part in ("1,234", "- 3 pairs dropped", "f00d  bin/train.bin", "cafe  train.de.gz", "| python | 3.11.0 |"):
        assert part in text
    epochs = [line for line in text.partition("## Loss")[2].partition("##")[0].splitlines() if line.startswith("|")]
    assert len(epochs) == 2 + 12
    assert "|    12 |  1,200 |" in epochs[-1]


def test_a_cell_whose_name_is_cut_inside_a_value_is_marked(page, tmp_path: Path) -> None:
    cell = join_cell_name("pn", [f"model.{'x' * 90}=1", "optimization.lr=0.0123456789123456"])
    put(tmp_path, record("demo", cell))
    page()
    assert "The name is cut" in (tmp_path / f"runs/demo/{cell}/seed1.md").read_text()


@pytest.mark.slow
def test_a_long_training_has_a_short_table(page, tmp_path: Path) -> None:
    put(tmp_path, record("demo", "ln", floor=4.0, epochs=400, updates=40_000))
    page()
    lines = (tmp_path / "runs/demo/ln/seed1.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|") and line.count("|") > 4]
    assert 20 < len(rows) < 35
    assert "40,000" in rows[-1]


def test_the_page_of_a_record_that_is_gone_goes_too(page, tmp_path: Path) -> None:
    put(tmp_path, record("demo", "ln"))
    gone = put(tmp_path, record("demo", "pn"))
    page()
    gone.unlink()
    page()
    assert [path.parent.name for path in tmp_path.rglob("seed1.md")] == ["ln"]


@pytest.mark.parametrize(
    ("commit", "checkout"),
    [
        ("v0.4.0", ["git checkout v0.4.0", "make setup"]),
        ("v0.5.0.dev0+g0123456789ab", ["git checkout 0123456789ab", "make setup"]),
        ("v0.5.0.dev0", []),
    ],
)
def test_the_command_of_an_installed_package_names_a_commit_if_it_is_known(commit, checkout) -> None:
    content = record("multi30k", "ln") | {"git_commit": commit}
    assert command(content).splitlines()[: len(checkout) + 1] == [*checkout, "normplugins run multi30k \\"]


def test_the_command_has_the_settings_as_they_are_typed() -> None:
    content = record("multi30k", f"{CELL},processes=2", 3)
    content["config"] |= {"optimization.lr": [0.01], "norm.group_scaling": False, "hardware.name": "cpu"}
    checkout, setup, *lines = command(content | {"git_commit": "abc+changes"}).splitlines()
    assert (checkout, setup) == ("git checkout abc", "make setup")
    assert [line.strip(" \\") for line in lines] == [
        *("normplugins run multi30k", "norm=pn", "norm.group_scaling=false", "'optimization.lr=[0.01]'"),
        *("hardware.processes=2", "seed=3", "hardware=cpu", f"hardware.threads={content['hardware']['threads']}"),
    ]


def test_the_command_names_options_of_groups_too() -> None:
    words = command(language_model("ptb", "ln,budget=cpu,model.causal=true")).replace("\\\n", "").split()
    assert words[2:-1] == ["ptb", "norm=ln", "budget=cpu", "model.causal=true", "seed=1"]


def test_the_command_of_a_user_s_own_text_names_its_files() -> None:
    content = record("my_text", "ln", corpus="custom")
    content["config"] |= {"corpus.train": "train", "corpus.source": "fr", "corpus.test_size": 500}
    words = command(content).replace("\\\n", "").split()
    assert words[:3] == ["normplugins", "run", "custom"]
    assert {"experiment=my_text", "corpus.train=train", "corpus.source=fr", "corpus.test_size=500"} < set(words)


def test_a_run_without_scores_says_so(page, tmp_path: Path) -> None:
    put(tmp_path, scored(record("demo", "ln", metrics={}), {}))
    page()
    assert "This run was not scored." in (tmp_path / "runs/demo/ln/seed1.md").read_text()
