import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """On models this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def at_home(made_up_text, monkeypatch):
    """Goes to a run's folder, where its command was given."""

    def go(folder):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("NORMPLUGINS_MIRROR", str(made_up_text))

    return go
