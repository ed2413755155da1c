"""Sharing the batches of an update among processes."""

import pytest
from omegaconf import OmegaConf

from normplugins.runs.compose import compose_config
from normplugins.training.distributed import share_batches
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
