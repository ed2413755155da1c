"""A fixture for packages of tests whose models are too small for threads."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Run a package on one thread: on models this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
