"""The fairseq ``--user-dir``: importing it registers the project's models, criterions and optimizers with fairseq."""

import sys

__version__ = "0.2.0"


def register() -> None:
    """Register all models, architectures, criterions and optimizers with fairseq, beam search and scorer too."""
    from normplugins import compat, criterions, models, optim  # noqa: F401  (compat first: it lets fairseq import)

    compat.without_nan_detector()
    compat.without_device_ids()
    models.beam_search.use_everywhere()
    models.scoring.use_everywhere()
    models.building.check_everywhere()


# ``normplugins.norms`` is plain PyTorch: importing it must not pull fairseq in. Under ``--user-dir`` fairseq is
# already there, and importing this package is all it does to find the plugin.
if "fairseq" in sys.modules:
    register()
