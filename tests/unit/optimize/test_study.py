import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.space import Parameter, Point, Space
from vistaflow_services.optimize.domain import Problem, StudyPlan, Trial, check_goals, made_trial
from vistaflow_services.optimize.plots import (
    best_so_far,
    plot_comparison,
    plot_convergence,
    plot_parity,
)
from vistaflow_services.optimize.study import Study, StudyResult
from vistaflow_services.optimize.trials import named, read_trials, write_trials
from vistaflow_services.search.bayes import latin
from vistaflow_services.simulators.outcome import Failure, Outcome

SPACE = Space(
    parameters=(Parameter(name="a", low=0.0, high=1.0), Parameter(name="b", low=0.0, high=1.0))
)
RESPONSES = ("gain", "power")


def _amplifier(point: Point) -> Outcome:
    """Gain rises and power with it; above a = 0.9 the simulator gives up."""
    a, b = float(point["a"]), float(point["b"])
    if a > 0.9:
        return Outcome(point=point, failure=Failure.NO_CONVERGENCE, message="no bias point")
    gain = 10 * a + 4 * b - 3 * b**2
    return Outcome(point=point, responses={"gain": gain, "power": math.exp(4 * a) + b})


class Counted:
    """An amplifier that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Point] = []

    def __call__(self, points: Sequence[Point]) -> list[Outcome]:
        self.asked += [dict(each) for each in points]
        return [_amplifier(dict(each)) for each in points]


def _study(goals: str, budget: int, **plan: float) -> tuple[Study, Counted]:
    problem = Problem(
        space=SPACE, goals=check_goals(goals, responses=RESPONSES, parameters=["a", "b"])
    )
    trials: list[Trial] = []
    for point in SPACE.decode(latin(10, 2, np.random.default_rng(3))):
        outcome = _amplifier(point)
        responses = outcome.responses if outcome.ok else None
        failure = None if outcome.failure is None else str(outcome.failure)
        trials.append(made_trial(problem, len(trials), "doe", point, responses, failure=failure))
    simulate = Counted()
    study = Study(
        problem=problem,
        plan=StudyPlan(goals=goals, **plan),  # type: ignore[arg-type]
        budget=budget,
        batch_size=2,
        evaluate=simulate,
        trials=trials,
        responses=RESPONSES,
    )
    return study, simulate


def _result(goals: str, budget: int, **plan: float) -> StudyResult:
    return _study(goals, budget, **plan)[0].run()


GOALS = "maximize gain; power <= 12"


def test_the_constrained_optimum_is_found_verified_and_better_than_the_design() -> None:
    result = _result(GOALS, 16)
    best = result.best
    assert best is not None
    assert best.assessment is not None
    assert result.design_best is not None
    assert result.design_best.assessment is not None
    # On power = exp(4 a) + b = 12 the gain is largest at b = 0.62989..., a = 0.60770...
    b = np.linspace(0, 1, 100_001)
    true = float((10 * np.log(12 - b) / 4 + 4 * b - 3 * b**2).max())
    assert best.feasible
    assert best.assessment.objective == pytest.approx(true, rel=1e-3)
    assert best.origin == "verify"
    assert best.assessment.objective > result.design_best.assessment.objective


def test_the_budget_is_spent_to_the_last_run_and_no_point_is_run_twice_but_to_verify() -> None:
    study, simulate = _study(GOALS, 7)
    result = study.run()
    assert result.stop_reason == "budget"
    assert [each.origin for each in result.trials] == ["doe"] * 10 + ["infill"] * 7 + ["verify"]
    assert [each.number for each in result.trials] == list(range(18))
    distinct = {tuple(each.values()) for each in simulate.asked[:7]}
    assert len(distinct) == 7
    assert result.best is not None
    assert simulate.asked[7:] == [dict(result.best.point)]


def test_a_tolerance_ends_the_study_before_its_budget() -> None:
    result = _result(GOALS, 60, tolerance=0.01)
    assert result.stop_reason == "tolerance"
    assert len(result.trials) < 60


def test_the_prediction_at_the_best_point_is_made_without_having_seen_it() -> None:
    result = _result(GOALS, 8)
    best = result.best
    assert best is not None
    assert best.responses is not None
    mean, sd = result.forecast["gain"]
    assert mean != best.responses["gain"]
    assert abs(mean - best.responses["gain"]) < max(6 * sd, 0.05)


def test_what_was_expected_of_each_proposed_run_is_kept_with_it() -> None:
    result = _result(GOALS, 4)
    infill = [each for each in result.trials if each.origin == "infill"]
    assert all(set(each.predicted) == set(RESPONSES) for each in infill)


def test_with_nothing_feasible_the_least_violation_is_the_best_and_it_says_so() -> None:
    study, _ = _study("maximize gain; power <= 0.5", 10)
    result = study.run()
    best = result.best
    assert best is not None
    assert best.assessment is not None
    assert not best.feasible
    # The power is at least 1, at a = b = 0.
    assert best.assessment.constraints[0].value == pytest.approx(1.0, abs=0.05)
    assert study.message().startswith("nothing feasible yet; nearest misses power <= 0.5 by")


def test_constraints_that_no_point_of_the_space_meets_are_refused_by_name() -> None:
    with pytest.raises(InvalidError, match=r"no point .* meets `a \+ b >= 3`"):
        _result("maximize gain; a + b >= 3", 4)


def test_a_study_is_the_same_to_the_last_bit_when_it_is_run_again() -> None:
    first, second = _result(GOALS, 10, seed=4), _result(GOALS, 10, seed=4)
    assert first == second


def test_the_trials_read_back_page_by_page_as_they_were_written(tmp_path: Path) -> None:
    result = _result(GOALS, 6)
    path = tmp_path / "trials.parquet"
    write_trials(path, result.trials, parameters=SPACE.names, responses=RESPONSES)
    assert pq.read_schema(path).names == [
        "number",
        "origin",
        "x.a",
        "x.b",
        "y.gain",
        "y.power",
        "objective",
        "violation",
        "feasible",
        "failure",
        "message",
        "log",
        "source",
        "mean.gain",
        "mean.power",
        "sd.gain",
        "sd.power",
        "cached",
        "seconds",
    ]
    first, more = read_trials(path, limit=10)
    second, end = read_trials(path, offset=10, limit=10)
    assert (len(first), more, len(second), end) == (10, True, 7, False)
    for row, trial in zip([*first, *second], result.trials, strict=True):
        assert named(row, "x.") == trial.point
        assert named(row, "y.") == (trial.responses or {})
        assert row["failure"] == trial.failure


def test_the_best_so_far_never_gets_worse_and_is_unknown_before_the_first_feasible() -> None:
    values = np.array([5.0, 7.0, np.nan, 6.0, 9.0])
    feasible = np.array([False, True, False, True, True])
    np.testing.assert_array_equal(best_so_far(values, feasible, -1.0), [np.nan, 7, 7, 7, 9])
    np.testing.assert_array_equal(best_so_far(values, feasible, 1.0), [np.nan, 7, 7, 6, 6])


@pytest.mark.parametrize(
    "simulated", [[1.0, 1.1, 1.2], [1e-9, 1e-6, 1e-3]], ids=["one decade", "many decades"]
)
@pytest.mark.parametrize("wrong", [-5.0, 0.0, 40.0])
def test_every_prediction_is_in_the_picture_however_wrong(
    simulated: list[float], wrong: float
) -> None:
    axes = Figure().subplots()
    pairs = np.array([(value, value, 0.1 * value) for value in simulated])
    pairs[1, 1] = wrong
    plot_parity(axes, pairs)
    low, high = axes.get_ylim()
    (points, *_) = (line for line in axes.get_lines() if line.get_marker() == "o")
    np.testing.assert_array_equal(points.get_ydata(), pairs[:, 1])
    assert low < pairs[:, 1].min()
    assert pairs[:, 1].max() < high


@pytest.mark.parametrize("goals", [GOALS, "maximize gain", "minimize gain; power <= 0.5"])
def test_pictures_are_drawn_of_any_study(goals: str, tmp_path: Path) -> None:
    study, _ = _study(goals, 4)
    result = study.run()
    convergence, comparison = tmp_path / "convergence.png", tmp_path / "predicted.png"
    plot_convergence(study.problem, result.trials).savefig(convergence)
    plot_comparison(result.trials, RESPONSES, {"gain": "dB"}).savefig(comparison)
    for path in (convergence, comparison):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5_000
