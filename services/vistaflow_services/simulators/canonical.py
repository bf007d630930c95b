"""Points as people and optimisers write them, made into the one form that is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.decks.rounding import round_significant
from vistaflow_services.decks.space import Point, Space


def canonical_points(space: Space, points: Sequence[Mapping[str, Any]]) -> list[Point]:
    """`Space.check` for many points, a column at a time where all is well.

    Raises:
        InvalidError: For each value that is missing, unknown or out of range; fields are
            `points[3].name`.
    """
    if not points:
        return []
    try:
        return _by_columns(space, points)
    except (InvalidError, KeyError, TypeError, ValueError, OverflowError):
        return _one_by_one(space, points)


def _by_columns(space: Space, points: Sequence[Mapping[str, Any]]) -> list[Point]:
    names = set(space.names)
    if any(point.keys() != names for point in points):
        raise ValueError("names differ")
    columns: dict[str, list[Any]] = {}
    for parameter in space.parameters:
        values = [point[parameter.name] for point in points]
        if parameter.choices:
            raise ValueError("choices are checked one by one")
        numbers = np.array(values, dtype=np.float64)
        if any(isinstance(value, bool | str) for value in values):
            raise ValueError("not numbers")
        parameter.encode(numbers)
        if parameter.low is not None and isinstance(parameter.low, int):
            whole = np.rint(numbers)
            if (whole != numbers).any():
                raise ValueError("not whole numbers")
            columns[parameter.name] = whole.astype(np.int64).tolist()
        else:
            columns[parameter.name] = np.clip(
                round_significant(numbers), parameter.low, parameter.high
            ).tolist()
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _one_by_one(space: Space, points: Sequence[Mapping[str, Any]]) -> list[Point]:
    violations = Violations()
    checked: list[Point] = []
    for index, point in enumerate(points):
        try:
            checked.append(space.check(point))
        except InvalidError as error:
            violations.extend(f"points[{index}]", error)
            if len(violations) > 100:
                break
    violations.check()
    return checked
