"""Notifies the norms of a model of the end of each update."""

from fairseq.models import BaseFairseqModel

from normplugins.norms import end_update


class EndsUpdates(BaseFairseqModel):
    """Base class of the models: a new number of updates ends the update for the norms' running statistics.

    fairseq's tasks pass the number of updates before each batch. With its own trainer, pending statistics
    (``per_update``, ``sync=deferred``) are therefore applied when the next update begins. A trainer that passes the
    number right after an update has them applied before validation and checkpoints.
    """

    _updates = 0

    def set_num_updates(self, num_updates: int) -> None:
        """Set the number of updates so far; every process must call it with the same number."""
        super().set_num_updates(num_updates)
        if num_updates != self._updates:
            self._updates = num_updates
            end_update(self)
