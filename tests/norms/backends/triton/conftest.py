"""The kernels run on a GPU where there is one, else in Triton's interpreter."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from tests.helpers.threads import one_thread  # noqa: F401  (a fixture)


@pytest.fixture(autouse=True, scope="package")
def interpreter():
    """Let the interpreter round as a GPU does, and spend less time on what changes no result.

    A GPU rounds float32 to the nearest bfloat16, as PyTorch does; the interpreter cuts digits off. It prepares the
    language anew for every call of a helper. And it takes one program after the other, few of which are cheaper.
    """
    if torch.cuda.is_available():
        yield
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

    from normplugins.norms.backends.triton.tiles import ADDING

    cut_off, prepare = InterpreterBuilder.cast_impl, InterpretedFunction.__call__

    def cast(self, value, to):
        if (value.dtype.scalar, to.scalar) != (tl.float32, tl.bfloat16):
            return cut_off(self, value, to)
        rounded = torch.from_numpy(np.ascontiguousarray(value.data)).bfloat16().view(torch.uint16)
        return TensorHandle(rounded.numpy(), tl.bfloat16)

    def call(self, *args, **kwargs):
        ours = self.fn.__module__.startswith("normplugins")
        return self.rewrite()(*args, **kwargs) if ours else prepare(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "cast_impl", cast)
        patch.setattr(InterpretedFunction, "__call__", call)
        patch.setitem(ADDING, "COLUMNS", 512)
        patch.setitem(ADDING, "ROWS", 16)
        yield
