"""The fairseq ``--user-dir``: importing it registers the project's models, criterions and optimizers with fairseq."""

import sys

from normplugins import compat

__version__ = "0.3.0.dev0"


def register() -> None:
    """Register all models, architectures, criterions and optimizers with fairseq, beam search and scorer too."""
    from normplugins.evaluation import beam_search, sequence_scorer
    from normplugins.models import base
    from normplugins.training import criterion, loss_terms, optimizer  # noqa: F401

    beam_search.use_everywhere()
    sequence_scorer.use_everywhere()
    base.check_everywhere()
    loss_terms.add_everywhere()


compat.install()
# ``normplugins.norms`` is plain PyTorch: importing it must not pull fairseq in. Under ``--user-dir`` fairseq is
# already there, and importing this package is all it does to find the plugin.
if "fairseq" in sys.modules:
    register()
