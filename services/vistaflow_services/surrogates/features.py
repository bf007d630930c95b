"""Raw points checked against a space and turned into the inputs of models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.decks.space import Choice, Kind, Parameter, Point, Scale, Space
from vistaflow_services.surrogates.surrogate import Floats

MAX_MISTAKES = 50
"""Most mistakes reported of one call; a million bad points are not a million messages."""


def check_points(
    space: Space,
    points: Sequence[Mapping[str, Any]],
    *,
    extrapolate: bool = False,
    held: Mapping[str, Choice] | None = None,
) -> list[Point]:
    """The canonical points.

    Args:
        space: What the model was trained over.
        points: A value for each parameter.
        extrapolate: Whether numbers may lie outside their range. Choices never may.
        held: Values of parameters that did not vary in training, so that a model cannot know
            what they do; others are refused unless `extrapolate`.

    Raises:
        InvalidError: With a violation such as `points[3].length` for each mistake: an unknown or
            missing parameter, a value outside its range, what is not a number.
    """
    violations = Violations()
    checked: list[Point] = []
    for index, point in enumerate(points):
        try:
            checked.append(_check_wide(space, point) if extrapolate else space.check(point))
            if held and not extrapolate:
                _check_held(checked[-1], held)
        except InvalidError as error:
            violations.extend(f"points[{index}]", error)
            if len(violations) >= MAX_MISTAKES:
                break
    violations.check()
    return checked


def _check_held(point: Point, held: Mapping[str, Choice]) -> None:
    violations = Violations()
    for name, value in held.items():
        if point[name] != value:
            violations.add(
                name,
                f"was held at {value} in the design, so the model does not know what "
                f"{point[name]} does; vary it in a design, or allow extrapolation",
            )
    violations.check()


def _check_wide(space: Space, point: Mapping[str, Any]) -> Point:
    """`Space.check` with the ranges of numbers left open, down to what a logarithm allows."""
    violations = Violations()
    inside, values = dict(point), dict(point)
    for parameter in space.parameters:
        value = point.get(parameter.name)
        if parameter.choices or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or (parameter.kind is Kind.INTEGER and value != round(value)):
            continue
        if parameter.scale is Scale.LOG and value <= 0:
            violations.add(
                parameter.name,
                f"{value} has no logarithm; its range is {parameter.low} to {parameter.high}",
            )
        assert parameter.low is not None
        assert parameter.high is not None
        # Moved into the range only to have names, types and whole numbers checked.
        inside[parameter.name] = min(max(value, parameter.low), parameter.high)
        values[parameter.name] = float(value)
    violations.check()
    canonical = space.check(inside)
    for parameter in space.parameters:
        if not parameter.choices and inside[parameter.name] != point[parameter.name]:
            number = float(values[parameter.name])
            canonical[parameter.name] = round(number) if parameter.kind is Kind.INTEGER else number
    return canonical


def model_features(space: Space, points: Sequence[Mapping[str, Any]]) -> tuple[Floats, list[str]]:
    """`Space.features`, going on beyond 0 and 1 for points outside the ranges."""
    inside: list[Point] = []
    outside: list[tuple[int, Parameter]] = []
    for index, point in enumerate(points):
        bounded = dict(point)
        for parameter in space.parameters:
            if parameter.choices:
                continue
            assert parameter.low is not None
            assert parameter.high is not None
            if not parameter.low <= point[parameter.name] <= parameter.high:
                bounded[parameter.name] = min(
                    max(point[parameter.name], parameter.low), parameter.high
                )
                outside.append((index, parameter))
        inside.append(bounded)
    matrix, names = space.features(inside)
    for row, parameter in outside:
        matrix[row, names.index(parameter.name)] = _place(
            parameter, float(points[row][parameter.name])
        )
    return np.ascontiguousarray(matrix, np.float64), names


def _place(parameter: Parameter, value: float) -> float:
    """Where `value` lies on the unit interval, or beyond it."""
    assert parameter.low is not None
    assert parameter.high is not None
    half = 0.5 if parameter.kind is Kind.INTEGER else 0.0
    low, high = parameter.low - half, parameter.high + half
    if parameter.scale is Scale.LOG:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)
