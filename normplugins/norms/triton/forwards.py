"""The forwards of this package under the names that ``fast_path`` is asked for."""

from normplugins.norms.triton.batch_norm import batch_norm
from normplugins.norms.triton.power_norm import power_norm
from normplugins.norms.triton.power_norm_v import power_norm_v
from normplugins.norms.triton.rms_norm import rms_norm

ADDS_UP = True  # a Sum in the place of x, in a pass over it that is made anyway

__all__ = ["ADDS_UP", "batch_norm", "power_norm", "power_norm_v", "rms_norm"]
