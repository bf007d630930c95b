from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vistaflow_services.decks.expressions import Constraint, parse_constraint
from vistaflow_services.decks.space import Kind, Parameter, Point, Space
from vistaflow_services.search.bayes import MAX_MODEL_POINTS, BayesianSearch, latin
from vistaflow_services.search.cube import SearchCube, point_key
from vistaflow_services.search.observation import Observation
from vistaflow_services.surrogates.families.gaussian_process import GaussianProcess

Simulator = Callable[[Point], Observation]


def _square(count: int = 2) -> Space:
    return Space(parameters=tuple(Parameter(name=f"x{i}", low=0.0, high=1.0) for i in range(count)))


def _bowl(point: Point) -> Observation:
    x = np.array(list(point.values()), dtype=float)
    value = float(np.sum((x - 0.3) ** 2))
    return Observation(point=point, objective=value, feasible=True)


def _disc(point: Point) -> Observation:
    """Smallest sum of coordinates outside a circle about the origin: 0.6 at its rim's ends."""
    x = np.array(list(point.values()), dtype=float)
    radius = float(np.sqrt(np.sum(x**2)))
    met = radius >= 0.6
    return Observation(
        point=point,
        objective=float(x.sum()),
        sides=((0.6, radius),),
        feasible=met,
        excesses=(0.6 - radius,),
    )


def _searched(
    space: Space,
    simulate: Simulator,
    *,
    runs: int,
    constraints: int = 0,
    known: tuple[Constraint, ...] = (),
    seed: int = 0,
    batch: int = 2,
    initial: int = 8,
) -> BayesianSearch:
    cube = SearchCube(space, known)
    search = BayesianSearch(cube=cube, constraint_count=constraints, seed=seed)
    first = latin(initial, space.dimension, np.random.default_rng(seed))
    points, _ = cube.canonical(first)
    search.tell([simulate(each) for each in points])
    while runs > 0:
        asked = search.ask(min(batch, runs), remaining=runs)
        if not asked:
            break
        search.tell([simulate(each) for each in asked])
        runs -= len(asked)
    return search


def test_a_smooth_bowl_is_found_to_a_thousandth_in_ten_runs() -> None:
    best = _searched(_square(), _bowl, runs=10).best
    assert best is not None
    assert best.objective < 1e-5


def test_a_simulated_constraint_that_is_active_at_the_optimum_is_met_and_used_up() -> None:
    best = _searched(_square(), _disc, runs=20, constraints=1).best
    assert best is not None
    assert best.feasible
    assert best.objective == pytest.approx(0.6, rel=2e-3)


def test_a_known_constraint_is_never_broken_and_its_edge_is_reached() -> None:
    known = (parse_constraint("x0 + x1 >= 1", ["x0", "x1"]),)
    search = _searched(_square(), _bowl, runs=16, known=known)
    asked = search.observations[8:]
    assert all(each.point["x0"] + each.point["x1"] >= 1 for each in asked)  # type: ignore[operator]
    best = min(asked, key=lambda each: each.objective)
    assert best.objective == pytest.approx(0.08, rel=1e-3)


def test_no_point_is_asked_for_twice() -> None:
    search = _searched(_square(), _bowl, runs=40)
    keys = [point_key(each.point) for each in search.observations]
    assert len(set(keys)) == len(keys)


def test_the_same_seed_and_answers_give_the_same_questions_to_the_last_bit() -> None:
    first, second = (_searched(_square(3), _disc, runs=12, constraints=1) for _ in range(2))
    assert [each.point for each in first.observations] == [
        each.point for each in second.observations
    ]
    other = _searched(_square(3), _disc, runs=12, constraints=1, seed=1)
    assert other.observations[-1].point != first.observations[-1].point


def test_a_region_where_runs_fail_is_learnt_and_left() -> None:
    def frail(point: Point) -> Observation:
        return Observation(point=point) if float(point["x0"]) < 0.45 else _bowl(point)

    search = _searched(_square(), frail, runs=24, initial=10)
    late = search.observations[-10:]
    assert sum(not each.ok for each in late) <= 4
    assert search.best is not None
    assert search.best.objective == pytest.approx(0.0225, rel=0.2)


def test_it_goes_on_when_every_run_has_failed() -> None:
    search = _searched(_square(), lambda point: Observation(point=point), runs=6)
    assert len(search.observations) == 14
    assert search.best is None


def test_a_mixed_space_is_searched_over_its_discrete_parameters_too() -> None:
    space = Space(
        parameters=(
            Parameter(name="x", low=-1.0, high=1.0),
            Parameter(name="k", kind=Kind.INTEGER, low=0, high=9),
            Parameter(name="metal", kind=Kind.CATEGORICAL, choices=("al", "cu", "w", "co")),
        )
    )
    offset = {"al": 3.0, "cu": 1.0, "w": 0.0, "co": 2.0}

    def simulate(point: Point) -> Observation:
        value = (float(point["x"]) - 0.2) ** 2 + 0.1 * (int(point["k"]) - 7) ** 2
        value += offset[str(point["metal"])]
        return Observation(point=point, objective=value, feasible=True)

    best = _searched(space, simulate, runs=30, initial=12).best
    assert best is not None
    assert (best.point["k"], best.point["metal"]) == (7, "w")
    assert best.objective < 1e-3


def test_a_small_discrete_space_is_exhausted_and_then_nothing_more_is_asked() -> None:
    space = Space(
        parameters=(
            Parameter(name="i", kind=Kind.INTEGER, low=1, high=4),
            Parameter(name="j", kind=Kind.INTEGER, low=1, high=3),
        )
    )

    def simulate(point: Point) -> Observation:
        value = float(int(point["i"]) * int(point["j"]))
        return Observation(point=point, objective=value, feasible=True)

    search = BayesianSearch(cube=SearchCube(space), constraint_count=0, seed=0)
    while asked := search.ask(2):
        search.tell([simulate(each) for each in asked])
    assert len(search.observations) == 12


def test_a_space_without_an_allowed_point_gives_no_question() -> None:
    known = (parse_constraint("x0 + x1 >= 3", ["x0", "x1"]),)
    search = BayesianSearch(cube=SearchCube(_square(), known), constraint_count=0, seed=0)
    assert search.ask(2) == []


def test_the_points_of_a_batch_lie_apart() -> None:
    search = _searched(_square(), _bowl, runs=0)
    points = search.ask(4)
    where = np.array([list(each.values()) for each in points], dtype=float)
    gaps = [np.abs(a - b).max() for i, a in enumerate(where) for b in where[:i]]
    assert min(gaps) > 1e-4


def test_a_suggestion_over_several_hundred_points_learns_from_a_part_and_only_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []
    fit = GaussianProcess.fit

    def counted(process: GaussianProcess, X: Any, y: Any, **start: Any) -> GaussianProcess:
        rows.append(len(X))
        return fit(process, X, y, **start)

    monkeypatch.setattr(GaussianProcess, "fit", counted)
    search = _searched(_square(4), _disc, runs=0, constraints=1, initial=700)
    search.ask(1)
    assert set(rows) == {MAX_MODEL_POINTS}
    rows.clear()
    search.ask(1)
    assert rows == []
