"""What is known of an evaluated point, as a search takes it in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vistaflow_services.decks.space import Point


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is known of one evaluated point."""

    point: Point
    """The canonical point."""

    objective: float = math.nan
    """The quantity to minimise; NaN when the run failed."""

    sides: tuple[tuple[float, float], ...] = ()
    """(left, right) of each simulated constraint, turned so that left <= right is met."""

    feasible: bool = False
    """Whether every constraint, known or simulated, is met."""

    violation: float = math.inf
    """How far the worst constraint is missed, relative to its limit; 0 when feasible."""

    @property
    def ok(self) -> bool:
        """Whether the point has usable values."""
        return math.isfinite(self.objective) and all(
            math.isfinite(left) and math.isfinite(right) for left, right in self.sides
        )


def best_observation(observations: Sequence[Observation]) -> Observation | None:
    """The feasible observation of smallest objective, else the usable one of least violation.

    Of equals the earliest wins.
    """
    usable = [each for each in observations if each.ok]
    if not usable:
        return None
    return min(
        usable,
        key=lambda each: (
            not each.feasible,
            0.0 if each.feasible else each.violation,
            each.objective,
        ),
    )
