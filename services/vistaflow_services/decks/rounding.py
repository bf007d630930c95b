"""Floats rounded to twelve significant digits.

A point travels through JSON, Parquet and logarithms before it is looked up in the store of
evaluated points; the last bits of its floats do not survive that. Rounded, they do.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

DIGITS: Final = 12
"""Significant decimal digits that a point's floats keep."""

_EXACT = 22
"""The largest power of ten that a double holds exactly."""


def round_significant(values: ArrayLike) -> NDArray[np.float64]:
    """Rounds to `DIGITS` significant digits, to the double nearest that decimal.

    Rounding twice is rounding once. Zeros lose their sign; nan and infinities stay.
    """
    array = np.asarray(values, dtype=np.float64)
    size = np.abs(array)
    finite = np.isfinite(array)
    ordinary = finite & (size > 0)
    exponent = np.zeros(array.shape)
    np.log10(size, out=exponent, where=ordinary)
    shift = (DIGITS - 1) - np.floor(exponent)
    exact = ordinary & (np.abs(shift) <= _EXACT)
    power = np.power(10.0, np.where(exact, np.abs(shift), 0.0))
    with np.errstate(all="ignore"):
        # Multiplying and dividing by an exact power of ten rounds once each, correctly.
        whole = np.rint(np.where(shift >= 0, array * power, array / power))
        rounded = np.where(shift >= 0, whole / power, whole * power)
    result = np.where(exact, rounded, np.where(finite, 0.0, array))
    rest = ordinary & ~exact
    if rest.any():
        result = np.atleast_1d(result)
        result[np.atleast_1d(rest)] = [
            float(f"{value:.{DIGITS}g}") for value in array[rest].tolist()
        ]
        result = result.reshape(array.shape)
    return result
