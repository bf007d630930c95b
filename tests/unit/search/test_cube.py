import numpy as np

from vistaflow_services.decks.expressions import parse_constraint
from vistaflow_services.decks.space import Kind, Parameter, Scale, Space
from vistaflow_services.search.bayes import latin
from vistaflow_services.search.cube import SearchCube

MIXED = Space(
    parameters=(
        Parameter(name="x", low=0.0, high=2.0),
        Parameter(name="k", kind=Kind.INTEGER, low=1, high=5),
        Parameter(name="metal", kind=Kind.CATEGORICAL, choices=("al", "cu", "w")),
        Parameter(name="node", kind=Kind.ORDINAL, choices=(16.0, 28.0, 45.0, 65.0)),
    )
)


def test_snapping_gives_the_place_of_a_canonical_point_and_leaves_reals_alone() -> None:
    cube = SearchCube(MIXED)
    inputs = np.random.default_rng(0).random((40, 4))
    snapped = cube.snap(inputs)
    np.testing.assert_array_equal(snapped[:, 0], inputs[:, 0])
    points, where = cube.canonical(inputs)
    np.testing.assert_allclose(where[:, 1:], snapped[:, 1:])
    assert points == MIXED.decode(where)


def test_neighbours_are_the_adjacent_levels_and_all_other_unordered_choices() -> None:
    cube = SearchCube(MIXED)
    here = MIXED.encode([{"x": 1.0, "k": 1, "metal": "cu", "node": 28.0}])[0]
    near = MIXED.decode(cube.neighbours(here))
    told = [(each["k"], each["metal"], each["node"]) for each in near]
    assert told == [
        (2, "cu", 28.0),
        (1, "al", 28.0),
        (1, "w", 28.0),
        (1, "cu", 16.0),
        (1, "cu", 45.0),
    ]


def test_features_have_one_column_for_each_unordered_choice_behind_all_others() -> None:
    cube = SearchCube(MIXED)
    here = MIXED.encode([{"x": 1.0, "k": 3, "metal": "w", "node": 16.0}])
    np.testing.assert_allclose(cube.features(here), [[0.5, 0.5, 0.125, 0.0, 0.0, 1.0]])


def test_samples_meet_every_known_constraint() -> None:
    constraints = (parse_constraint("x * k <= 2", MIXED.numeric_names),)
    cube = SearchCube(MIXED, constraints)
    rng = np.random.default_rng(0)
    drawn = cube.sample(lambda n: latin(n, 4, rng), 200)
    assert len(drawn) == 200
    points, _ = cube.canonical(drawn)
    assert all(each["x"] * each["k"] <= 2 for each in points)


def test_a_held_parameter_keeps_its_value() -> None:
    cube = SearchCube(MIXED, fixed={"x": 0.3, "metal": "w"})
    points, _ = cube.canonical(np.random.default_rng(0).random((20, 4)))
    assert {(each["x"], each["metal"]) for each in points} == {(0.3, "w")}


def test_the_slope_of_known_constraints_is_right_on_a_logarithmic_scale() -> None:
    space = Space(
        parameters=(
            Parameter(name="a", low=1.0, high=1000.0, scale=Scale.LOG),
            Parameter(name="b", low=0.0, high=10.0),
        )
    )
    cube = SearchCube(space, (parse_constraint("a * b <= 7", ["a", "b"]),))
    value, slope = cube.excess_slope(np.array([0.5, 0.4]))
    a, b = 1000.0**0.5, 4.0
    np.testing.assert_allclose(value, [a * b - 7])
    np.testing.assert_allclose(slope, [[a * np.log(1000.0) * b, 10.0 * a]], rtol=1e-5)


def test_a_small_discrete_space_is_listed_whole_without_what_is_forbidden() -> None:
    space = Space(
        parameters=(
            Parameter(name="i", kind=Kind.INTEGER, low=1, high=4),
            Parameter(name="j", kind=Kind.INTEGER, low=1, high=3),
        )
    )
    cube = SearchCube(space, (parse_constraint("i * j <= 6", ["i", "j"]),))
    assert cube.grid(11) is None
    grid = cube.grid(12)
    assert grid is not None
    told = sorted((each["i"], each["j"]) for each in space.decode(grid))
    assert told == [(i, j) for i in range(1, 5) for j in range(1, 4) if i * j <= 6]
