"""What an optimisation is after, and what a point is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vistaflow_services.core.errors import FieldViolation, InvalidError, Violations
from vistaflow_services.decks.expressions import Constraint, Goals, Objective, parse_goals
from vistaflow_services.decks.space import Point, Scale, Space
from vistaflow_services.search.limits import MAX_BATCH, MAX_BUDGET
from vistaflow_services.search.misses import MissScale, constraint_unit
from vistaflow_services.search.observation import Observation
from vistaflow_services.surrogates.extremes import huge_note, huge_values

DEFAULT_BATCH = 4
"""Points proposed at a time on a machine of as many cores or more, by default."""

RUNS_PER_PARAMETER = 5
"""Simulator runs that a study spends for each parameter, by default."""

TOO_LARGE = "TOO_LARGE"
"""The failure of a run that returned a number too large to be a response."""

MAX_TUNING_TRIALS = 10_000
MAX_FOLDS = 20

EXAMPLE = "maximize ion; ioff <= 1e-9"


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """How a study is to be run; valid once made.

    Raises:
        InvalidError: From the constructor, one violation for each field that is wrong.
    """

    goals: str
    """Objective and constraints as written."""

    budget: int = 0
    """Simulator runs it may spend beside the design's; 0 for 5 a parameter."""

    batch_size: int = 0
    """Points proposed at a time; 0 for one a core, at most 4."""

    tolerance: float = 0.0
    """Relative improvement below which it stops early; 0 spends the budget."""

    seed: int = 0
    """Fixes every random choice."""

    def __post_init__(self) -> None:
        violations = Violations()
        if not self.goals.strip():
            violations.add(
                "goals", f"missing; write an objective and constraints such as `{EXAMPLE}`"
            )
        if not 0 <= self.budget <= MAX_BUDGET:
            violations.add(
                "budget",
                f"{self.budget} simulator runs; give 1 to {MAX_BUDGET}, "
                f"or leave it unset for {RUNS_PER_PARAMETER} a parameter",
            )
        if not 0 <= self.batch_size <= MAX_BATCH:
            violations.add(
                "batch_size",
                f"{self.batch_size} points at a time; give 1 to {MAX_BATCH}, or leave it unset",
            )
        if not (math.isfinite(self.tolerance) and 0.0 <= self.tolerance < 1.0):
            violations.add(
                "tolerance", f"{self.tolerance} is no share from 0 to below 1, such as 0.001"
            )
        if self.seed < 0:
            violations.add("seed", f"{self.seed} is negative; give 0 or more")
        violations.check()


@dataclass(frozen=True, kw_only=True)
class TuningPlan:
    """How hyper-parameters are to be tuned; valid once made.

    Raises:
        InvalidError: From the constructor, one violation for each field that is wrong.
    """

    family: str
    """The family of models, by its name."""

    response: str = ""
    """The response to tune for; empty for all of them."""

    trial_count: int = 30
    """Trials, the default's included."""

    folds: int = 5
    """Folds of the cross-validation."""

    seed: int = 0
    """Fixes folds and proposals."""

    def __post_init__(self) -> None:
        violations = Violations()
        if not self.family:
            violations.add("family", "missing; name the family of models to tune")
        if not 1 <= self.trial_count <= MAX_TUNING_TRIALS:
            violations.add(
                "trial_count", f"{self.trial_count} trials; give 1 to {MAX_TUNING_TRIALS}"
            )
        if not 2 <= self.folds <= MAX_FOLDS:
            violations.add("folds", f"{self.folds} folds; give 2 to {MAX_FOLDS}")
        if self.seed < 0:
            violations.add("seed", f"{self.seed} is negative; give 0 or more")
        violations.check()


def check_goals(text: str, *, responses: Sequence[str], parameters: Sequence[str]) -> Goals:
    """The goals, with exactly one objective.

    Args:
        text: Such as `maximize ion; ioff <= 1e-9`.
        responses: What the simulator returns.
        parameters: The names of the numeric parameters.

    Raises:
        InvalidError: Each mistake under the field `goals`.
    """
    try:
        goals = parse_goals(text, responses=responses, parameters=parameters)
    except InvalidError as error:
        violations_of_goals = [
            FieldViolation(field="goals", description=violation.description)
            for violation in (
                error.violations or (FieldViolation(field="", description=error.message),)
            )
        ]
        raise InvalidError(f"goals: {error.message}", violations=violations_of_goals) from None
    violations = Violations()
    if len(goals.objectives) != 1:
        violations.add(
            "goals",
            f"{len(goals.objectives)} objectives; keep one and bound the others, as in `{EXAMPLE}`",
        )
    elif not goals.names & set(responses):
        violations.add("goals", "no response is named, so there is nothing to simulate; name one")
    violations.check()
    return goals


@dataclass(frozen=True, kw_only=True)
class ConstraintValue:
    """One constraint at one point."""

    text: str
    """As written."""

    value: float
    """Its left side."""

    limit: float
    """Its right side."""

    met: bool
    """Whether it holds."""

    excess: float
    """How far it is missed, in its own unit; 0 or less when met, infinite where undefined."""

    @property
    def miss(self) -> float:
        """How far it is missed; 0 when met."""
        return 0.0 if self.met else max(self.excess, 0.0)


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What a simulated point is worth."""

    objective: float
    """The objective as written; not a number where its formula is undefined."""

    constraints: tuple[ConstraintValue, ...]
    """Every constraint of the goals, in their order."""

    @property
    def feasible(self) -> bool:
        """Whether every constraint is met."""
        return all(constraint.met for constraint in self.constraints)

    @property
    def excesses(self) -> tuple[float, ...]:
        """How far each constraint is missed, in its own unit; see `ConstraintValue.excess`."""
        return tuple(constraint.excess for constraint in self.constraints)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Goals over a space."""

    space: Space
    """What may be varied."""

    goals: Goals
    """What is wanted; one objective."""

    fixed: Mapping[str, float | int | str] = field(default_factory=dict)
    """Parameters that are held, with their values."""

    units: Mapping[str, str] = field(default_factory=dict)
    """The units of the responses, by name."""

    @property
    def objective(self) -> Objective:
        """What is to be optimised."""
        return self.goals.objectives[0]

    @cached_property
    def parameter_constraints(self) -> tuple[Constraint, ...]:
        """Constraints that read parameters only: they hold or not before anything is run."""
        return tuple(
            constraint
            for constraint in self.goals.constraints
            if self._reads_parameters_only(constraint)
        )

    @cached_property
    def simulated(self) -> tuple[Constraint, ...]:
        """Constraints that read responses."""
        return tuple(
            constraint
            for constraint in self.goals.constraints
            if not self._reads_parameters_only(constraint)
        )

    def _reads_parameters_only(self, constraint: Constraint) -> bool:
        return constraint.names <= set(self.space.names)

    def unit_of(self, constraint: Constraint) -> str:
        """The unit in which a constraint is missed; empty where none follows from its formulas."""
        parameters = {parameter.name: parameter.unit for parameter in self.space.parameters}
        return constraint_unit(constraint, {**parameters, **self.units})

    def describe_miss(self, index: int, miss: float) -> str:
        """By how much the constraint of this index is missed, for people."""
        unit = self.unit_of(self.goals.constraints[index])
        return f"{miss:.4g} {unit}".rstrip() if math.isfinite(miss) else "an undefined amount"

    def assess(self, point: Mapping[str, Any], responses: Mapping[str, float]) -> Assessment:
        """What a point with these responses is worth."""
        values = {**point, **responses}
        return Assessment(
            objective=float(self.objective.expression.evaluate(values)),
            constraints=tuple(
                _constraint_value(constraint, values) for constraint in self.goals.constraints
            ),
        )

    def observe(self, point: Point, responses: Mapping[str, float] | None) -> Observation:
        """A run as the search takes it in; `responses` is None when it failed."""
        if responses is None:
            sides = tuple((math.nan, math.nan) for _ in self.simulated)
            return Observation(point=point, sides=sides)
        assessed = self.assess(point, responses)
        values = {**point, **responses}
        return Observation(
            point=point,
            objective=self.objective.sign * assessed.objective,
            sides=tuple(_turned(constraint, values) for constraint in self.simulated),
            feasible=assessed.feasible and bool(self.space.feasible([point])[0]),
            excesses=assessed.excesses,
        )


def _constraint_value(constraint: Constraint, values: Mapping[str, Any]) -> ConstraintValue:
    left = float(constraint.left.evaluate(values))
    right = float(constraint.right.evaluate(values))
    met = bool(constraint.met(values))
    excess = float(constraint.violation(values))
    return ConstraintValue(text=str(constraint), value=left, limit=right, met=met, excess=excess)


def _turned(constraint: Constraint, values: Mapping[str, Any]) -> tuple[float, float]:
    """The sides of a constraint, turned so that left <= right is met."""
    left = float(constraint.left.evaluate(values))
    right = float(constraint.right.evaluate(values))
    return (left, right) if constraint.op.startswith("<") else (right, left)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of a study and what became of it."""

    number: int
    """From 0, in the order in which they were evaluated."""

    origin: str
    """`doe`, `infill` or `verify`; `default` or `tuned` where hyper-parameters are tuned."""

    source: str = ""
    """Where the design took it from, such as `kit 31`; empty if it was run for the kit."""

    point: Mapping[str, float | int | str]
    """Values of the parameters."""

    responses: Mapping[str, float] | None = None
    """What the simulator returned; None when it failed."""

    assessment: Assessment | None = None
    """What that is worth; None when it failed."""

    feasible: bool = False
    """Whether every constraint, the space's included, is met."""

    failure: str | None = None
    """How the run failed, such as `TIMEOUT`."""

    message: str = ""
    """The reason of the failure."""

    log: str = ""
    """The end of what the failed run printed."""

    predicted: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Mean and deviation of each response as predicted before the run; empty when unknown."""

    cached: bool = False
    """Whether the point store had it."""

    seconds: float = 0.0
    """How long its run took."""

    huge: Mapping[str, float] = field(default_factory=dict)
    """Responses that are too large to be one, by name: such a run counts as failed."""

    @property
    def usable(self) -> bool:
        """Whether it has an objective and constraints that can be compared."""
        return self.assessment is not None and math.isfinite(self.assessment.objective)


def made_trial(
    problem: Problem,
    number: int,
    origin: str,
    point: Point,
    responses: dict[str, float] | None,
    *,
    failure: str | None = None,
    predicted: Mapping[str, tuple[float, float]] | None = None,
    cached: bool = False,
    seconds: float = 0.0,
    limits: Mapping[str, float] | None = None,
) -> Trial:
    """A trial with what its responses are worth.

    Args:
        problem: What is wanted.
        number: Its place among the trials.
        origin: Where its point came from.
        point: The canonical point.
        responses: What the simulator returned; None when the run failed.
        failure: How it failed.
        predicted: What was expected of it.
        cached: Whether the point store had it.
        seconds: How long its run took.
        limits: By response the magnitude beyond which a run has failed; see `huge_limit`.
    """
    huge = huge_values(responses or {}, limits or {})
    if huge:
        responses, failure = None, TOO_LARGE
    assessment = None if responses is None else problem.assess(point, responses)
    feasible = assessment is not None and assessment.feasible
    if feasible:
        feasible = bool(problem.space.feasible([point])[0])
    undefined = assessment is not None and not math.isfinite(assessment.objective)
    return Trial(
        number=number,
        origin=origin,
        point=point,
        responses=responses,
        assessment=assessment,
        feasible=feasible and not undefined,
        failure=failure,
        predicted=predicted or {},
        cached=cached,
        seconds=seconds,
        huge=huge,
    )


def constants_of(trials: Sequence[Trial]) -> dict[str, float]:
    """The responses that are the same in all trials that ran, with that value."""
    ran = [trial.responses for trial in trials if trial.responses]
    names = ran[0] if ran else ()
    return {
        name: ran[0][name] for name in names if len({responses[name] for responses in ran}) == 1
    }


def notes_on(trials: Sequence[Trial], problem: Problem) -> list[str]:
    """What a reader of a study's result should know of its responses, a sentence each.

    Values that are too large to be one, named with their trials, and an objective that never
    varies.
    """
    notes = []
    for name in sorted({name for trial in trials for name in trial.huge}):
        huge = [(trial.number, trial.huge[name]) for trial in trials if name in trial.huge]
        usual = [trial.responses[name] for trial in trials if trial.responses]
        notes.append(huge_note(name, huge, usual, "trial"))
    worth = {trial.assessment.objective for trial in trials if trial.usable and trial.assessment}
    if len(worth) == 1 and sum(trial.usable for trial in trials) > 1:
        notes.append(
            f"`{problem.objective}` is {worth.pop():g} at every point that ran: the points cannot "
            "be ranked"
        )
    return notes


def miss_scale(trials: Sequence[Trial]) -> MissScale:
    """What a miss of each constraint is measured in, from all usable trials."""
    return MissScale.over([trial.assessment.excesses for trial in trials if trial.assessment])


def best_trial(trials: Sequence[Trial], sign: float) -> Trial | None:
    """The best feasible trial, else the usable one that misses least; of equals the earliest.

    Misses are scaled by the spread of their constraint over the usable trials and added.

    Args:
        trials: In order.
        sign: +1 to minimise, -1 to maximise.
    """
    usable = [trial for trial in trials if trial.usable]
    scale = miss_scale(usable)

    def rank(trial: Trial) -> tuple[bool, tuple[int, float], float]:
        assert trial.assessment is not None
        missed = (0, 0.0) if trial.feasible else scale.total(trial.assessment.excesses)
        return not trial.feasible, missed, sign * trial.assessment.objective

    return min(usable, key=rank, default=None)


def blocking(trials: Sequence[Trial], problem: Problem) -> list[str]:
    """The constraints that keep every trial from being feasible, most often missed first.

    Args:
        trials: None of them feasible.
        problem: What they were tried for.
    """
    usable = [trial.assessment for trial in trials if trial.usable and trial.assessment]
    constraints = problem.goals.constraints
    columns = [
        [assessment.constraints[j] for assessment in usable] for j in range(len(constraints))
    ]
    counts = [sum(not value.met for value in column) for column in columns]
    descriptions = []
    for j in sorted(range(len(counts)), key=lambda j: -counts[j]):
        if counts[j]:
            least = min(column.miss for column in columns[j])
            always = f", by {problem.describe_miss(j, least)} or more" if least > 0 else ""
            missed = f"`{constraints[j]}` is missed by {counts[j]} of {len(usable)} points"
            descriptions.append(missed + always)
    return descriptions


NEAR_BOUND = 0.005
"""The part of a range, on the parameter's scale, within which a value is at its end."""


def at_bounds(problem: Problem, point: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameters of a point at an end of their range, beyond which a better one may be.

    Returns:
        For each `name`, `value`, `low`, `high` and `end`, which is `lower` or `upper`.
    """
    ends: list[dict[str, Any]] = []
    for parameter in problem.space.parameters:
        name, low, high = parameter.name, parameter.low, parameter.high
        if name in problem.fixed or low is None or high is None:
            continue
        scale = math.log if parameter.scale is Scale.LOG else float
        place = (scale(point[name]) - scale(low)) / (scale(high) - scale(low))
        if not NEAR_BOUND < place < 1 - NEAR_BOUND:
            end = "lower" if place <= NEAR_BOUND else "upper"
            values = {"value": float(point[name]), "low": float(low), "high": float(high)}
            ends.append({"name": name, **values, "end": end})
    return ends
