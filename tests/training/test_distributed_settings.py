"""What follows from the number of processes and from their launcher, without starting any."""

import pytest
import torch
from omegaconf import OmegaConf

from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.runs.run import description
from normplugins.training.distributed import Member, launched, share_batches
from normplugins.utils.errors import UserError


def share(processes, batches, *overrides):
    """Return ``optimization.update_freq`` after ``batches`` have been shared among processes."""
    config = OmegaConf.create({"train": {"batches_per_update": batches}, "optimization": {"update_freq": [3]}})
    config.distributed_training = {"distributed_world_size": processes}
    share_batches(config, overrides)
    return list(config.optimization.update_freq)


@pytest.mark.parametrize(("processes", "each"), [(1, 128), (8, 16), (32, 4), (128, 1)])
def test_each_process_gets_an_equal_share(processes, each):
    assert share(processes, 128) == [each]


@pytest.mark.parametrize(("processes", "batches"), [(3, 128), (256, 128), (2, 1)])
def test_an_uneven_share_is_refused(processes, batches):
    message = f"{batches} cannot be shared evenly by {processes} processes: it must be a multiple of their number"
    with pytest.raises(UserError, match=message):
        share(processes, batches)


def test_update_freq_can_be_set_without_batches_per_update():
    config = compose_config("iwslt14", ["hardware.processes=2", "optimization.update_freq=4"])
    assert list(config.optimization.update_freq) == [4]
    assert config.variant.endswith("optimization.update_freq=4,processes=2")
    assert share(2, None, "optimization.update_freq=3") == [3]
    with pytest.raises(UserError, match=r"follows from train\.batches_per_update=128"):
        share(2, 128, "optimization.update_freq=3")


@pytest.mark.slow
def test_places_and_tracking_may_differ():
    one, other, seed = (
        description(compose_config("demo", ["hardware=cpu", *overrides]))
        for overrides in ([], ["hardware.threads=2", "tracking=wandb", "force=true", "data_dir=there"], ["seed=2"])
    )
    assert one == other != seed


@pytest.mark.slow
def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(UserError, match=r"8 processes on this machine .* PyTorch sees 3"):
        check(compose_config("demo", ["hardware=gpu8"]))
    config = compose_config("demo", ["hardware=gpus", "norm=bn"])
    check(config)
    assert (config.hardware.processes, config.variant) == (3, "bn,processes=3")


@pytest.mark.slow
def test_a_task_of_srun_may_see_its_own_gpu_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    srun = {"PROCID": "1", "STEP_NUM_TASKS": "2", "LOCALID": "1", "STEP_TASKS_PER_NODE": "2"}
    for name, value in srun.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert launched().gpu == 0
    check(compose_config("demo"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert launched().gpu == 1
    check(compose_config("demo"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    assert launched().gpu == 1
    with pytest.raises(UserError, match=r"2 processes on this machine .* --gpus-per-task=1 gives each process a GPU"):
        check(compose_config("demo"))


@pytest.mark.slow
def test_the_launcher_determines_the_number_of_processes(monkeypatch):
    for name, value in {"MASTER_ADDR": "node1", "MASTER_PORT": "29500", "RANK": "5", "WORLD_SIZE": "16"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert launched() == Member(5, 16, 1, 4)
    config = compose_config("demo", ["hardware=cpu", "norm=bn"])
    assert (config.distributed_training.distributed_world_size, config.variant) == (16, "bn,processes=16")
    check(config)
    with pytest.raises(UserError, match=r"hardware.processes=2, but the launcher started 4"):
        check(compose_config("demo", ["hardware=cpu", "hardware.processes=2"]))


def test_tasks_of_srun_count_if_they_have_an_address(monkeypatch):
    for name, value in {"PROCID": "3", "STEP_NUM_TASKS": "4", "LOCALID": "1", "STEP_TASKS_PER_NODE": "2(x2)"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert launched() is None
    monkeypatch.setenv("MASTER_ADDR", "node1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert launched() == Member(3, 4, 1, 2)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert launched() is None
