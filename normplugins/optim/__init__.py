"""fairseq optimizers of our own; importing this package registers them."""

from normplugins import compat  # noqa: F401  (before fairseq)

# isort: split
from normplugins.optim.fused_adam import FusedAdam
from normplugins.optim.half import FP16Optimizer

__all__ = ["FP16Optimizer", "FusedAdam"]
