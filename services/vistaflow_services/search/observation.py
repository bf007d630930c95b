"""What is known of an evaluated point, as a search takes it in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vistaflow_services.decks.space import Point
from vistaflow_services.search.misses import MissScale


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

    excesses: tuple[float, ...] = ()
    """Of each constraint, known or simulated, in its own unit; above 0 it is missed."""

    @property
    def ok(self) -> bool:
        """Whether the point has usable values."""
        return math.isfinite(self.objective) and all(
            math.isfinite(left) and math.isfinite(right) for left, right in self.sides
        )


def best_observation(observations: Sequence[Observation]) -> Observation | None:
    """The feasible observation of smallest objective, else the usable one that misses least.

    Misses are scaled by the spread of their constraint over the usable observations and added.
    Of equals the earliest wins.
    """
    usable = [observation for observation in observations if observation.ok]
    if not usable:
        return None
    scale = MissScale.over([observation.excesses for observation in usable])
    return min(
        usable,
        key=lambda observation: (
            not observation.feasible,
            (0, 0.0) if observation.feasible else scale.total(observation.excesses),
            observation.objective,
        ),
    )
