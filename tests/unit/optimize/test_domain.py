import math

import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.expressions import parse_constraint
from vistaflow_services.decks.space import Kind, Parameter, Scale, Space
from vistaflow_services.optimize.domain import (
    Problem,
    StudyPlan,
    Trial,
    TuningPlan,
    at_bounds,
    best_trial,
    blocking,
    check_goals,
    made_trial,
)
from vistaflow_services.search.misses import constraint_unit
from vistaflow_services.search.observation import best_observation

SPACE = Space(
    parameters=(Parameter(name="w", low=0.0, high=10.0), Parameter(name="l", low=0.0, high=10.0)),
    constraints=(parse_constraint("w + l <= 15", ["w", "l"]),),
)


def _problem(text: str) -> Problem:
    goals = check_goals(text, responses=["ion", "ioff"], parameters=["w", "l"])
    return Problem(space=SPACE, goals=goals)


def _violations(error: InvalidError) -> list[str]:
    return [each.field for each in error.violations]


def test_every_mistake_of_a_plan_is_told_at_once_under_its_field() -> None:
    with pytest.raises(InvalidError) as caught:
        StudyPlan(goals=" ", budget=100_001, batch_size=65, tolerance=1.5, seed=-1)
    assert _violations(caught.value) == ["goals", "budget", "batch_size", "tolerance", "seed"]


@pytest.mark.parametrize("budget", [-1, 100_001])
def test_a_budget_out_of_range_is_refused_with_the_range(budget: int) -> None:
    with pytest.raises(InvalidError, match="give 1 to 100000"):
        StudyPlan(goals="minimize ion", budget=budget)


def test_every_mistake_of_a_tuning_plan_is_told_at_once_under_its_field() -> None:
    with pytest.raises(InvalidError) as caught:
        TuningPlan(family="", trial_count=0, folds=1, seed=-1)
    assert _violations(caught.value) == ["family", "trial_count", "folds", "seed"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("maximize iom", "did you mean `ion`"),
        ("ioff <= 1", "nothing to optimise"),
        ("maximize ion; ioff <= 1; ioff >= 2", "contradict"),
        ("maximize ion; minimize ioff", "2 objectives; keep one"),
        ("minimize w * l; w >= 1", "no response is named"),
    ],
)
def test_goals_that_cannot_be_pursued_are_refused_with_the_reason(text: str, told: str) -> None:
    with pytest.raises(InvalidError, match=told) as caught:
        check_goals(text, responses=["ion", "ioff"], parameters=["w", "l"])
    assert set(_violations(caught.value)) == {"goals"}


def test_constraints_over_parameters_alone_are_known_and_the_others_simulated() -> None:
    problem = _problem("maximize ion; w * l <= 9; ioff <= 1e-9 * w")
    assert [str(each) for each in problem.parameter_constraints] == ["w * l <= 9"]
    assert [str(each) for each in problem.simulated] == ["ioff <= 1e-9 * w"]


def test_a_point_is_worth_its_objective_as_written_and_misses_in_the_constraints_unit() -> None:
    problem = _problem("maximize ion / w; ioff <= 1; ion >= 4; w <= 3")
    worth = problem.assess({"w": 2.0, "l": 1.0}, {"ion": 3.0, "ioff": 4.0})
    assert worth.objective == 1.5
    assert [(each.value, each.limit, each.met, each.miss) for each in worth.constraints] == [
        (4.0, 1.0, False, 3.0),
        (3.0, 4.0, False, 1.0),
        (2.0, 3.0, True, 0.0),
    ]
    assert worth.excesses == (3.0, 1.0, -1.0)
    assert not worth.feasible


@pytest.mark.parametrize(
    "limit", ["ioff <= 500", "ioff - 500 <= 0", "0 >= ioff - 500", "ioff / 500 <= 1", "500 > ioff"]
)
def test_the_point_that_misses_least_is_the_same_however_its_limit_is_written(limit: str) -> None:
    problem = _problem(f"minimize ion; {limit}")
    trials = _trials(problem, [(1.0, 893_720.0), (9.0, 976.0), (4.0, 20_000.0), (5.0, 3_000.0)])
    best = best_trial(trials, problem.objective.sign)
    assert best is not None
    assert best.number == 1
    seen = best_observation([problem.observe(dict(each.point), each.responses) for each in trials])
    assert seen is not None
    assert seen.point == trials[1].point


@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e9])
def test_misses_of_several_limits_are_added_in_spreads_whatever_their_units(unit: float) -> None:
    problem = _problem(f"minimize w; ion >= 10; ioff <= {unit}")
    rows = [(2.0, 3.0), (4.0, 9.0), (6.0, 5.0), (8.0, 2.0), (9.0, 8.0)]
    trials = _trials(problem, [(ion, ioff * unit) for ion, ioff in rows])
    best = best_trial(trials, problem.objective.sign)
    assert best is not None
    assert best.number == 3


def test_a_limit_that_every_trial_misses_alike_hides_no_other() -> None:
    problem = _problem("minimize w; ion <= 0; ioff <= 1")
    trials = _trials(problem, [(1.0 + 1e-16, 4.0), (1.0, 2.0), (1.0 - 1e-16, 3.0)])
    best = best_trial(trials, problem.objective.sign)
    assert best is not None
    assert best.number == 1


@pytest.mark.parametrize("goal", ["l <= log(ion)", "log(ion) >= 0 * l", "0 <= log(ion)"])
def test_a_limit_without_a_value_is_missed_further_than_any_with_one(goal: str) -> None:
    problem = _problem(f"minimize ioff; {goal}; w >= 9")
    trials = _trials(problem, [(-1.0, 0.0), (1e-30, 5.0), (-2.0, 1.0)])
    best = best_trial(trials, problem.objective.sign)
    assert best is not None
    assert best.number == 1


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("ioff <= 1e-9", "A"),
        ("ioff - 1e-9 <= 0", "A"),
        ("ioff <= 1e-9 * w", "A"),
        ("abs(ioff) <= 1", "A"),
        ("w <= l", "um"),
        ("1000 * ioff <= 1", ""),
        ("ion * ioff <= 1", ""),
        ("log10(ioff) <= -9", ""),
        ("ioff + w <= 1", ""),
    ],
)
def test_a_miss_has_the_unit_that_follows_from_the_formula(text: str, unit: str) -> None:
    units = {"ion": "mA", "ioff": "A", "w": "um", "l": "um"}
    assert constraint_unit(parse_constraint(text, list(units)), units) == unit


def test_an_observation_is_turned_so_that_less_is_better_and_left_is_below_right() -> None:
    problem = _problem("maximize ion; ioff <= 1; ion >= 4; w <= 3")
    seen = problem.observe({"w": 2.0, "l": 1.0}, {"ion": 5.0, "ioff": 0.5})
    assert (seen.objective, seen.sides, seen.feasible) == (-5.0, ((0.5, 1.0), (4.0, 5.0)), True)


def test_a_point_outside_the_space_constraints_is_not_feasible() -> None:
    problem = _problem("maximize ion")
    assert not problem.observe({"w": 9.0, "l": 9.0}, {"ion": 5.0, "ioff": 0.5}).feasible


def test_a_failed_run_is_an_observation_without_values() -> None:
    seen = _problem("maximize ion; ioff <= 1").observe({"w": 2.0, "l": 1.0}, None)
    assert not seen.ok
    assert math.isnan(seen.objective)


def test_an_objective_whose_formula_is_undefined_makes_no_best_trial() -> None:
    problem = _problem("maximize log(ion)")
    trial = made_trial(problem, 0, "doe", {"w": 2.0, "l": 1.0}, {"ion": -1.0, "ioff": 0.0})
    assert not trial.usable
    assert not trial.feasible
    assert best_trial([trial], -1.0) is None


def _trials(problem: Problem, responses: list[tuple[float, float] | None]) -> list[Trial]:
    return [
        made_trial(
            problem,
            at,
            "doe",
            {"w": 2.0, "l": float(at)},
            None if each is None else {"ion": each[0], "ioff": each[1]},
        )
        for at, each in enumerate(responses)
    ]


def test_the_best_trial_is_feasible_before_it_is_good_and_the_earliest_of_equals() -> None:
    problem = _problem("maximize ion; ioff <= 1")
    trials = _trials(problem, [(9.0, 5.0), None, (3.0, 0.5), (4.0, 0.5), (4.0, 0.1)])
    best = best_trial(trials, problem.objective.sign)
    assert best is not None
    assert best.number == 3


def test_with_nothing_feasible_the_best_misses_least_and_the_blocking_limit_is_named() -> None:
    problem = _problem("maximize ion; ioff <= 1; ion >= 2")
    trials = _trials(problem, [(9.0, 5.0), (1.0, 1.1), (3.0, 1.25), None])
    best = best_trial(trials, problem.objective.sign)
    assert best is not None
    assert best.number == 2
    assert blocking(trials, problem) == [
        "`ioff <= 1` is missed by 3 of 3 points, by 0.1 or more",
        "`ion >= 2` is missed by 1 of 3 points",
    ]


def test_parameters_at_an_end_of_their_range_are_named_on_their_scale() -> None:
    space = Space(
        parameters=(
            Parameter(name="width", low=1, high=10_000, scale=Scale.LOG),
            Parameter(name="length", low=0, high=1),
            Parameter(name="kind", kind=Kind.CATEGORICAL, choices=("a", "b")),
            Parameter(name="still", low=0, high=1),
        )
    )
    goals = check_goals("minimize y", responses=["y"], parameters=["width", "length"])
    problem = Problem(space=space, goals=goals, fixed={"still": 0.0})

    def ends(width: float, length: float) -> dict[str, str]:
        point = {"width": width, "length": length, "kind": "a", "still": 0.0}
        return {bound["name"]: bound["end"] for bound in at_bounds(problem, point)}

    assert ends(30.0, 0.997) == {"length": "upper"}
    assert ends(1.0, 0.5) == {"width": "lower"}
    assert at_bounds(problem, {"width": 30.0, "length": 1.0, "kind": "a", "still": 0.0}) == [
        {"name": "length", "value": 1.0, "low": 0.0, "high": 1.0, "end": "upper"}
    ]
