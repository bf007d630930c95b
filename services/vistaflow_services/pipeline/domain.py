"""What a kit is, and every mistake it can have.

Knows nothing of gRPC. The stage services check again what they are given; what is found here is
found before anything runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from vistaflow_services.core.errors import FieldViolation, InvalidError, ServiceError, Violations
from vistaflow_services.core.expressions import Constraint, Goals, parse_constraint, parse_goals
from vistaflow_services.core.expressions import suggest as nearest
from vistaflow_services.decks.cells import cell_count
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.definition import NO_RESPONSE
from vistaflow_services.decks.space import Choice, Kind, Parameter, Space

STAGES: Final = (
    "DECK_COLLECTION",
    "DOE",
    "ML_PREPROCESS",
    "ML_SCALE",
    "ML_TRAIN",
    "ML_TEST",
    "OPTIMIZE",
)
"""The jobs of a kit, in order."""

MAX_SIZE: Final = 1_000_000
"""Most points of a design."""

MAX_ESE_SIZE: Final = 2_000
"""Most points of an ESE-optimised design: it keeps every pair's distance."""

MAX_BUDGET: Final = 100_000
"""Most simulator runs of one optimisation."""

NOISY_VERIFYING_RUNS: Final = 10
"""Most runs that verify the best point of a noisy simulator."""

_PROJECT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_SAMPLE = 4096
_SELDOM = 0.01


@dataclass(frozen=True, kw_only=True)
class KitPlan:
    """A kit with its deck read and its defaults filled in."""

    name: str
    project: str
    labels: Mapping[str, str]
    deck: Deck
    ranges: Mapping[str, Any] = field(default_factory=dict)
    """Narrower ranges and choices by parameter, as `Space.narrow` takes them."""
    fixed: Mapping[str, Choice] = field(default_factory=dict)
    """Parameters that do not vary, and their values."""
    constraints: Sequence[str] = ()
    """Constraints between parameters beside the deck's."""
    generator: str = "lhs_ese"
    size: int = 0
    """Points of the design; 0 for a factorial."""
    levels: int = 3
    parameter_levels: Mapping[str, int] = field(default_factory=dict)
    include_default: bool = False
    failure_policy: str = ""
    """What failed runs do to the design; empty: as the deck says."""
    max_failed_fraction: float | None = None
    responses: Sequence[str] = ()
    log_responses: Sequence[str] = ()
    test_fraction: float = 0.2
    folds: int = 5
    goals: str = ""
    budget: int = 0
    batch_size: int = 0
    tolerance: float = 0.0
    stop_after: str = STAGES[-1]
    seed: int = 0
    max_attempts: int = 5

    def reaches(self, stage: str) -> bool:
        """Whether the kit runs `stage`."""
        return STAGES.index(stage) <= STAGES.index(self.stop_after)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a look at a kit found."""

    mistakes: tuple[FieldViolation, ...]
    warnings: tuple[FieldViolation, ...]
    simulation_count: int
    """Simulator runs the kit makes at most."""

    def check(self) -> None:
        """Raises `InvalidError` with every mistake, if there is any."""
        found = Violations()
        for each in self.mistakes:
            found.add(each.field, each.description)
        found.check()


def examine(plan: KitPlan) -> Findings:
    """Every mistake of a kit at once, and what looks unintended."""
    found, warned = Violations(), Violations()
    _check_names(plan, found)
    space = _space(plan, found)
    points = _check_design(plan, space, found) if plan.reaches("DOE") else 0
    cells = cell_count(space, plan.fixed) if space is not None else None
    if cells and plan.reaches("DOE"):
        _check_cells(plan, cells, points, warned)
        points = min(points, cells)
    if plan.reaches("DOE"):
        _check_evaluation(plan, found)
    if space is not None and plan.reaches("DOE"):
        _check_feasible(space, plan.fixed, found, warned)
    if plan.reaches("ML_PREPROCESS"):
        _check_ml(plan, space, points, cells, found, warned)
    for warning in plan.deck.warnings:
        warned.add("deck", warning)
    goals = _goals(plan, space, found)
    if plan.reaches("OPTIMIZE"):
        _check_optimize(plan, goals, found, warned)
    verifying = NOISY_VERIFYING_RUNS if plan.deck.noisy else 1
    budget = plan.budget if not cells else min(plan.budget, cells - points)
    runs = points + (budget + verifying if plan.reaches("OPTIMIZE") else 0)
    return Findings(mistakes=tuple(found), warnings=tuple(warned), simulation_count=runs)


def modelled(plan: KitPlan) -> tuple[str, ...]:
    """The responses to model: those asked for, else those the goals read, else all."""
    if plan.responses:
        return tuple(plan.responses)
    try:
        names = parse_goals(
            plan.goals,
            responses=plan.deck.response_names,
            parameters=plan.deck.space.numeric_names,
        ).names
    except InvalidError:
        return tuple(plan.deck.response_names)
    read = tuple(each for each in plan.deck.response_names if each in names)
    return read or tuple(plan.deck.response_names)


def _check_names(plan: KitPlan, found: Violations) -> None:
    if not 1 <= len(plan.name.strip()) <= 200 or not plan.name.isprintable():
        found.add("name", "give the kit a name of 1 to 200 printable characters")
    if not _PROJECT.fullmatch(plan.project):
        found.add(
            "project",
            "give 1 to 63 of a-z, 0-9, `_`, `.` and `-`, beginning with a letter or digit",
        )
    if len(plan.labels) > 64:
        found.add("labels", f"{len(plan.labels)} given; at most 64 may be")
    if plan.stop_after not in STAGES:
        found.add("stop_after", f"`{plan.stop_after}` is no stage of a kit")
    if not 1 <= plan.max_attempts <= 100:
        found.add("max_attempts", f"{plan.max_attempts} is not from 1 to 100")
    if plan.seed < 0:
        found.add("seed", f"{plan.seed} is negative; give 0 or more")


def _space(plan: KitPlan, found: Violations) -> Space | None:
    """The deck's space as the kit narrows it, or none if that fails."""
    before = len(found)
    space: Space | None = None
    known = plan.deck.space.names
    for name, value in plan.fixed.items():
        if name not in known:
            found.add(f"design.parameters.{name}", f"unknown parameter{nearest(name, known)}")
        elif problem := plan.deck.space[name].canonical(value)[1]:
            found.add(f"design.parameters.{name}.fixed", problem)
    if len(plan.fixed) >= plan.deck.space.dimension:
        found.add("design.parameters", "every parameter is fixed; let at least one vary")
    try:
        space = plan.deck.space.narrow(plan.ranges)
    except ServiceError as error:
        found.extend("design.parameters", error)
    constraints: list[Constraint] = []
    for at, text in enumerate(plan.constraints):
        try:
            constraints.append(parse_constraint(text, plan.deck.space.numeric_names))
        except ServiceError as error:
            found.extend(f"design.constraints[{at}]", error)
    if space is None or len(found) > before:
        return None
    return Space(parameters=space.parameters, constraints=(*space.constraints, *constraints))


def _check_design(plan: KitPlan, space: Space | None, found: Violations) -> int:
    """The number of points the design will have."""
    free = [each for each in (space or plan.deck.space).parameters if each.name not in plan.fixed]
    if plan.generator == "full_factorial":
        if plan.size:
            found.add("design.size", "a factorial's size follows from its levels; leave it out")
        return _factorial_size(plan, free, found)
    if plan.levels != 3 or plan.parameter_levels:
        found.add(
            "design.levels", f"levels are for full_factorial; `{plan.generator}` takes a size"
        )
    limit = MAX_ESE_SIZE if plan.generator == "lhs_ese" else MAX_SIZE
    if not 1 <= plan.size <= limit:
        hint = "; use `sobol` or `lhs` for more" if limit == MAX_ESE_SIZE and plan.size > 0 else ""
        found.add("design.size", f"{plan.size} is not from 1 to {limit}{hint}")
    return plan.size + int(plan.include_default)


def _factorial_size(plan: KitPlan, free: Sequence[Parameter], found: Violations) -> int:
    known = [each.name for each in free]
    for name, levels in plan.parameter_levels.items():
        if name not in known:
            found.add(f"design.parameter_levels.{name}", f"unknown parameter{nearest(name, known)}")
        elif levels < 2:
            found.add(f"design.parameter_levels.{name}", f"{levels} is less than 2")
    if plan.levels < 2:
        found.add("design.levels", f"{plan.levels} is less than 2")
    size = math.prod(_levels(each, plan) for each in free)
    if size > MAX_SIZE:
        found.add(
            "design.levels",
            f"the levels multiply to {size} points; at most {MAX_SIZE} may be: "
            "use fewer levels, fix parameters, or choose `lhs_ese` or `sobol`",
        )
    return size + int(plan.include_default)


def _levels(parameter: Parameter, plan: KitPlan) -> int:
    if parameter.choices:
        return len(parameter.choices)
    levels = max(2, plan.parameter_levels.get(parameter.name, plan.levels))
    if parameter.kind is Kind.INTEGER:
        return min(levels, int((parameter.high or 0) - (parameter.low or 0)) + 1)
    return levels


def _check_evaluation(plan: KitPlan, found: Violations) -> None:
    try:
        plan.deck.failure_policy.changed(
            plan.failure_policy, plan.max_failed_fraction, plan.deck.response_names
        )
    except ServiceError as error:
        found.extend("evaluation", error)


def _check_feasible(
    space: Space, fixed: Mapping[str, Choice], found: Violations, warned: Violations
) -> None:
    """Whether the constraints leave anything of the space."""
    if not space.constraints:
        return
    columns = space.decode_columns(np.random.default_rng(0).random((_SAMPLE, space.dimension)))
    for name, value in fixed.items():
        columns[name] = np.full(_SAMPLE, value)
    share = float(space.feasible_columns(columns).mean())
    texts = ", ".join(f"`{each}`" for each in space.constraints)
    if share == 0:
        found.add(
            "design.constraints",
            f"none of {_SAMPLE} points of the space meets {texts}: they contradict each other or "
            "the ranges; widen a range or drop one",
        )
    elif share < _SELDOM:
        warned.add("design.constraints", f"only {share:.1%} of the space meets {texts}")


def _check_cells(plan: KitPlan, cells: int, rows: int, warned: Violations) -> None:
    """Whether a design has more rows than its space has points."""
    if rows <= cells:
        return
    warned.add(
        "design.size" if plan.generator != "full_factorial" else "design.include_default",
        f"the space has {cells} points, so {rows} rows repeat them, and each point is run once; "
        f"use {_every_point(cells)} instead",
    )


def _every_point(cells: int) -> str:
    return (
        f"`size: {cells}`, or `generator: full_factorial` with as many levels as there are values"
    )


def _check_ml(
    plan: KitPlan,
    space: Space | None,
    points: int,
    cells: int | None,
    found: Violations,
    warned: Violations,
) -> None:
    known = plan.deck.response_names
    for field_name, names in (("responses", plan.responses), ("log_responses", plan.log_responses)):
        if field_name == "log_responses" and tuple(names) == (NO_RESPONSE,):
            continue
        for at, name in enumerate(names):
            if name not in known:
                found.add(f"ml.{field_name}[{at}]", f"unknown response{nearest(name, known)}")
    if not 0 <= plan.test_fraction <= 0.9:
        found.add("ml.test_fraction", f"{plan.test_fraction} is not from 0 to 0.9")
        return
    if not 2 <= plan.folds <= 20:
        found.add("ml.folds", f"{plan.folds} is not from 2 to 20")
        return
    varied = (space or plan.deck.space).dimension - len(plan.fixed)
    needed = max(2 * plan.folds, varied + 2, 5)
    training = points - math.ceil(points * plan.test_fraction)
    size = math.ceil(needed / (1 - plan.test_fraction)) + 1
    if cells and points == cells:
        return
    if cells and points > 0 and training < needed and size > cells:
        found.add(
            "design.size" if plan.generator != "full_factorial" else "design.levels",
            f"{points} of the {cells} points of the space leave {training} to train on, too few "
            f"for a model: run all of them, with {_every_point(cells)}",
        )
    elif points > 0 and training < needed:
        found.add(
            "design.size" if plan.generator != "full_factorial" else "design.levels",
            f"{points} points leave {training} to train on; {varied} parameters and {plan.folds} "
            f"folds need {needed}: make at least {size}",
        )
    elif 0 < points < 5 * varied:
        warned.add(
            "design.size", f"{points} points are few for {varied} parameters; 10 each is usual"
        )


def _goals(plan: KitPlan, space: Space | None, found: Violations) -> Goals | None:
    if not plan.goals.strip():
        if plan.reaches("OPTIMIZE"):
            found.add(
                "goals",
                "say what is wanted, such as `maximize ion`, or stop_after an earlier stage",
            )
        return None
    free = (space or plan.deck.space).numeric_names
    try:
        goals = parse_goals(plan.goals, responses=plan.deck.response_names, parameters=free)
    except ServiceError as error:
        found.extend("goals", error)
        return None
    if len(goals.objectives) > 1:
        texts = ", ".join(f"`{each}`" for each in goals.objectives)
        found.add("goals", f"{texts}: one objective may be; make the others constraints")
    for each in goals.constraints:
        if problem := _unphysical(each, plan.deck):
            found.add("goals", problem)
    return goals


def _unphysical(constraint: Constraint, deck: Deck) -> str:
    """Why no run can ever meet a bound on a single response, or nothing."""
    response = next((each for each in deck.responses if str(constraint.left) == each.name), None)
    if response is None or constraint.right.names:
        return ""
    limit = float(constraint.right.evaluate({}))
    if constraint.op.startswith("<") and response.low is not None and limit < response.low:
        return f"`{constraint}` can never be met: {response.name} is never below {response.low}"
    if constraint.op.startswith(">") and response.high is not None and limit > response.high:
        return f"`{constraint}` can never be met: {response.name} is never above {response.high}"
    return ""


def _check_optimize(
    plan: KitPlan, goals: Goals | None, found: Violations, warned: Violations
) -> None:
    if not 1 <= plan.budget <= MAX_BUDGET:
        found.add("optimize.budget", f"{plan.budget} is not from 1 to {MAX_BUDGET}")
    if not 0 <= plan.batch_size <= 64:
        found.add("optimize.batch_size", f"{plan.batch_size} is not from 1 to 64")
    if not 0 <= plan.tolerance < 1:
        found.add("optimize.tolerance", f"{plan.tolerance} is not from 0 to below 1")
    if goals is None:
        return
    missing = sorted((goals.names & set(plan.deck.response_names)) - set(modelled(plan)))
    if missing:
        warned.add(
            "ml.responses",
            f"the goals read {', '.join(missing)}, which the kit does not model: the optimisation "
            "learns from its own runs only, and no model proposes its first point",
        )
    if not goals.names & set(plan.deck.response_names):
        found.add("goals", "no response is in the goals: nothing to simulate for")
