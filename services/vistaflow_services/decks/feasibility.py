"""Whether a space has any point that meets its constraints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.decks.expressions import Constraint
from vistaflow_services.decks.space import Point, Space

SAMPLE: Final = 4096
"""Points that are looked at before a search begins from the best of them."""

_ROUNDS = 80
_KEPT = 64
_TRIES = 16


def spread(count: int, dimension: int) -> NDArray[np.float64]:
    """Points (count, dimension) that fill the unit cube evenly, the same every time.

    The additive recurrence of the generalised golden ratio (M. Roberts, 2018): as even as Sobol's
    sequence for this use, and no table is needed.
    """
    ratio = 2.0
    for _ in range(64):
        ratio = (1.0 + ratio) ** (1.0 / (dimension + 1))
    steps = ratio ** -np.arange(1.0, dimension + 1.0)
    return (0.5 + np.outer(np.arange(1.0, count + 1.0), steps)) % 1.0


def find_feasible(space: Space) -> Point | None:
    """A point that meets all constraints, or None when a search finds none.

    First `SAMPLE` points spread over the space, then, from those that break the constraints least,
    random steps that shrink. A region smaller than that finds is too small to design in.
    """
    places = spread(SAMPLE, space.dimension)
    scales = _scales(space, places)
    broken = _broken(space, places, scales)
    # Where everything starts; always the same answer for the same space.
    generator = np.random.default_rng(0)
    step = 0.25
    for _ in range(_ROUNDS):
        order = np.argsort(broken, kind="stable")[:_KEPT]
        if broken[order[0]] <= 0.0:
            break
        leaders, leaders_broken = places[order], broken[order]
        moved = np.repeat(leaders, _TRIES, axis=0)
        moved = moved + step * generator.standard_normal(moved.shape) * (
            # Few coordinates at a time, or a step in fifty dimensions never lands well.
            generator.random(moved.shape) < max(0.2, 1.0 / space.dimension)
        )
        moved = np.clip(moved, 0.0, 1.0)
        places = np.concatenate([leaders, moved])
        broken = np.concatenate([leaders_broken, _broken(space, moved, scales)])
        step *= 0.82
    best = int(np.argmin(broken))
    return space.decode(places[best : best + 1])[0] if broken[best] <= 0.0 else None


def never_met(space: Space) -> list[int]:
    """The constraints that no point meets even alone, by their index."""
    alone: Sequence[Constraint] = space.constraints
    return [
        index
        for index, constraint in enumerate(alone)
        if find_feasible(replace(space, constraints=(constraint,))) is None
    ]


def _scales(space: Space, places: NDArray[np.float64]) -> list[float]:
    """How large each constraint's violation typically is, so that they can be added."""
    columns = space.decode_columns(places)
    scales: list[float] = []
    for constraint in space.constraints:
        excess = np.abs(constraint.violation(columns))
        usual = excess[np.isfinite(excess) & (excess > 0)]
        scales.append(float(np.median(usual)) if usual.size else 1.0)
    return scales


def _broken(
    space: Space, places: NDArray[np.float64], scales: Sequence[float]
) -> NDArray[np.float64]:
    """By how much all constraints together are broken (n,); 0 exactly where all are met."""
    columns = space.decode_columns(places)
    total = np.zeros(len(places))
    for constraint, scale in zip(space.constraints, scales, strict=True):
        excess = np.maximum(constraint.violation(columns), 0.0) / scale
        # Strict inequalities are not met at equality.
        total += np.where(constraint.met(columns), 0.0, np.maximum(excess, 1e-300))
    return np.minimum(total, 1e300)
