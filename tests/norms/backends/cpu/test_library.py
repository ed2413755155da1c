"""Setup compiles the C code; without it, or if it is out of date, there is a warning."""

import os
from importlib.util import find_spec
from pathlib import Path

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


@needs_libraries
def test_a_library_that_is_older_than_its_source_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_spec(LIBRARIES[0])
    assert found
    original, header = Path(str(found.origin)), tmp_path / "simd.h"  # all libraries include this header
    for name, source_time, library_time in [("newer", 999, 1001), ("older", 1002, 1001), ("header", 998, 999)]:
        package = tmp_path / f"{name}_library"
        package.mkdir()
        library_file, source = package / original.name, package / "kernels.c"
        library_file.write_bytes(original.read_bytes())
        for path, seconds in (source, source_time), (library_file, library_time), (header, 1000):
            path.touch()
            os.utime(path, (seconds, seconds))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    assert library.library("newer_library._kernels") is not None
    for name in ("older", "header"):
        with pytest.warns(UserWarning, match="compiled before its source changed; pip install --no-deps --editable"):
            assert library.library(f"{name}_library._kernels") is None
