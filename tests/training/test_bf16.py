"""A bfloat16 run on the CPU: a killed run resumes bitwise, and statistics stay in float32."""

import pytest
import torch
from torch.testing import assert_close

from normplugins.evaluation.tasks import run_task
from normplugins.runs.compose import compose_config, fairseq_config
from normplugins.runs.dry_run import synthetic_task
from normplugins.training.trainer import Trainer
from tests.helpers.runs import TINY, differences, load, tiny_run, whole_and_broken

SHORT = ["common.bf16=true", "optimization.max_update=9", "evaluate.max_length_b=5"]


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_bitwise_as_an_uninterrupted_one(trained, normplugins, tmp_path, monkeypatch):
    """The checkpoint contains the float32 parameters of the optimizer."""
    whole, broken = whole_and_broken(tiny_run(trained, *SHORT), tmp_path, normplugins, monkeypatch)
    assert differences(whole, broken) == []
    curve = whole["curves"]["train"]
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert whole["scores"]["averaged"]["test"]["bleu"]["signature"]
    state = load(tmp_path / "whole" / "run" / "checkpoint_last.pt")
    masters = torch.cat([master.flatten() for master in state["last_optimizer_state"]["fp32_params"]])
    assert not torch.equal(masters, masters.bfloat16().float())  # more precise than the model's
    weight = state["model"]["encoder.layers.0.feed_forward.sublayer.fc1.weight"]
    assert torch.equal(weight, weight.bfloat16().float())


@pytest.mark.parametrize("norm", ["bn", "pn"])
def test_statistics_optimizer_and_loss_stay_in_float32(norm):
    """After an update of a bfloat16 model, the statistics are close to those of a float32 model."""
    statistics = {}
    for bf16 in (True, False):
        settings = fairseq_config(
            compose_config("demo", [f"norm={norm}", *TINY, f"common.bf16={bf16}", "model.dropout=0"])
        )
        task, batch = synthetic_task(run_task("translation"), settings, 50)
        torch.manual_seed(1)
        trainer = Trainer(settings, task, task.build_model(settings.model), task.build_criterion(settings.criterion))
        sample, model = batch(5, 9), trainer.get_model()
        trainer.train_step([sample])
        dtypes = {parameter.dtype for parameter in model.parameters()}
        assert dtypes == {torch.bfloat16 if bf16 else torch.float32}
        statistics[bf16] = {name: b for name, b in model.named_buffers() if ".norm." in name and b.is_floating_point()}
        states = trainer.optimizer.optimizer.state.values()
        assert {state["exp_avg_sq"].dtype for state in states} == {torch.float32}
        assert trainer.criterion(model, sample)[0].dtype == torch.float32
    assert statistics[True]
    assert_close(statistics[True], statistics[False], rtol=0.05, atol=0.02)  # dtypes too
