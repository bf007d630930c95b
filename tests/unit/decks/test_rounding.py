from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistaflow_services.decks.rounding import round_significant

numbers = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: abs(x) > 1e-290)


@given(value=numbers)
def test_rounding_twice_is_rounding_once(value: float) -> None:
    once = float(round_significant(value))
    assert float(round_significant(once)) == once


@given(value=numbers)
def test_rounding_changes_a_value_by_at_most_half_of_the_twelfth_digit(value: float) -> None:
    assert float(round_significant(value)) == pytest.approx(value, rel=5.01e-12)


@given(digits=st.integers(1, 10**12 - 1), exponent=st.integers(-60, 60))
def test_a_decimal_of_twelve_digits_stays_the_double_nearest_to_it(
    digits: int, exponent: int
) -> None:
    value = float(f"{digits}e{exponent}")
    assert float(round_significant(value)) == value


@given(digits=st.integers(1, 10**12 - 1), exponent=st.integers(-60, 60))
def test_the_last_bits_of_a_value_are_forgotten(digits: int, exponent: int) -> None:
    value = float(f"{digits}e{exponent}")
    shaken = np.array([value * (1 + 4e-15), value * (1 - 4e-15)])
    assert round_significant(shaken).tolist() == [value, value]


def test_zeros_and_what_is_not_finite_are_left() -> None:
    assert round_significant([0.0, -0.0, math.inf, -math.inf]).tolist() == [
        0.0,
        0.0,
        math.inf,
        -math.inf,
    ]
    assert math.isnan(float(round_significant(math.nan)))


def test_shapes_are_kept() -> None:
    assert round_significant(np.full((2, 3), 1e-30)).shape == (2, 3)
    assert round_significant(1e-30).shape == ()
