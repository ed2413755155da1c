"""The forwards of this package under the names that ``fast_path`` is asked for."""

from normplugins.norms.backends.triton.batch_norm import batch_norm
from normplugins.norms.backends.triton.power_norm import power_norm
from normplugins.norms.backends.triton.power_norm_v import power_norm_v
from normplugins.norms.backends.triton.rms_norm import rms_norm

FUSES_RESIDUAL = True  # a DeferredResidual in the place of x, in a pass over it that is made anyway

__all__ = ["FUSES_RESIDUAL", "batch_norm", "power_norm", "power_norm_v", "rms_norm"]
