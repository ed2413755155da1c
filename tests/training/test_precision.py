"""``precision=bf16``: matrix products in bfloat16, all state in float32, exact resuming."""

import pytest
import torch

from normplugins.evaluation.tasks import run_task
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config, fairseq_config
from normplugins.runs.dry_run import synthetic_task
from normplugins.training.trainer import Trainer
from normplugins.utils.errors import UserError
from tests.helpers.runs import TINY, differences, load, tiny_run, whole_and_broken

SHORT = ["precision=bf16", "optimization.max_update=9", "evaluate.max_length_b=5"]


def losses(precision, norm, updates=12):
    """Train a tiny model on one batch; return its losses and the trainer."""
    overrides = [f"norm={norm}", *TINY, f"precision={precision}", "common.cpu=true", "lr_scheduler.warmup_updates=4"]
    settings = fairseq_config(compose_config("demo", overrides))
    torch.manual_seed(1)
    task, batch = synthetic_task(run_task("translation"), settings, 50)
    trainer = Trainer(settings, task, task.build_model(settings.model), task.build_criterion(settings.criterion))
    sample = batch(5, 9)
    return [float(trainer.train_step([sample])["loss"]) for _ in range(updates)], trainer


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["ln", "pn", "bn", "rms"])
def test_the_loss_follows_that_of_float32_and_all_state_is_in_float32(norm):
    (exact, _), (half, trainer) = losses("float32", norm), losses("bf16", norm)
    assert half != exact
    assert half == pytest.approx(exact, rel=0.02)
    model = trainer.get_model()
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    states = [state["exp_avg_sq"] for state in trainer.optimizer.optimizer.state.values()]
    assert {tensor.dtype for tensor in (*tensors, *states)} == {torch.float32}


def test_activations_are_in_bfloat16():
    _, trainer = losses("bf16", "pn", updates=1)
    seen = set()
    for module in trainer.get_model().modules():
        if type(module).__name__ == "Layer":
            module.register_forward_hook(lambda _module, _inputs, y: seen.add(y.dtype))
    _, batch = synthetic_task(run_task("translation"), trainer.cfg, 50)
    trainer.valid_step(batch(2, 5))
    assert seen == {torch.bfloat16}


def test_a_processor_without_bfloat16_is_refused(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    config = compose_config("demo", ["precision=bf16", "hardware=cpu"])
    assert config.variant == "ln,precision=bf16"
    with pytest.raises(UserError, match="neither avx512_bf16 nor AMX"):
        check(config)


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_bitwise_as_an_uninterrupted_one(trained, normplugins, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    whole, broken = whole_and_broken(tiny_run(trained, *SHORT), tmp_path, normplugins, monkeypatch)
    assert differences(whole, broken) == []
    state = load(tmp_path / "whole" / "run" / "checkpoint_last.pt")
    assert {tensor.dtype for tensor in state["model"].values() if tensor.is_floating_point()} == {torch.float32}
