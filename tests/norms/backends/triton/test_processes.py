"""On the kernels, two processes with parts of a batch give the same results as one with the whole batch."""

import pytest

from normplugins.norms import NormConfig
from tests.helpers.data_parallel import CUTS, assert_same, steps, train, train_mine, whole
from tests.helpers.processes import Pair

NORMS = {
    "pn": NormConfig("pn", groups=2, warmup_updates=3),
    "pnv": NormConfig("pnv", groups=2, group_scaling=True),
    "bn": NormConfig("bn"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMS)
def test_two_processes_are_one(name: str, pair: Pair) -> None:
    config, updates = NORMS[name], steps()[: len(CUTS)]
    parts = pair.call(train_mine, config.replace(sync="batch", kernels="triton"), updates)
    assert_same(parts, train(config.replace(kernels="plain"), whole(updates)))
