"""``normplugins analyze embedding`` on tiny runs: its table, which grows by run, and its figure."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from normplugins.cli import main
from normplugins.report.embedding_figure import COLUMNS, TABLE, spectrum
from normplugins.report.measured import read_measured
from normplugins.report.probe_table import runs_shown
from normplugins.runs.record import FORMAT
from normplugins.training import checkpoints
from normplugins.utils.errors import UserError
from normplugins.utils.json_file import write_json
from tests.helpers.pictures import assert_legible, written
from tests.helpers.runs import OTHER_CONFIG


def make_run(folder: Path, cell: str, values: list[float], seed: int = 1) -> Path:
    """Write what is read of a finished run, whose embedding has these singular values."""
    run = folder / cell / f"seed{seed}"
    run.mkdir(parents=True, exist_ok=True)
    named = f"experiment: multi30k, variant: '{cell}', seed: {seed}"
    (run / "config.yaml").write_text(OTHER_CONFIG.replace("experiment: other, variant: bn, seed: 1", named))
    write_json(run / "record.json", {"format": FORMAT, "experiment": "multi30k", "variant": cell, "seed": seed})
    turned = torch.linalg.qr(torch.randn(4, 4)).Q[:, : len(values)] * torch.tensor(values)
    embeddings = {f"{stack}.embed_tokens.weight": turned.clone() for stack in ("encoder", "decoder")}
    checkpoints.write({"model": {**embeddings, "encoder.other.weight": torch.ones(2, 2)}}, run / "checkpoint_best.pt")
    return run


def test_runs_are_added_to_the_table_and_replaced_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = ["--results", str(tmp_path)]
    assert spectrum(tmp_path) is None
    pn = make_run(tmp_path / "runs", "pn", [1.0, 4.0])
    assert main(["analyze", "embedding", str(pn), *results]) == 0
    assert f"written: {tmp_path / TABLE}" in capsys.readouterr().out
    runs = [make_run(tmp_path / "runs", "ln", [2.0, 6.0], seed) for seed in (1, 2)]
    scaled = make_run(tmp_path / "runs", "pn,norm.group_scaling=false", [2.0, 3.0])
    make_run(tmp_path / "runs", "pn", [1.0, 5.0])
    assert main(["analyze", "embedding", *map(str, [pn, scaled, *runs]), *results]) == 0
    table = pd.read_csv(tmp_path / TABLE)
    assert list(table["cell"].unique()) == ["ln", "pn", "pn,norm.group_scaling=false"]
    assert {*table["embedding"]} == {"encoder.embed_tokens"}  # the decoder's is the same
    assert list(table.query("cell == 'pn'")["singular_value"]) == pytest.approx([5.0, 1.0])
    found = spectrum(tmp_path)
    assert found is not None
    figure, shown = found
    assert runs_shown(shown) == "ln (seeds 1, 2); pn, pn,norm.group_scaling=false (seed 1)"
    assert "no group scaling" in written(figure)
    assert figure.axes[1].get_title() == "pn"
    ratios = figure.axes[1].lines
    assert [line.get_linestyle() for line in ratios] == ["-", "-", "--", "-"]
    assert list(ratios[2].get_ydata()) == pytest.approx([1.0, (1 / 5) / (2 / 6)])
    assert_legible(figure)


def test_what_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "embedding", str(tmp_path / "none"), "--results", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / TABLE).write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"embedding_singular_values\.csv cannot be read .*: remove it"):
        read_measured(tmp_path / TABLE, COLUMNS)
