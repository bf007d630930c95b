"""How far constraints are missed, on scales on which misses of several constraints add up.

    symbol   shape   unit               meaning
    excess   (n, k)  the constraint's   left - right, turned so that above 0 is missed; infinite
                                        where a side is undefined
    spread   (k,)    the constraint's   how far trials usually lie from their median excess
    miss     (n, k)  spreads            max(excess, 0) / spread

A spread moves with the unit in which a constraint is written and not with what stands on which
side, so `tau <= 500`, `tau - 500 <= 0` and `tau / 500 <= 1` rank points alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vistaflow_services.decks.expressions import Constraint, Expression
from vistaflow_services.decks.formulas import Call, Name, Node, weighted_terms

ROUNDING = 1e-9
"""Part of the largest excess up to which a difference is taken for rounding."""


@dataclass(frozen=True, kw_only=True)
class MissScale:
    """The spread of each constraint over some trials."""

    spreads: tuple[float, ...]
    """One a constraint, above 0, in the constraint's own unit; empty of no trials: all are 1."""

    @classmethod
    def over(cls, excesses: Sequence[Sequence[float]]) -> MissScale:
        """The scale of trials with these excesses (n, k).

        The spread is the median distance from the median of the trials that lie off it: neither
        a diverged run nor many trials of one value decide it. Where all trials are alike it is
        what they miss, or 1.
        """
        return cls(spreads=tuple(_spread(column) for column in zip(*excesses, strict=True)))

    def total(self, excesses: Sequence[float]) -> tuple[int, float]:
        """How far all constraints are missed: how many are undefined, then the sum of misses."""
        defined = [max(miss, 0.0) for miss in self._scaled(excesses) if miss < math.inf]
        return len(excesses) - len(defined), math.fsum(defined)

    def worst(self, excesses: Sequence[float]) -> int:
        """The place of the constraint that is missed most."""
        scaled = self._scaled(excesses)
        return max(range(len(scaled)), key=lambda index: scaled[index])

    def _scaled(self, excesses: Sequence[float]) -> list[float]:
        spreads = self.spreads or (1.0,) * len(excesses)
        return [excess / spread for excess, spread in zip(excesses, spreads, strict=True)]


def _spread(column: Sequence[float]) -> float:
    values = np.array([excess for excess in column if math.isfinite(excess)])
    if not len(values):
        return 1.0
    # Halved, because the distance of two finite numbers may not be one.
    off = np.abs(values / 2 - float(np.median(values / 2)))
    off = off[off > ROUNDING * np.abs(values / 2).max()]
    if len(off):
        return max(2 * min(float(np.median(off)), 1e300 / 2), 1e-300)
    return abs(float(values[0])) or 1.0


def constraint_unit(constraint: Constraint, units: Mapping[str, str]) -> str:
    """The unit of a constraint's sides; empty where it does not follow from its formulas.

    Args:
        constraint: Such as `tau - 500 <= 0`.
        units: The unit of each name.
    """
    sides = {_side_unit(side, units) for side in (constraint.left, constraint.right)} - {""}
    return sides.pop() if len(sides) == 1 else ""


def _side_unit(side: Expression, units: Mapping[str, str]) -> str:
    """The unit of a sum of names, each perhaps times a number; empty for other formulas.

    A sum with no name that stands alone has none: in `1000 * length` the factor may carry a unit.
    """
    terms = {node: weight for node, weight in weighted_terms(side.root).items() if node is not None}
    named = {_node_unit(node, units) for node in terms}
    alone = any(abs(weight) == 1.0 for weight in terms.values())
    return named.pop() if len(named) == 1 and alone else ""


def _node_unit(node: Node, units: Mapping[str, str]) -> str:
    if isinstance(node, Name):
        return units.get(node.name, "")
    if isinstance(node, Call) and node.name in ("abs", "min", "max"):
        named = {_node_unit(argument, units) for argument in node.arguments} - {""}
        return named.pop() if len(named) == 1 else ""
    return ""
