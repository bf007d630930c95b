"""The unit cube an optimiser searches: discrete levels, neighbours and known limits.

A space is searched in the coordinates of `Space.encode`: each real parameter runs
over [0, 1] on its own scale, each integer, ordinal or categorical one sits at one of a few
positions. What constraints over parameters alone say is known exactly, and
is used exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.decks.expressions import Constraint
from vistaflow_services.decks.space import Kind, Parameter, Point, Scale, Space

Array = NDArray[np.float64]

MAX_LEVELS = 64
"""Integer parameters with more levels are searched as if real, then rounded."""


PointKey = tuple[tuple[str, str], ...]
"""A hashable identity of a canonical point."""


def point_key(point: Point) -> PointKey:
    """A hashable identity of a canonical point."""
    return tuple((name, repr(value)) for name, value in sorted(point.items()))


class SearchCube:
    """The searchable form of a space with constraints that involve parameters only."""

    def __init__(
        self,
        space: Space,
        constraints: Sequence[Constraint] = (),
        fixed: Mapping[str, float | int | str] | None = None,
    ) -> None:
        """Describes the search.

        Args:
            space: The parameters and their ranges.
            constraints: Further constraints that read parameters only.
            fixed: Canonical values of parameters that are held.
        """
        self.space = space
        self.fixed = dict(fixed or {})
        self.constraints = (*space.constraints, *constraints)
        self._read = sorted({name for constraint in self.constraints for name in constraint.names})
        self.dimension = space.dimension
        self.levels = [self._levels(parameter) for parameter in space.parameters]
        self.continuous = np.array(
            [j for j, levels in enumerate(self.levels) if levels is None], dtype=np.int64
        )
        self._one_hot = [
            parameter.kind is Kind.CATEGORICAL
            and len(parameter.choices) > 2
            and parameter.name not in self.fixed
            for parameter in space.parameters
        ]

    def _levels(self, parameter: Parameter) -> Array | None:
        values: Sequence[float | int | str]
        if parameter.name in self.fixed:
            return parameter.encode([self.fixed[parameter.name]])
        if parameter.kind is Kind.REAL:
            return None
        if parameter.kind is Kind.INTEGER:
            low, high = int(parameter.low or 0), int(parameter.high or 0)
            if high - low >= MAX_LEVELS:
                return None
            values = range(low, high + 1)
        else:
            values = parameter.choices
        return parameter.encode(values)

    def snap(self, inputs: Array) -> Array:
        """Inputs (n, d) with each discrete coordinate moved to its nearest level."""
        snapped = np.clip(inputs, 0.0, 1.0)
        for column, levels in enumerate(self.levels):
            if levels is not None:
                distance = np.abs(snapped[:, column, None] - levels[None, :])
                snapped[:, column] = levels[distance.argmin(axis=1)]
        return snapped

    def canonical(self, inputs: Array) -> tuple[list[Point], Array]:
        """The canonical points nearest to inputs (n, d), and where exactly they lie (n, d)."""
        points = [{**point, **self.fixed} for point in self.space.decode(self.snap(inputs))]
        return points, np.asarray(self.space.encode(points), dtype=np.float64)

    def neighbours(self, point: Array) -> Array:
        """Inputs (k, d) that differ from `point` (d,) in one discrete coordinate.

        The adjacent levels of ordered parameters, every other choice of unordered ones.
        """
        moves: list[Array] = []
        for column, levels in enumerate(self.levels):
            if levels is None:
                continue
            current = int(np.abs(levels - point[column]).argmin())
            unordered = self.space.parameters[column].kind is Kind.CATEGORICAL
            others = range(len(levels)) if unordered else (current - 1, current + 1)
            for level in others:
                if level != current and 0 <= level < len(levels):
                    moved = point.copy()
                    moved[column] = levels[level]
                    moves.append(moved)
        return np.array(moves).reshape(-1, self.dimension)

    def grid(self, limit: int) -> Array | None:
        """Every allowed point of a wholly discrete cube, if there are at most `limit` of all."""
        levels = [level for level in self.levels if level is not None]
        if len(levels) < self.dimension or math.prod(map(len, levels)) > limit:
            return None
        every = np.array(list(itertools.product(*levels)), dtype=np.float64)
        return every[self.allowed(every)]

    def features(self, inputs: Array) -> Array:
        """Model inputs (n, p): unit coordinates, with unordered choices as one column each.

        One-hot columns come after all others, so that the first coordinates of the
        slope of a model are those of the parameters in `feature_columns`.
        """
        plain = inputs[:, self.feature_columns]
        blocks = [plain]
        for column, one_hot in enumerate(self._one_hot):
            if one_hot:
                levels = self.levels[column]
                assert levels is not None
                nearest = np.abs(inputs[:, column, None] - levels[None, :]).argmin(axis=1)
                blocks.append(np.eye(len(levels))[nearest])
        return np.hstack(blocks)

    @property
    def feature_columns(self) -> list[int]:
        """Columns of the cube that are model inputs as they are."""
        return [column for column, one_hot in enumerate(self._one_hot) if not one_hot]

    def excess(self, inputs: Array) -> Array:
        """Signed violations (n, k) of the known constraints at inputs (n, d); <= 0 is met."""
        columns = self._columns(inputs)
        excesses = [
            np.broadcast_to(constraint.violation(columns), (len(inputs),))
            for constraint in self.constraints
        ]
        return np.array(excesses, dtype=np.float64).reshape(len(self.constraints), len(inputs)).T

    def allowed(self, inputs: Array) -> NDArray[np.bool_]:
        """Which inputs (n, d) meet every known constraint."""
        columns = self._columns(inputs)
        met = np.ones(len(inputs), dtype=np.bool_)
        for constraint in self.constraints:
            met &= constraint.met(columns)
        return met

    def allows(self, points: Sequence[Point]) -> NDArray[np.bool_]:
        """Which points meet every known constraint."""
        columns = {name: np.array([point[name] for point in points]) for name in self._read}
        met = np.ones(len(points), dtype=np.bool_)
        for constraint in self.constraints:
            met &= constraint.met(columns)
        return met

    def _columns(self, inputs: Array) -> dict[str, NDArray[np.generic]]:
        """The values, at inputs (n, d), of the parameters that known constraints read.

        Ranges are not rounded: what is searched along them must stay smooth.
        """
        columns: dict[str, NDArray[np.generic]] = {}
        for column, parameter in enumerate(self.space.parameters):
            if parameter.name not in self._read:
                continue
            places = inputs[:, column]
            if parameter.name in self.fixed:
                columns[parameter.name] = np.full(len(inputs), self.fixed[parameter.name])
            elif self.levels[column] is not None or parameter.low is None or parameter.high is None:
                columns[parameter.name] = parameter.decode(places)
            elif parameter.scale is Scale.LOG:
                columns[parameter.name] = parameter.low * (parameter.high / parameter.low) ** places
            else:
                columns[parameter.name] = parameter.low + places * (parameter.high - parameter.low)
        return columns

    def excess_slope(self, point: Array) -> tuple[Array, Array]:
        """Known violations (k,) at one point and their slopes (k, d), by central differences."""
        step = 1e-6
        shifts = np.zeros((2 * len(self.continuous) + 1, self.dimension))
        for row, column in enumerate(self.continuous):
            shifts[1 + 2 * row, column] = step
            shifts[2 + 2 * row, column] = -step
        moved = np.clip(point + shifts, 0.0, 1.0)
        values = self.excess(moved)
        slope = np.zeros((values.shape[1], self.dimension))
        for row, column in enumerate(self.continuous):
            width = moved[1 + 2 * row, column] - moved[2 + 2 * row, column]
            slope[:, column] = (values[1 + 2 * row] - values[2 + 2 * row]) / width
        return values[0], slope

    def sample(self, draw: Callable[[int], Array], count: int) -> Array:
        """Allowed inputs, at most `count`, by rejection from `draw`.

        Gives up after 20 rounds: a space almost wholly forbidden yields few or none.
        """
        batches: list[Array] = []
        total = 0
        for _ in range(20 if self.constraints else 1):
            drawn = self.snap(draw(count))
            drawn = drawn[self.allowed(drawn)] if self.constraints else drawn
            batches.append(drawn)
            total += len(drawn)
            if total >= count:
                break
        return np.vstack(batches)[:count]
