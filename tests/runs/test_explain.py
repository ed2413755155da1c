"""``run --cfg``: every key of the config with its value, its source and its documentation."""

import pytest

from normplugins.runs.cell import flatten
from normplugins.runs.compose import compose_config
from normplugins.runs.experiments import experiments, summary

OVERRIDES = ["norm=pn", "seed=3", "model.dropout=0.25", "budget=cpu"]


@pytest.mark.slow
def test_every_key_has_its_value_source_and_meaning(accepted):
    said = accepted("run", "ptb", "--cfg", *OVERRIDES)
    lines = dict(line.split("=", 1) for line in said.splitlines())
    assert set(lines) == {key for key, _ in flatten(compose_config("ptb", OVERRIDES))}
    assert lines["seed"] == "3  # command line: seed of every random generator"
    assert lines["model.dropout"].startswith("0.25  # command line: ")
    assert lines["optimization.max_update"].startswith("400  # configs/budget/cpu.yaml: ")
    assert lines["model.layers"].startswith("3  # configs/ptb.yaml: ")
    assert lines["model.embed_dim"].startswith("256  # configs/_language_model.yaml: ")
    assert lines["norm.warmup_updates"].startswith("60  # configs/norm/pn.yaml: ")
    assert lines["norm.alpha_fwd"] == "0.9  # default: decay of the running quadratic mean psi^2"
    assert lines["common.fp16"].startswith("false  # fairseq's default: ")
    assert lines["optimizer.adam_eps"].startswith("1e-08  # default of optimizer=")


def test_run_alone_lists_the_experiments(accepted):
    said = accepted("run")
    for name in experiments():
        assert summary(name) in said
    assert summary("iwslt14") == "IWSLT14 de-en, Table 1 of the paper."


def test_a_typing_error_is_refused_as_in_a_run(refused):
    assert "did you mean model.dropout?" in refused("run", "ptb", "--cfg", "dropout=0.1")
