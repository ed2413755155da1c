"""What each epoch has of its own: the number of batches per update, the learning rate, the order of the batches."""

from math import ceil

import pytest

from normplugins.training.history import saved_history
from tests.helpers.runs import TINY_LM, command, load


@pytest.mark.slow
def test_each_epoch_has_its_own_settings(made_up_text, tmp_path):
    each = ["optimization.lr=[0.01,0.002]", "optimization.update_freq=[1,2]", "dataset.curriculum=1"]
    ending = ["optimization.max_update=0", "optimization.max_epoch=2", "evaluate.average=2", "common.log_interval=1"]
    where = ["tracking=none", "run_dir=run"]
    status, said = command(
        ["run", "ptb", "norm=ln", "lr_scheduler=fixed", *TINY_LM, *where, *each, *ending],
        tmp_path,
        NORMPLUGINS_MIRROR=str(made_up_text),
    )
    assert status == 0, said
    history = saved_history(tmp_path / "run")
    first, both = (end["update"] for end in history.valid)
    assert both == first + ceil(first / 2)
    assert [point["lr"] for point in history.train] == [0.01] * first + [0.002] * (both - first)
    shuffled = [
        load(tmp_path / f"run/checkpoint{epoch}.pt")["extra_state"]["train_iterator"]["shuffle"] for epoch in (1, 2)
    ]
    assert shuffled == [False, True]
