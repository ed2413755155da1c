"""Turns, warm-up and blocks by a clock that the calls themselves move: nothing here depends on the machine's speed."""

import pytest

from normplugins.bench.timing import Timing, compare


class Clock:
    """A call takes as many seconds as told; ``calls`` lists who was called when."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def provider(self, name, *seconds):
        left = list(seconds)

        def call():
            self.now += left.pop(0) if len(left) > 1 else left[0]
            self.calls.append(name)

        return call


def test_median_and_percentiles_of_given_numbers():
    timing = Timing((5.0, 1.0, 2.0, 4.0, 3.0, 6.0))
    assert (timing.p20, timing.median, timing.p80) == (2.0, 3.5, 5.0)
    alone = Timing((7.0,))
    assert (alone.p20, alone.median, alone.p80) == (7.0, 7.0, 7.0)


def test_a_ratio_is_the_median_over_turns():
    # a slow spell in the second turn hits both; the medians' quotient would be 2.0 / 1.0 as well as 1.5 is not
    assert Timing((2.0, 30.0, 2.2)).ratio(Timing((1.0, 10.0, 1.0))) == pytest.approx(2.2)


def test_the_first_calls_are_not_measured():
    clock = Clock()
    found = compare({"a": clock.provider("a", 100, 100, 1)}, 3, warmup=2, clock=clock)
    assert found["a"].seconds == (1, 1, 1)
    assert len(clock.calls) == 5


def test_every_repeat_has_a_turn_of_each_in_an_order_that_changes():
    clock = Clock()
    names = ["a", "b", "c"]
    found = compare({name: clock.provider(name, k + 1) for k, name in enumerate(names)}, 12, clock=clock)
    turns = clock.calls[len(names) :]
    rounds = [tuple(turns[start : start + 3]) for start in range(0, len(turns), 3)]
    assert all(sorted(one) == names for one in rounds)
    assert len(set(rounds)) > 3
    assert {name: timing.seconds for name, timing in found.items()} == {"a": (1,) * 12, "b": (2,) * 12, "c": (3,) * 12}


def test_a_turn_is_as_many_calls_as_take_the_time_asked_for():
    clock = Clock()
    found = compare(
        {"quick": clock.provider("quick", 0.5), "slow": clock.provider("slow", 3)}, 2, block_seconds=2, clock=clock
    )
    assert clock.calls.count("quick") == 1 + 1 + 2 * 4  # warm-up, one to see how long it takes, two turns
    assert clock.calls.count("slow") == 1 + 1 + 2 * 1
    assert found["quick"].median == 0.5
    assert found["slow"].median == 3


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"repeats": 1, "warmup": 0}])
def test_no_repeats_and_no_warmup_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        compare({"a": int}, **wrong)
