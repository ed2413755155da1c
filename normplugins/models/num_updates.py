"""Tells a model's norms when an update has ended."""

from fairseq.models import BaseFairseqModel

from normplugins.norms import end_update


class EndsUpdates(BaseFairseqModel):
    """Base of the models: a changed number of updates ends the update for the norms' running statistics.

    fairseq's tasks pass the number of updates done before each batch, so that with its own trainer the statistics that
    wait for the end of an update (``per_update``, ``sync=deferred``) enter when the next one begins. A trainer that
    passes it right after an update has them in time for validation and checkpoints.
    """

    _updates = 0

    def set_num_updates(self, num_updates: int) -> None:
        """Take the number of updates done so far; every process must call it alike."""
        super().set_num_updates(num_updates)
        if num_updates != self._updates:
            self._updates = num_updates
            end_update(self)
