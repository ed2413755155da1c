"""The kernels run on a GPU if there is one, and otherwise in Triton's interpreter."""

import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion

triton = pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture(autouse=True, scope="package")
def interpreter():
    """Make the interpreter round as a GPU does, and make it faster.

    A GPU rounds float32 to the nearest bfloat16, as PyTorch does; the interpreter truncates. It also patches the
    language for every call of a helper, and runs programs one after the other, so that fewer programs are faster.
    """
    if torch.cuda.is_available():
        yield
        return
    if TorchVersion(triton.__version__) < "3.7" and TorchVersion(np.__version__) >= "2.4":
        pytest.skip("Triton's interpreter before 3.7 needs NumPy < 2.4")
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

    from normplugins.norms.backends.triton.tiles import SUM_TILE

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
        patch.setitem(SUM_TILE, "COLUMNS", 512)
        patch.setitem(SUM_TILE, "ROWS", 16)
        yield
