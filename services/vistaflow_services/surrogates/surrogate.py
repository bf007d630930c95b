"""What every family of models offers, and the folds by which they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Arrays = dict[str, NDArray[np.generic]]


@runtime_checkable
class Surrogate(Protocol):
    """A model of one response over the features of a space.

    Features are the columns of `Space.features`, so mostly in [0, 1]; the response is any finite
    number and is standardised inside.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learns from rows `X` (n, d) and their responses `y` (n,)."""
        ...

    def predict(self, X: ArrayLike, noise: bool = False) -> tuple[Floats, Floats]:
        """Mean and standard deviation at the rows `X`, each (n,).

        With `noise` the deviation is that of a new observation, else that of the noise-free
        response. Only a Gaussian process tells the two apart; the others always answer the former.
        """
        ...

    def to_arrays(self) -> Arrays:
        """All that the fitted model is, as plain arrays: nothing in them is ever executed."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """The fitted model again, out of `to_arrays`."""
        ...


def make_folds(n: int, count: int, seed: int) -> list[Integers]:
    """Splits rows 0..n-1 into at most `count` folds of nearly equal size, in random order."""
    order = np.random.default_rng(seed).permutation(n)
    return [np.sort(part) for part in np.array_split(order, max(2, min(count, n)))]


def negative_log_density(y: ArrayLike, mean: ArrayLike, sd: ArrayLike) -> float:
    """Mean negative log density of `y` under N(mean, sd^2): smaller is better.

    It punishes both a wrong mean and a deviation that is too small or too large (Gneiting and
    Raftery, "Strictly proper scoring rules", 2007).
    """
    spread = np.maximum(np.asarray(sd, float), 1e-300)
    z = (np.asarray(y, float) - np.asarray(mean, float)) / spread
    return float(np.mean(0.5 * z * z + np.log(spread) + 0.5 * np.log(2 * np.pi)))


def as_matrix(X: ArrayLike, columns: int | None = None) -> Floats:
    """`X` as a matrix of floats, checked for its number of columns when that is known."""
    matrix = np.atleast_2d(np.asarray(X, dtype=np.float64))
    if columns is not None and matrix.shape[1] != columns:
        raise ValueError(f"the model has {columns} features, these rows have {matrix.shape[1]}")
    return matrix


def as_training(X: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Rows and responses to learn from, checked to be finite and of one length."""
    rows, target = as_matrix(X), np.asarray(y, dtype=np.float64).reshape(-1)
    if len(rows) != len(target):
        raise ValueError(f"{len(rows)} rows but {len(target)} responses")
    if not len(rows):
        raise ValueError("there is no row to learn from")
    if not (np.isfinite(rows).all() and np.isfinite(target).all()):
        raise ValueError("rows and responses to learn from must be finite")
    return rows, target


def magnitude_unit(values: Floats) -> float:
    """What values (n,) are divided by before they are squared; 1 for usual magnitudes.

    Squares of numbers beyond 1e154 overflow, and those of numbers below 1e-154 vanish.
    """
    largest = float(np.abs(values).max())
    return 1.0 if largest == 0 or 1e-100 < largest < 1e100 else largest


def center_and_spread(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation of values (n,), of whatever magnitude.

    The spread is 0 where values differ by rounding only.
    """
    unit = magnitude_unit(values)
    scaled = values / unit
    center, spread = float(scaled.mean()), float(scaled.std())
    if spread <= 1e-13 * float(np.abs(scaled).max()):
        spread = 0.0
    return center * unit, spread * unit


def score(y: Floats, mean: Floats, sd: Floats) -> dict[str, float]:
    """Cross-validation figures: `rmse` in the units of `y`, `r2`, and `nlpd`."""
    error = float(np.sqrt(np.mean((y - mean) ** 2)))
    variance = float(np.var(y))
    return {
        "rmse": error,
        "r2": float(1.0 - error**2 / variance) if variance > 0 else 0.0,
        "nlpd": negative_log_density(y, mean, sd),
    }


def complement(n: int, fold: Sequence[int] | Integers) -> Integers:
    """The rows of 0..n-1 that are not in `fold`."""
    inside = np.ones(n, bool)
    inside[np.asarray(fold)] = False
    return np.flatnonzero(inside)
