from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from vistaflow_services.decks.space import Kind, Parameter, Space
from vistaflow_services.designs import quality
from vistaflow_services.designs.generators import generate
from vistaflow_services.designs.quality import Coverage, assess
from vistaflow_services.designs.recipe import Design, Generator, Recipe, Region

SQUARE = Space(
    parameters=(Parameter(name="x", low=0.0, high=1.0), Parameter(name="y", low=0.0, high=1.0))
)


def design(points: list[tuple[float, float]], space: Space = SQUARE) -> Design:
    names = space.names
    return Design(
        region=Region(space=space),
        recipe=Recipe(generator=Generator.LHS, size=len(points)),
        version="by hand",
        columns=space.columns([dict(zip(names, each, strict=True)) for each in points]),
        candidate_count=len(points),
        dropped_count=0,
    )


def test_the_figures_of_four_corners_are_known() -> None:
    found = assess(design([(0, 0), (0, 1), (1, 0), (1, 1)]))
    assert found.minimum_distance == 1.0
    assert found.phi_p == pytest.approx((4 + 2 * 2**-5) ** 0.1)
    assert found.max_correlation == 0.0
    assert found.distinct_count == 4
    assert found.coverage == (
        Coverage(parameter="x", distinct_count=2, covered=0.5, largest_gap=1.0),
        Coverage(parameter="y", distinct_count=2, covered=0.5, largest_gap=1.0),
    )


def test_points_on_the_diagonal_correlate_fully() -> None:
    assert assess(design([(0, 0), (0.3, 0.3), (1, 1)])).max_correlation == pytest.approx(1.0)


def test_coinciding_points_are_told_and_leave_no_infinity_in_json() -> None:
    found = assess(design([(0.5, 0.5), (0.5, 0.5), (1, 0)]))
    assert found.minimum_distance == 0.0
    assert found.distinct_count == 2
    assert found.notes == (
        "some points coincide: 3 rows hold 2 different points, and each of them is run once",
    )
    assert "phi_p" not in json.loads(json.dumps(found.to_dict(), allow_nan=False))


def test_a_single_point_has_no_distances() -> None:
    found = assess(design([(0.5, 0.5)]))
    assert found.figures() == {"distinct_points": 1.0, "least_coverage": 1.0}
    assert found.notes == ("a single point has no distances",)


def test_distances_agree_with_scipy() -> None:
    points = np.random.default_rng(0).random((60, 7))
    pairs = pdist(points)
    assert quality.distances(points) == pytest.approx(
        (pairs.min(), (pairs**-10.0).sum() ** 0.1), rel=1e-12
    )


def test_figures_over_all_pairs_are_left_out_for_large_designs_and_that_is_said() -> None:
    space = Space(parameters=tuple(Parameter(name=f"x{at}", low=0.0, high=1.0) for at in range(10)))
    large = generate(Recipe(generator=Generator.SOBOL, size=20_000), Region(space=space))
    found = assess(large)
    assert (found.centred_discrepancy, found.minimum_distance, found.phi_p) == (None, None, None)
    assert found.max_correlation is not None
    assert "left out for 20000 points" in found.notes[0]


def test_a_choice_is_covered_when_each_was_used() -> None:
    space = Space(
        parameters=(
            Parameter(name="n", kind=Kind.INTEGER, low=1, high=4),
            Parameter(name="gate", kind=Kind.CATEGORICAL, choices=("a", "b")),
        )
    )
    found = assess(design([(1, "a"), (2, "b"), (4, "b"), (4, "a")], space))  # type: ignore[list-item]
    assert [each.covered for each in found.coverage] == [0.75, 1.0]
