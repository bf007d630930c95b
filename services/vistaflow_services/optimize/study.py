"""The loop of a study: ask, simulate, tell, until the budget or the tolerance; then verify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.space import Point
from vistaflow_services.optimize.bayes import BayesianSearch
from vistaflow_services.optimize.cube import SearchCube, point_key
from vistaflow_services.optimize.domain import (
    Problem,
    StudyPlan,
    Trial,
    best_trial,
    made_trial,
    miss_scale,
)
from vistaflow_services.optimize.forecast import Forecast, Forecaster
from vistaflow_services.optimize.observation import Observation
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

    def __post_init__(self) -> None:
        self._cube = SearchCube(self.problem.space, self.problem.known, self.problem.fixed)
        self._search = BayesianSearch(
            cube=self._cube,
            constraint_count=len(self.problem.simulated),
            seed=self.plan.seed,
        )
        self._forecaster = Forecaster(self._cube, self.responses, self.plan.seed)
        self._promises: list[float] = []

    def run(self) -> StudyResult:
        """Spends the budget, verifies the best and says what came of it.

        Raises:
            InvalidError: If no point of the space meets the constraints over parameters.
        """
        self._search.tell([self._observed(each) for each in self.trials])
        design = tuple(self.trials)
        waiting = [each for each in self.suggestions if self._is_new(each)]
        spent, reason = 0, "budget"
        while spent < self.budget:
            room = min(self.batch_size, self.budget - spent)
            points = waiting[:room]
            waiting = waiting[room:]
            if len(points) < room:
                remaining = self.budget - spent
                known = {point_key(each) for each in points}
                asked = self._search.ask(room - len(points), remaining=remaining)
                points += [each for each in asked if point_key(each) not in known]
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
        best = self._verify()
        return StudyResult(
            trials=tuple(self.trials),
            best=best,
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
        told = f"{self.problem.objective.expression} = {best.assessment.objective:.6g}"
        if best.feasible:
            return f"best {told}"
        constraints = best.assessment.constraints
        if all(each.met for each in constraints):
            return f"nothing feasible yet; nearest has {told}"
        worst = miss_scale(self.trials).worst(best.assessment.excesses)
        miss = self.problem.describe_miss(worst, constraints[worst].miss)
        return f"nothing feasible yet; nearest misses {constraints[worst].text} by {miss}"

    def _is_new(self, point: Point) -> bool:
        seen = {point_key(dict(each.point)) for each in self.trials}
        return point_key(point) not in seen and bool(self._cube.allows([point])[0])

    def _known(self, without: Point | None = None) -> list[tuple[Point, dict[str, float]]]:
        key = None if without is None else point_key(without)
        return [
            (dict(each.point), dict(each.responses))
            for each in self.trials
            if each.responses and point_key(dict(each.point)) != key
        ]

    def _take_in(self, points: Sequence[Point]) -> None:
        forecasts = self._forecaster.forecast(self._known(), points)
        outcomes = self.evaluate(points)
        for outcome, forecast in zip(outcomes, forecasts, strict=True):
            self.trials.append(self._trial("infill", outcome, forecast))
        self._search.tell([self._observed(each) for each in self.trials[-len(points) :]])

    def _trial(self, origin: str, outcome: Outcome, forecast: Forecast) -> Trial:
        return made_trial(
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
        if self.trials and any(each.feasible for each in self.trials):
            return
        allowed = self._cube.allows([dict(each.point) for each in self.trials])
        if self._cube.known and not allowed.any():
            told = ", ".join(f"`{each}`" for each in self._cube.known)
            raise InvalidError(f"no point of the space was found that meets {told}")

    def _verify(self) -> Trial | None:
        """Asks the simulator for the best point again; the point store answers if it knows it."""
        best = self.best
        if best is None:
            return None
        (outcome,) = self.evaluate([dict(best.point)])
        verified = self._trial("verify", outcome, dict(best.predicted))
        self.trials.append(verified)
        return verified

    def _forecast_without(self, best: Trial) -> Forecast:
        forecaster = Forecaster(self._cube, self.responses, self.plan.seed)
        return forecaster.forecast(self._known(without=dict(best.point)), [dict(best.point)])[0]
