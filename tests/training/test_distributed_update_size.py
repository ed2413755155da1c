"""Sharing the batches of an update among processes."""

import pytest

from normplugins.runs.compose import compose_config
from normplugins.utils.errors import UserError

PROCESSES = "hardware.processes={}".format


@pytest.mark.parametrize(
    ("hardware", "processes", "share"),
    [(["hardware=gpu1"], 1, 128), (["hardware=gpu8"], 8, 16), ([PROCESSES(32)], 32, 4), ([PROCESSES(128)], 128, 1)],
)
def test_an_update_of_wmt14_has_the_same_tokens_on_any_number_of_gpus(hardware, processes, share):
    config = compose_config("wmt14", hardware)
    assert list(config.optimization.update_freq) == [share]
    assert config.distributed_training.distributed_world_size == processes
    assert config.dataset.max_tokens * share * processes == 524_288
    assert config.variant == (
        "ln,common.bf16=true" if hardware == ["hardware=gpu1"] else "ln"
    )  # the same cell in float32


@pytest.mark.parametrize(
    ("processes", "batches", "words"),
    [
        (3, 128, ["128 cannot", "by 3 processes", "2 or 4 processes", "batches_per_update=126 or 129"]),
        (256, 128, ["by 256 processes", "128 processes would do", "batches_per_update=256"]),
        (2, 1, ["by 2 processes", "1 processes", "batches_per_update=2"]),
    ],
)
def test_the_error_of_an_uneven_share_names_numbers_that_work(processes, batches, words):
    with pytest.raises(UserError) as error:
        compose_config("wmt14", [PROCESSES(processes), f"train.batches_per_update={batches}"])
    assert all(word in str(error.value) for word in words), error.value


def test_update_freq_can_be_set_without_batches_per_update():
    config = compose_config("iwslt14", [PROCESSES(2), "optimization.update_freq=4"])
    assert list(config.optimization.update_freq) == [4]
    assert config.variant.endswith("optimization.update_freq=4,processes=2")
    config = compose_config("wmt14", ["train.batches_per_update=null", "optimization.update_freq=4"])
    assert list(config.optimization.update_freq) == [4]
    with pytest.raises(UserError, match=r"follows from train\.batches_per_update=128"):
        compose_config("wmt14", ["optimization.update_freq=4"])
