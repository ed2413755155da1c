"""fairseq criterions of our own; importing this package registers them."""

from normplugins import compat  # noqa: F401  (before fairseq)
from normplugins.criterions import label_smoothed_nll  # noqa: F401
