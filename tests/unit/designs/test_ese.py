from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import qmc

from vistaflow_services.designs import ese, spread
from vistaflow_services.designs.generators import latin_hypercube
from vistaflow_services.designs.quality import distances


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_hundred_points_in_ten_dimensions_reach_the_published_anchors(seed: int) -> None:
    start = latin_hypercube(100, 10, seed=seed)
    design = ese.optimise(start, seed=seed)
    nearest, phi = distances(design)
    assert nearest >= 0.84
    assert phi <= 2.08
    assert qmc.discrepancy(design) <= 0.0225


def test_a_thousand_points_in_ten_dimensions_reach_the_published_anchor() -> None:
    design = ese.optimise(latin_hypercube(1000, 10, seed=0), seed=0)
    assert distances(design)[0] >= 0.53


@pytest.mark.parametrize(("count", "dimension"), [(3, 2), (5, 1), (2, 4), (1, 3), (12, 2), (40, 3)])
def test_the_columns_keep_their_values_and_the_design_gets_no_worse(
    count: int, dimension: int
) -> None:
    start = latin_hypercube(count, dimension, seed=5)
    kept = start.copy()
    design = ese.optimise(start, seed=5)
    assert_array_equal(start, kept)
    assert_array_equal(np.sort(design, axis=0), np.sort(start, axis=0))
    if count > 1:
        assert distances(design)[1] <= distances(start)[1]


def test_coinciding_points_are_taken_apart_where_the_columns_allow() -> None:
    start = np.repeat(np.array([[0.25, 0.25], [0.75, 0.75]]), 2, axis=0)
    design = ese.optimise(start, seed=0)
    assert sorted(map(tuple, design.tolist())) == [
        (0.25, 0.25),
        (0.25, 0.75),
        (0.75, 0.25),
        (0.75, 0.75),
    ]


def test_the_incremental_phi_agrees_with_phi_from_scratch() -> None:
    start = latin_hypercube(30, 4, seed=1)
    search = ese._Search(start)
    rng = np.random.default_rng(0)
    for step in range(500):
        search.exchange(step % 4, 0.05, rng)
    assert search.phi == pytest.approx(distances(search.columns.T)[1], rel=1e-9)


def test_the_farthest_points_include_the_corners_of_a_grid() -> None:
    axis = np.linspace(0, 1, 5)
    grid = np.array([(x, y) for x in axis for y in axis])
    chosen = grid[spread.farthest(grid, 5)]
    assert sorted(map(tuple, chosen.tolist())) == [
        (0.0, 0.0),
        (0.0, 1.0),
        (0.5, 0.5),
        (1.0, 0.0),
        (1.0, 1.0),
    ]


def test_exchanges_lower_phi_and_never_choose_a_candidate_twice() -> None:
    candidates = np.random.default_rng(3).random((400, 5))
    first = np.arange(50)
    better = spread.improve(candidates, first, seed=0)
    assert len(set(better.tolist())) == 50
    assert distances(candidates[better])[1] < 0.8 * distances(candidates[first])[1]
