"""Growth laws on numbers that follow one."""

import pytest

from normplugins.bench.growth import growth

SIZES = [1000, 2000, 4000, 8000]


def test_in_proportion_the_exponent_is_one():
    grown = growth(SIZES, [0.5 * size for size in SIZES])
    assert grown.exponent == pytest.approx(1)
    assert grown.off_line == pytest.approx(0, abs=1e-9)


def test_a_fixed_cost_lies_on_a_line_though_its_exponent_is_below_one():
    grown = growth(SIZES, [700 + 0.5 * size for size in SIZES])
    assert grown.exponent < 0.8
    assert grown.off_line == pytest.approx(0, abs=1e-9)


def test_a_square_is_no_line():
    grown = growth(SIZES, [size**2 for size in SIZES])
    assert grown.exponent == pytest.approx(2)
    assert grown.off_line > 0.2


def test_one_size_tells_nothing():
    with pytest.raises(ValueError, match="two sizes"):
        growth([5, 5], [1.0, 2.0])
