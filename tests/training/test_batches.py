"""Batches with little padding, and the thread that prepares batches."""

import threading

import numpy as np
import pytest
import torch
from fairseq.data import LanguagePairDataset, ListDataset, iterators
from hypothesis import given
from hypothesis import strategies as st

from normplugins.training.batches import bucket_by_length, prefetched, sort_by_both_lengths
from tests.helpers.models import make_task

lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=50)


@given(lengths)
def test_order_contains_each_sentence_once_sorted_by_the_longer_length(pairs):
    sources, targets = np.array(pairs, dtype=np.int32).T
    order = sort_by_both_lengths(sources, targets)
    assert sorted(order) == list(range(len(pairs)))
    assert (np.diff(np.maximum(sources, targets)[order]) >= 0).all()


def test_neighbors_have_similar_lengths_within_and_across_longer_lengths():
    sources, targets = np.array([3, 1, 3, 3, 4, 1, 4]), np.array([1, 3, 3, 2, 4, 4, 2])
    pairs = [(sources[i], targets[i]) for i in sort_by_both_lengths(sources, targets)]
    assert pairs == [(1, 3), (3, 3), (3, 2), (3, 1), (4, 2), (4, 4), (1, 4)]


class _Task:
    """A task with datasets of sentences of the given lengths."""

    def __init__(self, sources, targets):
        self.task, self.lengths, self.datasets = make_task(), (sources, targets), {}

    def load_dataset(self, split, **_options):
        sides = []
        for sizes in self.lengths:
            sides += [ListDataset([torch.full((size,), 5) for size in sizes], sizes), sizes, self.task.src_dict]
        self.datasets[split] = LanguagePairDataset(*sides)

    def dataset(self, split):
        return self.datasets[split]

    def padding(self, split):
        """Share of padding and number of batches."""
        self.load_dataset(split)
        batches = self.task.get_batch_iterator(self.dataset(split), max_tokens=1000, seed=1).frozen_batches
        sides = [self.dataset(split).src_sizes, self.dataset(split).tgt_sizes]
        positions = sum(len(batch) * max(sizes[i] for i in batch) for batch in batches for sizes in sides)
        assert sorted(i for batch in batches for i in batch) == list(range(len(sides[0])))
        return 1 - sum(sizes.sum() for sizes in sides) / positions, len(batches)


def test_training_batches_have_less_padding_and_other_subsets_do_not_change():
    draw = np.random.default_rng(0)
    sources = draw.lognormal(3, 0.6, 5000)  # spread as lengths of sentences and of their translations are
    targets = sources * draw.lognormal(0, 0.2, 5000)
    task = _Task(*(sizes.astype(np.int64) + 2 for sizes in (sources, targets)))
    before = task.padding("train")
    bucket_by_length(task, "train")
    after = task.padding("train")
    assert after[0] < 0.7 * before[0]
    assert after[1] < before[1]
    assert task.padding("valid") == before


def test_no_thread_prepares_batches_after_an_error():
    """A thread inside PyTorch would abort the process when Python exits."""
    before = set(threading.enumerate())
    batches = iterators.EpochBatchIterator(ListDataset(range(50)), list, [[i] for i in range(50)], buffer_size=2)

    def fail():
        with prefetched(batches, shuffle=False) as epoch:
            assert next(epoch) == [0]
            assert set(threading.enumerate()) > before
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert set(threading.enumerate()) == before
    assert batches.state_dict()["iterations_in_epoch"] == 1
