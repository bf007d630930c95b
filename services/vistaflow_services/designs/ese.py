"""Enhanced stochastic evolutionary optimisation of Latin hypercubes.

R. Jin, W. Chen, A. Sudjianto, "An efficient algorithm for constructing optimal
design of computer experiments", Journal of Statistical Planning and Inference
134 (2005) 268-287. The criterion is Morris and Mitchell's phi_p.

The swap of two entries of one column changes two rows of the distance matrix
only; a whole set of candidate swaps is judged at once from those rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PHI_P = 10
"""The exponent p of phi_p. The arithmetic below is written for 10: d**-10 = (d**2)**-5."""

MAX_POINTS = 2000
"""Most points optimised: the two n by n matrices then take 64 MB."""

_CANDIDATES = 50
_INNER_LOOPS = 100


def optimise(start: Array, *, seed: int, outer_loops: int | None = None) -> Array:
    """A Latin hypercube at least as good by phi_p as `start`, with the same column values.

    Args:
        start: A Latin hypercube of shape (n, d) in the unit cube, n <= `MAX_POINTS`.
        seed: Of the search. The same seed and start give the same result bit for bit.
        outer_loops: Rounds of 100 exchanges each; by default what the size needs.

    Returns:
        Shape (n, d). The effort is a number of loops, never a time limit, so that
        the result does not depend on the machine.
    """
    count, dimension = start.shape
    if count < 3 or dimension < 2:
        return start.copy()
    rng = np.random.default_rng(seed)
    search = _Search(start)
    threshold = 0.005 * search.phi
    best, best_columns = search.phi, search.columns.copy()
    for _ in range(outer_loops or _default_loops(count, dimension)):
        best_before, accepted, improved = best, 0, 0
        for step in range(_INNER_LOOPS):
            if not search.exchange(step % dimension, threshold, rng):
                continue
            accepted += 1
            if search.phi < best * (1 - 1e-12):
                best, best_columns = search.phi, search.columns.copy()
                improved += 1
        search.settle()
        threshold = _next_threshold(
            threshold,
            accepted=accepted / _INNER_LOOPS,
            improved=improved / _INNER_LOOPS,
            better=best < best_before,
        )
    return best_columns.T.copy()


class _Search:
    """The current design with its distances, kept up to date from swap to swap."""

    def __init__(self, start: Array) -> None:
        self.columns = np.array(start.T, dtype=np.float64, order="C")
        self._squared = np.zeros((len(start), len(start)))
        for column in self.columns:
            self._squared += (column[:, None] - column) ** 2
        np.fill_diagonal(self._squared, np.inf)
        self._rows = np.arange(_CANDIDATES)
        self.settle()

    def settle(self) -> None:
        """Recomputes what accumulates rounding errors."""
        self._weights = _inverse_fifth(self._squared)
        self._row_sums = self._weights.sum(axis=1)
        self._total = float(self._row_sums.sum()) / 2
        self.phi = self._total ** (1 / PHI_P)

    def exchange(self, column: int, threshold: float, rng: np.random.Generator) -> bool:
        """Makes the best of some random swaps in `column` unless it is worse by too much."""
        values = self.columns[column]
        count = len(values)
        draws = rng.random((2, _CANDIDATES))
        one = (draws[0] * count).astype(np.intp)
        other = (one + 1 + (draws[1] * (count - 1)).astype(np.intp)) % count
        change = (values - values[other][:, None]) ** 2
        change -= (values - values[one][:, None]) ** 2
        new_one = self._squared[one] + change
        new_other = self._squared[other] - change
        rows = self._rows
        between = self._squared[one, other]
        new_one[rows, other] = new_other[rows, one] = between
        new_one[rows, one] = new_other[rows, other] = np.inf
        weights_one, weights_other = _inverse_fifth(new_one), _inverse_fifth(new_other)
        gain = weights_one.sum(axis=1) + weights_other.sum(axis=1)
        gain -= self._row_sums[one] + self._row_sums[other]
        chosen = int(gain.argmin())
        total = max(self._total + float(gain[chosen]), 0.0)
        phi = total ** (1 / PHI_P)
        if not phi - self.phi <= threshold * float(rng.random()):
            return False
        first, second = one[chosen], other[chosen]
        values[[first, second]] = values[[second, first]]
        row_first, row_second = weights_one[chosen], weights_other[chosen]
        self._row_sums += row_first - self._weights[first] + row_second - self._weights[second]
        self._row_sums[first] = row_first.sum()
        self._row_sums[second] = row_second.sum()
        self._squared[first] = self._squared[:, first] = new_one[chosen]
        self._squared[second] = self._squared[:, second] = new_other[chosen]
        self._weights[first] = self._weights[:, first] = row_first
        self._weights[second] = self._weights[:, second] = row_second
        self._total, self.phi = total, phi
        return True


def _inverse_fifth(squared: Array) -> Array:
    """`squared ** -5` by multiplication, and never infinite: near twins count 1e150."""
    inverse = 1.0 / np.maximum(squared, 1e-30)
    power = inverse * inverse
    power *= power
    power *= inverse
    return power


def _default_loops(count: int, dimension: int) -> int:
    """More loops for more entries: 24 for 100 x 10, 38 for 1000 x 10."""
    return round(6 * math.pow(count * dimension, 0.2))


def _next_threshold(threshold: float, *, accepted: float, improved: float, better: bool) -> float:
    """The outer loop's rule: cool while improving, warm to leave a local optimum."""
    if better:
        if accepted > 0.1 and improved < accepted:
            return threshold * 0.8
        return threshold if accepted > 0.1 else threshold / 0.8
    return threshold / 0.7 if accepted < 0.1 else threshold * 0.9
