"""Chooses, from many candidates, a few that lie far apart.

Greedy maximin (R. W. Kennard, L. A. Stone, "Computer aided design of experiments",
Technometrics 11 (1969) 137-148) and then exchanges that lower phi_p: how a design
keeps its quality where constraints forbid a Latin hypercube.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.designs.ese import Array

Index = NDArray[np.intp]

_EXCHANGES = 400
_TRIALS = 200


def farthest(candidates: Array, size: int) -> Index:
    """Rows of `size` candidates: the most central one, then always the farthest from all chosen.

    Args:
        candidates: Shape (m, d), m >= size.
        size: How many to choose.
    """
    first = int(_squared(candidates, candidates.mean(axis=0)).argmin())
    chosen = np.empty(size, dtype=np.intp)
    chosen[0] = first
    nearest = _squared(candidates, candidates[first])
    nearest[first] = -1.0
    for place in range(1, size):
        following = int(nearest.argmax())
        chosen[place] = following
        np.minimum(nearest, _squared(candidates, candidates[following]), out=nearest)
        nearest[following] = -1.0
    return chosen


def improve(candidates: Array, chosen: Index, *, seed: int) -> Index:
    """Exchanges the most crowded chosen rows for others while that lowers phi_p."""
    size, spare = len(chosen), len(candidates) - len(chosen)
    if size < 2 or spare < 1:
        return chosen
    rng = np.random.default_rng(seed)
    chosen = chosen.copy()
    design = candidates[chosen]
    weights = np.stack([_weights(design, point) for point in design])
    np.fill_diagonal(weights, 0.0)
    crowding = weights.sum(axis=1)
    others = np.setdiff1d(np.arange(len(candidates)), chosen)
    for _ in range(_EXCHANGES):
        worst = int(crowding.argmax())
        tried = (rng.random(min(_TRIALS, spare)) * spare).astype(np.intp)
        rows = np.stack([_weights(design, candidates[other]) for other in others[tried]])
        rows[:, worst] = 0.0
        best = int(rows.sum(axis=1).argmin())
        row = rows[best]
        if row.sum() >= crowding[worst]:
            crowding[worst] = -1.0
            if crowding.max() < 0:
                break
            continue
        place = tried[best]
        chosen[worst], others[place] = others[place], chosen[worst]
        design[worst] = candidates[chosen[worst]]
        weights[worst] = weights[:, worst] = row
        crowding = weights.sum(axis=1)
    return chosen


def _squared(points: Array, point: Array) -> Array:
    gap = points - point
    squared: Array = np.einsum("ij,ij->i", gap, gap)
    return squared


def _weights(design: Array, point: Array) -> Array:
    """Each design point's share in phi_p (p = 10) with `point`."""
    inverse = 1.0 / np.maximum(_squared(design, point), 1e-30)
    return inverse**5
