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
"""Mistakes told of one call; a million bad points are not a million messages."""


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
    found = Violations()
    checked: list[Point] = []
    for at, point in enumerate(points):
        try:
            checked.append(_check_wide(space, point) if extrapolate else space.check(point))
            if held and not extrapolate:
                _check_held(checked[-1], held)
        except InvalidError as error:
            found.extend(f"points[{at}]", error)
            if len(found) >= MAX_MISTAKES:
                break
    found.check()
    return checked


def _check_held(point: Point, held: Mapping[str, Choice]) -> None:
    found = Violations()
    for name, value in held.items():
        if point[name] != value:
            found.add(
                name,
                f"was held at {value} in the design, so the model does not know what "
                f"{point[name]} does; vary it in a design, or allow extrapolation",
            )
    found.check()


def _check_wide(space: Space, point: Mapping[str, Any]) -> Point:
    """`Space.check` with the ranges of numbers left open, down to what a logarithm allows."""
    found = Violations()
    inside, values = dict(point), dict(point)
    for each in space.parameters:
        value = point.get(each.name)
        if each.choices or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or (each.kind is Kind.INTEGER and value != round(value)):
            continue
        if each.scale is Scale.LOG and value <= 0:
            found.add(
                each.name, f"{value} has no logarithm; its range is {each.low} to {each.high}"
            )
        assert each.low is not None
        assert each.high is not None
        # Moved into the range only to have names, types and whole numbers checked.
        inside[each.name] = min(max(value, each.low), each.high)
        values[each.name] = float(value)
    found.check()
    canonical = space.check(inside)
    for each in space.parameters:
        if not each.choices and inside[each.name] != point[each.name]:
            number = float(values[each.name])
            canonical[each.name] = round(number) if each.kind is Kind.INTEGER else number
    return canonical


def model_features(space: Space, points: Sequence[Mapping[str, Any]]) -> tuple[Floats, list[str]]:
    """`Space.features`, going on beyond 0 and 1 for points outside the ranges."""
    inside: list[Point] = []
    outside: list[tuple[int, Parameter]] = []
    for at, point in enumerate(points):
        kept = dict(point)
        for each in space.parameters:
            if each.choices:
                continue
            assert each.low is not None
            assert each.high is not None
            if not each.low <= point[each.name] <= each.high:
                kept[each.name] = min(max(point[each.name], each.low), each.high)
                outside.append((at, each))
        inside.append(kept)
    matrix, names = space.features(inside)
    for at, each in outside:
        matrix[at, names.index(each.name)] = _place(each, float(points[at][each.name]))
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
