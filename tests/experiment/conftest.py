import pytest

from tests.threads import one_thread  # noqa: F401  (a fixture of the whole package)


@pytest.fixture
def at_home(made_up_text, monkeypatch):
    """Goes to a run's folder, where its command was given."""

    def go(folder):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("NORMPLUGINS_MIRROR", str(made_up_text))

    return go
