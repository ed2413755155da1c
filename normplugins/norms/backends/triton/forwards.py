"""Registers the forwards of this package: ``pn``, ``pn_alg2``, ``pnv``, ``bn`` and ``rms`` on a GPU.

Each accepts a DeferredResidual in place of x, and computes the sum in a pass over x that it makes anyway.
"""

from normplugins.norms.backends.triton.batch_norm import batch_norm
from normplugins.norms.backends.triton.exact import rms_norm
from normplugins.norms.backends.triton.power_norm import power_norm
from normplugins.norms.backends.triton.power_norm_v import power_norm_v

__all__ = ["batch_norm", "power_norm", "power_norm_v", "rms_norm"]
