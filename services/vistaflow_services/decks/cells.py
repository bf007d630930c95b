"""The points of a space that has only so many: whole numbers and choices, nothing real."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.decks.space import Choice, Columns, Kind, Parameter, Space

MOST_COUNTED: Final = 100_000
"""Most combinations that are looked at one by one."""


def cell_count(space: Space, fixed: Mapping[str, Choice] | None = None) -> int | None:
    """How many points a space has that meet its constraints.

    Args:
        space: The space.
        fixed: Values of parameters that do not vary.

    Returns:
        None where a real parameter varies, or where there are more than `MOST_COUNTED` points.
    """
    columns = every_point(space, fixed)
    return None if columns is None else len(columns[space.names[0]])


def every_point(space: Space, fixed: Mapping[str, Choice] | None = None) -> Columns | None:
    """The points that `cell_count` counts, the last parameter fastest; None as there."""
    values = [_values(parameter, fixed or {}) for parameter in space.parameters]
    counts = [len(column) for column in values]
    if 0 in counts or math.prod(counts) > MOST_COUNTED:
        return None
    places = np.unravel_index(np.arange(math.prod(counts)), counts)
    columns = {
        parameter.name: column[place]
        for parameter, column, place in zip(space.parameters, values, places, strict=True)
    }
    met = space.feasible_columns(columns)
    return {name: column[met] for name, column in columns.items()}


def _values(parameter: Parameter, fixed: Mapping[str, Choice]) -> NDArray[Any]:
    """The values that a parameter takes; none where they are too many to count."""
    if parameter.name in fixed:
        return np.array([fixed[parameter.name]], dtype=parameter.dtype)
    if parameter.choices:
        return parameter.decode(parameter.encode(parameter.choices))
    low, high = parameter.low, parameter.high
    if parameter.kind is Kind.REAL or low is None or high is None or high - low >= MOST_COUNTED:
        return np.empty(0)
    return np.arange(int(low), int(high) + 1, dtype=parameter.dtype)
