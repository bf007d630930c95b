"""The loop of a study: ask, simulate, tell, until the budget or the tolerance; then verify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.space import Point
from vistaflow_services.optimize.domain import (
    Problem,
    StudyPlan,
    Trial,
    best_trial,
    made_trial,
    miss_scale,
)
from vistaflow_services.optimize.replicates import (
    REPEATS,
    ROUNDS,
    is_noisy,
    mean_responses,
    noise_of,
)
from vistaflow_services.search.bayes import BayesianSearch
from vistaflow_services.search.cube import SearchCube, point_key
from vistaflow_services.search.forecast import Forecast, Forecaster
from vistaflow_services.search.observation import Observation
from vistaflow_services.simulators.outcome import Outcome

PATIENCE = 3
"""Rounds in a row that must promise too little before the tolerance ends a study."""


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study found."""

    trials: tuple[Trial, ...]
    """All points: the design's, then what was proposed, then the verification."""

    best: Trial | None
    """The verified best point; None when no run succeeded."""

    design_best: Trial | None
    """The best point of the design it started from; feasible if any of it was."""

    forecast: Forecast
    """What a surrogate that never saw the best point says of it."""

    noise: Mapping[str, float]
    """Standard deviation of one run around the mean of its point, by response; empty where no point
    was run twice."""

    run_count: int
    """Verifying runs that the best point's responses are the mean of; 0 if all of them failed."""

    stop_reason: str
    """`budget`, `tolerance` or `exhausted` (every point of the space was tried)."""


@dataclass
class Study:
    """One optimisation, from a design's points to a verified best."""

    problem: Problem
    """What is wanted."""

    plan: StudyPlan
    """How much may be spent."""

    budget: int
    """Simulator runs beside the design's."""

    batch_size: int
    """Points proposed at a time."""

    evaluate: Callable[[Sequence[Point]], Sequence[Outcome]]
    """Runs points through the simulator; the same point is never run twice."""

    on_round: Callable[[int, str], None] = lambda completed, message: None
    """Told, after each batch, the runs spent and a line for people."""

    suggestions: Sequence[Point] = ()
    """Points to try before the search proposes its own."""

    trials: list[Trial] = field(default_factory=list)
    """All points so far, in order; at first the design's."""

    responses: Sequence[str] = ()
    """The names of what the simulator returns."""

    limits: Mapping[str, float] = field(default_factory=dict)
    """By response the magnitude beyond which a run counts as failed."""

    noisy: bool = False
    """Whether two runs of one point may differ."""

    evaluate_anew: Callable[[Sequence[Point]], Sequence[Outcome]] | None = None
    """Runs points whether or not they were run before; None: the simulator repeats itself."""

    def __post_init__(self) -> None:
        self._cube = SearchCube(
            self.problem.space, self.problem.parameter_constraints, self.problem.fixed
        )
        self._search = BayesianSearch(
            cube=self._cube,
            constraint_count=len(self.problem.simulated),
            seed=self.plan.seed,
            noisy=self.noisy or is_noisy(self.trials),
        )
        self._forecaster = Forecaster(self._cube, self.responses, self.plan.seed)
        self._promises: list[float] = []

    def run(self) -> StudyResult:
        """Spends the budget, verifies the best and says what came of it.

        Raises:
            InvalidError: If no point of the space meets the constraints over parameters.
        """
        self._search.tell([self._observed(trial) for trial in self.trials])
        design = tuple(self.trials)
        waiting = [suggestion for suggestion in self.suggestions if self._is_new(suggestion)]
        spent, reason = 0, "budget"
        while spent < self.budget:
            room = min(self.batch_size, self.budget - spent)
            points = waiting[:room]
            waiting = waiting[room:]
            if len(points) < room:
                remaining = self.budget - spent
                keys = {point_key(point) for point in points}
                proposals = self._search.ask(room - len(points), remaining=remaining)
                points += [proposal for proposal in proposals if point_key(proposal) not in keys]
            if not points:
                self._refuse_the_impossible()
                reason = "exhausted"
                break
            spent += len(points)
            self._take_in(points)
            self.on_round(spent, self.message())
            if self._promises_too_little():
                reason = "tolerance"
                break
        best, run_count = self._verify()
        return StudyResult(
            trials=tuple(self.trials),
            best=best,
            noise=noise_of(self.trials),
            run_count=run_count,
            design_best=best_trial(design, self.problem.objective.sign),
            forecast=self._forecast_without(best) if best else {},
            stop_reason=reason,
        )

    @property
    def best(self) -> Trial | None:
        """The best trial so far."""
        return best_trial(self.trials, self.problem.objective.sign)

    def message(self) -> str:
        """The best so far, for people."""
        best = self.best
        if best is None or best.assessment is None:
            return "no run has succeeded yet"
        value = f"{self.problem.objective.expression} = {best.assessment.objective:.6g}"
        if best.feasible:
            return f"best {value}"
        constraints = best.assessment.constraints
        if all(constraint.met for constraint in constraints):
            return f"nothing feasible yet; nearest has {value}"
        worst = miss_scale(self.trials).worst(best.assessment.excesses)
        miss = self.problem.describe_miss(worst, constraints[worst].miss)
        return f"nothing feasible yet; nearest misses {constraints[worst].text} by {miss}"

    def _is_new(self, point: Point) -> bool:
        seen = {point_key(dict(trial.point)) for trial in self.trials}
        return point_key(point) not in seen and bool(self._cube.allows([point])[0])

    def _simulated_points(
        self, without: Point | None = None
    ) -> list[tuple[Point, dict[str, float]]]:
        key = None if without is None else point_key(without)
        return [
            (dict(trial.point), dict(trial.responses))
            for trial in self.trials
            if trial.responses and point_key(dict(trial.point)) != key
        ]

    def _take_in(self, points: Sequence[Point]) -> None:
        forecasts = self._forecaster.forecast(self._simulated_points(), points)
        outcomes = self.evaluate(points)
        for outcome, forecast in zip(outcomes, forecasts, strict=True):
            self.trials.append(self._trial("infill", outcome, forecast))
        self._search.tell([self._observed(trial) for trial in self.trials[-len(points) :]])

    def _trial(self, origin: str, outcome: Outcome, forecast: Forecast) -> Trial:
        trial = made_trial(
            self.problem,
            len(self.trials),
            origin,
            outcome.point,
            dict(outcome.responses) if outcome.ok and not outcome.substituted else None,
            failure=None if outcome.failure is None else str(outcome.failure),
            predicted=forecast,
            cached=outcome.cached,
            seconds=outcome.seconds,
            limits=self.limits,
        )
        return replace(trial, message=outcome.message, log=outcome.log) if trial.failure else trial

    def _observed(self, trial: Trial) -> Observation:
        return self.problem.observe(dict(trial.point), trial.responses)

    def _promises_too_little(self) -> bool:
        best, gain = self.best, self._search.expected_gain
        if not self.plan.tolerance or best is None or best.assessment is None or gain is None:
            return False
        self._promises.append(gain)
        enough = self.plan.tolerance * abs(best.assessment.objective)
        recent = self._promises[-PATIENCE:]
        return best.feasible and len(recent) == PATIENCE and max(recent) < enough

    def _refuse_the_impossible(self) -> None:
        if self.trials and any(trial.feasible for trial in self.trials):
            return
        allowed = self._cube.allows([dict(trial.point) for trial in self.trials])
        if self._cube.constraints and not allowed.any():
            constraints = ", ".join(f"`{constraint}`" for constraint in self._cube.constraints)
            raise InvalidError(f"no point of the space was found that meets {constraints}")

    def _verify(self) -> tuple[Trial | None, int]:
        """The verified best point, and how many runs verified it.

        It is run once more; if that run tells that the simulator is noisy, or its deck says so,
        the point of the best expected worth is run several times, and its responses are the means
        of these runs. That may show that it is worse than it seemed: then the next is verified,
        too.
        """
        best = self.best
        if best is None:
            return None, 0
        if not self._search.noisy:
            again = self.evaluate_anew or self.evaluate
            (verified,) = self._take_verifying([dict(best.point)], again)
            if verified.usable and not is_noisy(self.trials):
                return verified, 1
            self._search.noisy = True
        verified_points: list[Point] = []
        for _ in range(ROUNDS):
            expected = self._search.expected_best
            if expected is None or expected.point in verified_points:
                break
            verified_points.append(expected.point)
            self._take_verifying([expected.point] * REPEATS, self.evaluate_anew or self.evaluate)
        means = [self._mean_trial(point) for point in verified_points]
        chosen = best_trial(means, self.problem.objective.sign)
        if chosen is None:
            return best, 0
        return chosen, len(self._verifying(dict(chosen.point)))

    def _take_verifying(
        self, points: Sequence[Point], run: Callable[[Sequence[Point]], Sequence[Outcome]]
    ) -> list[Trial]:
        """Runs points to verify them, and adds the results."""
        expected = {point_key(dict(trial.point)): dict(trial.predicted) for trial in self.trials}
        taken = []
        for point, outcome in zip(points, run(points), strict=True):
            taken.append(self._trial("verify", outcome, expected.get(point_key(point), {})))
            self.trials.append(taken[-1])
        self._search.tell([self._observed(trial) for trial in taken])
        return taken

    def _verifying(self, point: Point) -> list[Trial]:
        return [
            trial
            for trial in self.trials
            if trial.origin == "verify" and trial.responses and trial.point == point
        ]

    def _mean_trial(self, point: Point) -> Trial:
        """The verifying runs of a point as one trial, with the means of their responses."""
        runs = self._verifying(point)
        last = [
            trial for trial in self.trials if trial.origin == "verify" and trial.point == point
        ][-1]
        return made_trial(
            self.problem,
            last.number,
            "verify",
            point,
            mean_responses(runs) or None,
            failure=None if runs else last.failure,
            predicted=last.predicted,
        )

    def _forecast_without(self, best: Trial) -> Forecast:
        forecaster = Forecaster(self._cube, self.responses, self.plan.seed)
        return forecaster.forecast(
            self._simulated_points(without=dict(best.point)), [dict(best.point)]
        )[0]
