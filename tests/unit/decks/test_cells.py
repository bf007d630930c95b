"""Spaces of so many points: counted, listed, and nothing where a parameter is real."""

from __future__ import annotations

import pytest

from vistaflow_services.decks.cells import cell_count, every_point
from vistaflow_services.decks.expressions import parse_constraint
from vistaflow_services.decks.space import Kind, Parameter, Scale, Space

WHOLE = Parameter(name="n", kind=Kind.INTEGER, low=-1, high=2)
DECADES = Parameter(name="m", kind=Kind.INTEGER, low=1, high=1000, scale=Scale.LOG)
GATE = Parameter(name="gate", kind=Kind.CATEGORICAL, choices=("poly", "metal"))
STEP = Parameter(name="step", kind=Kind.ORDINAL, choices=(0.1, 0.2, 0.5))
REAL = Parameter(name="x", low=0.0, high=1.0)


@pytest.mark.parametrize(
    ("parameters", "fixed", "count"),
    [
        ((WHOLE,), {}, 4),
        ((DECADES,), {}, 1000),
        ((WHOLE, GATE, STEP), {}, 24),
        ((WHOLE, GATE, STEP), {"n": 0, "gate": "poly"}, 3),
        ((WHOLE, REAL), {}, None),
        ((WHOLE, REAL), {"x": 0.5}, 4),
        ((DECADES, Parameter(name="k", kind=Kind.INTEGER, low=0, high=1000)), {}, None),
        ((Parameter(name="k", kind=Kind.INTEGER, low=0, high=10**15),), {}, None),
    ],
)
def test_the_points_of_a_space_are_counted(
    parameters: tuple[Parameter, ...], fixed: dict[str, float | int | str], count: int | None
) -> None:
    assert cell_count(Space(parameters=parameters), fixed) == count


def test_points_that_break_a_constraint_do_not_count() -> None:
    space = Space(
        parameters=(WHOLE, STEP), constraints=(parse_constraint("n >= 10 * step", ["n", "step"]),)
    )
    columns = every_point(space)
    assert columns is not None
    assert space.points(columns) == [
        {"n": 1, "step": 0.1},
        {"n": 2, "step": 0.1},
        {"n": 2, "step": 0.2},
    ]


def test_every_point_is_one_that_the_space_accepts_as_it_is() -> None:
    space = Space(parameters=(WHOLE, GATE, STEP))
    columns = every_point(space, {"gate": "metal"})
    assert columns is not None
    points = space.points(columns)
    assert len(points) == 12
    assert [space.check(each) for each in points] == points
