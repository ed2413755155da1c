"""Setup compiles the C code; without it there is a warning."""

import pytest
import torch

from normplugins.norms.backends.cpu import library
from normplugins.norms.backends.dispatch import backend_for
from tests.helpers.compiler import LIBRARIES, needs_libraries


@needs_libraries
@pytest.mark.parametrize("module", LIBRARIES)
def test_it_is_compiled(module: str) -> None:
    assert library.library(module) is not None


def test_without_it_a_norm_is_plain_and_a_warning_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda module: None)
    library.library.cache_clear()
    with pytest.warns(UserWarning, match="_kernels: not compiled; pip install --no-deps --editable"):
        assert backend_for("auto", torch.ones(2, 4), training=True) is None
    library.library.cache_clear()
