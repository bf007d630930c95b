"""Noisy simulators: what is best is what is expected to be, verified by several runs."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from vistaflow_services.decks.space import Parameter, Point, Space
from vistaflow_services.optimize.domain import (
    Problem,
    StudyPlan,
    Trial,
    best_trial,
    check_goals,
    made_trial,
)
from vistaflow_services.optimize.replicates import REPEATS, is_noisy, noise_of
from vistaflow_services.optimize.study import Study, StudyResult
from vistaflow_services.search.bayes import latin
from vistaflow_services.simulators.outcome import Failure, Outcome

SPACE = Space(
    parameters=(Parameter(name="x", low=0.0, high=1.0), Parameter(name="y", low=0.0, high=1.0))
)
GOALS = "minimize z; g <= 0.8"
NOISE = 0.05


def _bowl(point: Point) -> float:
    return (float(point["x"]) - 0.3) ** 2 + (float(point["y"]) - 0.6) ** 2


class Simulator:
    """A bowl with noise; what the store knows it answers from there."""

    def __init__(self, seed: int, noise: float) -> None:
        self.random = random.Random(seed)
        self.noise = noise
        self.anew: list[Point] = []
        self.broken = False

    def run(self, points: Sequence[Point]) -> list[Outcome]:
        return [
            Outcome(
                point=dict(point),
                responses={
                    "z": _bowl(point) + self.random.gauss(0, self.noise),
                    "g": float(point["x"]),
                },
            )
            for point in points
        ]

    def run_anew(self, points: Sequence[Point]) -> list[Outcome]:
        self.anew += points
        if self.broken:
            return [Outcome(point=dict(each), failure=Failure.TIMEOUT) for each in points]
        return self.run(points)


def _studied(simulator: Simulator, *, declared: bool, budget: int = 6) -> StudyResult:
    problem = Problem(
        space=SPACE, goals=check_goals(GOALS, responses=["z", "g"], parameters=["x", "y"])
    )
    trials: list[Trial] = []
    for outcome in simulator.run(SPACE.decode(latin(20, 2, np.random.default_rng(3)))):
        responses = dict(outcome.responses)
        trials.append(made_trial(problem, len(trials), "doe", outcome.point, responses))
    study = Study(
        problem=problem,
        plan=StudyPlan(goals=GOALS, seed=1),
        budget=budget,
        batch_size=3,
        evaluate=simulator.run,
        evaluate_anew=simulator.run_anew,
        trials=trials,
        responses=("z", "g"),
        noisy=declared,
    )
    return study.run()


@pytest.mark.parametrize("declared", [True, False])
def test_the_best_of_a_noisy_simulator_is_verified_by_runs_of_their_own_and_no_lucky_reading(
    declared: bool,
) -> None:
    simulator = Simulator(7, NOISE)
    result = _studied(simulator, declared=declared)
    assert result.best is not None
    assert result.best.assessment is not None
    lucky = best_trial([each for each in result.trials if each.origin != "verify"], 1.0)
    assert lucky is not None
    assert lucky.assessment is not None
    truth = _bowl(dict(result.best.point))
    assert lucky.assessment.objective < _bowl(dict(lucky.point)) - NOISE
    assert abs(result.best.assessment.objective - truth) < 1.5 * NOISE
    assert truth < 0.03
    assert result.run_count >= REPEATS
    assert simulator.anew.count(dict(result.best.point)) == result.run_count
    assert result.noise["z"] == pytest.approx(NOISE, rel=0.6)
    assert result.noise["g"] == 0.0


def test_what_is_predicted_of_a_noisy_simulator_includes_its_noise() -> None:
    result = _studied(Simulator(7, NOISE), declared=True)
    assert result.forecast["z"][1] == pytest.approx(NOISE, rel=0.5)


def test_a_simulator_that_repeats_itself_is_verified_by_one_run() -> None:
    simulator = Simulator(7, 0.0)
    result = _studied(simulator, declared=False)
    assert result.best is not None
    assert (len(simulator.anew), result.run_count) == (1, 1)
    assert result.noise == {"z": 0.0, "g": 0.0}
    assert result.best.assessment == result.trials[result.best.number].assessment


def test_rounding_is_no_noise() -> None:
    assert not is_noisy(_studied(Simulator(7, 1e-9), declared=False).trials)


def test_a_best_point_whose_verifying_runs_fail_is_not_called_verified() -> None:
    simulator = Simulator(7, 0.0)
    simulator.broken = True
    result = _studied(simulator, declared=False)
    assert result.run_count == 0
    assert result.best is not None
    assert result.best.feasible


def test_noise_is_pooled_over_the_points_that_were_run_more_than_once() -> None:
    problem = Problem(
        space=SPACE, goals=check_goals(GOALS, responses=["z", "g"], parameters=["x", "y"])
    )

    def trial(x: float, z: float | None, cached: bool = False) -> Trial:
        responses = None if z is None else {"z": z, "g": x}
        return made_trial(problem, 0, "doe", {"x": x, "y": 0.0}, responses, cached=cached)

    once = [trial(0.1, 1.0), trial(0.2, 3.0), trial(0.2, None), trial(0.1, 9.0, cached=True)]
    assert noise_of(once) == {}
    repeated = [*once, trial(0.1, 3.0), trial(0.2, 5.0)]
    assert noise_of(repeated) == {"z": pytest.approx(2**0.5), "g": 0.0}
