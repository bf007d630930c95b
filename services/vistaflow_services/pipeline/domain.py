"""What a kit is, and every mistake it can have.

Knows nothing of gRPC. The stage services check their requests again; what is wrong is reported here
before anything runs. Limits are those of the libraries that the services use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from vistaflow_services.core.errors import FieldViolation, InvalidError, ServiceError, Violations
from vistaflow_services.core.names import (
    MAX_ATTEMPTS,
    MAX_PROJECT,
    kit_name_problems,
    label_problems,
    name_problems,
)
from vistaflow_services.decks.cells import cell_count
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.definition import NO_RESPONSE
from vistaflow_services.decks.expressions import Constraint, Goals, parse_constraint, parse_goals
from vistaflow_services.decks.expressions import suggest as nearest
from vistaflow_services.decks.space import Choice, Space
from vistaflow_services.designs.recipe import (
    DEFAULT_LEVELS,
    Generator,
    Recipe,
    Region,
    factorial_size,
)
from vistaflow_services.search.limits import MAX_BATCH, MAX_BUDGET
from vistaflow_services.surrogates.limits import (
    MAX_FOLDS,
    MAX_TEST_FRACTION,
    MIN_FOLDS,
    MIN_TRAINING_ROWS,
)

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

NOISY_VERIFYING_RUNS: Final = 10
"""Most runs that verify the best point of a noisy simulator."""

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
    levels: int = DEFAULT_LEVELS
    parameter_levels: Mapping[str, int] = field(default_factory=dict)
    include_default: bool = False
    known_count: int = 0
    """Known points that the design takes as rows and whose runs did not fail."""
    known_only: bool = False
    """Whether it makes no others."""
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
        violations = Violations()
        for mistake in self.mistakes:
            violations.add(mistake.field, mistake.description)
        violations.check()


def examine(plan: KitPlan) -> Findings:
    """Every mistake of a kit at once, and what looks unintended."""
    mistakes, warnings = Violations(), Violations()
    _check_names(plan, mistakes)
    space = _space(plan, mistakes)
    # None where there are real parameters, or too many points to count.
    cells = cell_count(space, plan.fixed) if space is not None else None
    points = 0
    if plan.reaches("DOE"):
        if not plan.known_only:
            points = _check_design(plan, space, mistakes)
        elif not plan.known_count:
            mistakes.add("reuse", "no known point inside the space has responses: widen the ranges")
        if cells:
            _check_cells(plan, cells, points, warnings)
            points = min(points, cells)  # each point is run once
        _check_evaluation(plan, mistakes)
        if space is not None:
            _check_feasible(space, plan.fixed, mistakes, warnings)
    rows = points + plan.known_count
    if plan.reaches("ML_PREPROCESS"):
        _check_ml(plan, space, rows, cells, mistakes, warnings)
    for warning in plan.deck.warnings:
        warnings.add("deck", warning)
    goals = _goals(plan, space, mistakes)
    if plan.reaches("OPTIMIZE"):
        _check_optimize(plan, goals, mistakes, warnings)
    # A study runs no point again, so that it may end before its budget; its best is verified.
    verifying = NOISY_VERIFYING_RUNS if plan.deck.noisy else 1
    budget = plan.budget if not cells else max(0, min(plan.budget, cells - rows))
    runs = points + (budget + verifying if plan.reaches("OPTIMIZE") else 0)
    return Findings(mistakes=tuple(mistakes), warnings=tuple(warnings), simulation_count=runs)


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
    read = tuple(
        response_name for response_name in plan.deck.response_names if response_name in names
    )
    return read or tuple(plan.deck.response_names)


def _check_names(plan: KitPlan, violations: Violations) -> None:
    for problem in kit_name_problems(plan.name):
        violations.add("name", problem)
    for problem in name_problems(plan.project, MAX_PROJECT):
        violations.add("project", problem)
    for key, problem in label_problems(plan.labels):
        violations.add(f"labels.{key}" if key else "labels", problem)
    if plan.stop_after not in STAGES:
        violations.add("stop_after", f"`{plan.stop_after}` is no stage of a kit")
    if not 1 <= plan.max_attempts <= MAX_ATTEMPTS:
        violations.add("max_attempts", f"{plan.max_attempts} is not from 1 to {MAX_ATTEMPTS}")
    if plan.seed < 0:
        violations.add("seed", f"{plan.seed} is negative; give 0 or more")


def _space(plan: KitPlan, violations: Violations) -> Space | None:
    """The deck's space as the kit narrows it, or none if that fails."""
    before = len(violations)
    space: Space | None = None
    parameters = plan.deck.space.names
    for name, value in plan.fixed.items():
        if name not in parameters:
            violations.add(
                f"design.parameters.{name}", f"unknown parameter{nearest(name, parameters)}"
            )
        elif problem := plan.deck.space[name].canonical(value)[1]:
            violations.add(f"design.parameters.{name}.fixed", problem)
    if len(plan.fixed) >= plan.deck.space.dimension:
        violations.add("design.parameters", "every parameter is fixed; let at least one vary")
    try:
        space = plan.deck.space.narrow(plan.ranges)
    except ServiceError as error:
        violations.extend("design.parameters", error)
    constraints: list[Constraint] = []
    for index, text in enumerate(plan.constraints):
        try:
            constraints.append(parse_constraint(text, plan.deck.space.numeric_names))
        except ServiceError as error:
            violations.extend(f"design.constraints[{index}]", error)
    if space is None or len(violations) > before:
        return None
    return Space(parameters=space.parameters, constraints=(*space.constraints, *constraints))


def _check_design(plan: KitPlan, space: Space | None, violations: Violations) -> int:
    """The number of points the design will have; 0 if it cannot be made."""
    is_factorial = plan.generator == Generator.FULL_FACTORIAL
    if is_factorial and plan.size:
        violations.add("design.size", "a factorial's size follows from its levels; leave it out")
    recipe = Recipe(
        generator=Generator(plan.generator),
        size=0 if is_factorial else plan.size,
        # The default is for a factorial; a generator that takes a size refuses levels.
        levels=plan.levels if is_factorial or plan.levels != DEFAULT_LEVELS else 0,
        parameter_levels=plan.parameter_levels,
        include_default=plan.include_default,
    )
    try:
        # Of a space that is wrong itself, the deck's own shows the mistakes of the rest.
        region = (
            Region(space=plan.deck.space)
            if space is None
            else Region(space=space, fixed=plan.fixed)
        )
        recipe.check(region)
    except InvalidError as error:
        for mistake in error.violations:
            # `parameter_levels[x]` of a message is `parameter_levels.x` of kit.yaml.
            field_name = mistake.field.replace("[", ".").removesuffix("]")
            violations.add(f"design.{field_name}", mistake.description)
        return 0
    size = factorial_size(recipe, region) if is_factorial else recipe.size
    return size + int(plan.include_default)


def _check_evaluation(plan: KitPlan, violations: Violations) -> None:
    try:
        plan.deck.failure_policy.changed(
            plan.failure_policy, plan.max_failed_fraction, plan.deck.response_names
        )
    except ServiceError as error:
        violations.extend("evaluation", error)


def _check_feasible(
    space: Space, fixed: Mapping[str, Choice], violations: Violations, warnings: Violations
) -> None:
    """Whether the constraints leave anything of the space."""
    if not space.constraints:
        return
    columns = space.decode_columns(np.random.default_rng(0).random((_SAMPLE, space.dimension)))
    for name, value in fixed.items():
        columns[name] = np.full(_SAMPLE, value)
    share = float(space.feasible_columns(columns).mean())
    texts = ", ".join(f"`{constraint}`" for constraint in space.constraints)
    if share == 0:
        violations.add(
            "design.constraints",
            f"none of {_SAMPLE} points of the space meets {texts}: they contradict each other or "
            "the ranges; widen a range or drop one",
        )
    elif share < _SELDOM:
        warnings.add("design.constraints", f"only {share:.1%} of the space meets {texts}")


def _check_cells(plan: KitPlan, cells: int, rows: int, warnings: Violations) -> None:
    """Whether a design has more rows than its space has points."""
    if rows <= cells:
        return
    warnings.add(
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
    violations: Violations,
    warnings: Violations,
) -> None:
    """What is wrong with the models: their responses and settings, too few points to learn from.

    Args:
        plan: The kit.
        space: Where the design lies; None if that is wrong.
        points: Of the design; 0 if it cannot be made.
        cells: Points that the space has; None if they cannot be counted.
        violations: Where mistakes are added.
        warnings: Where what is unusual is added.
    """
    _check_responses(plan, violations)
    if not 0 <= plan.test_fraction <= MAX_TEST_FRACTION:
        violations.add(
            "ml.test_fraction", f"{plan.test_fraction} is not from 0 to {MAX_TEST_FRACTION}"
        )
    elif not MIN_FOLDS <= plan.folds <= MAX_FOLDS:
        violations.add("ml.folds", f"{plan.folds} is not from {MIN_FOLDS} to {MAX_FOLDS}")
    elif points and points != cells:  # a model of every point predicts nothing and may be poor
        _check_training_rows(plan, space or plan.deck.space, points, cells, violations, warnings)


def _check_responses(plan: KitPlan, violations: Violations) -> None:
    """Whether the deck has the responses to model."""
    response_names = plan.deck.response_names
    for field_name, requested in (
        ("responses", plan.responses),
        ("log_responses", plan.log_responses),
    ):
        if field_name == "log_responses" and tuple(requested) == (NO_RESPONSE,):
            continue
        for index, name in enumerate(requested):
            if name not in response_names:
                violations.add(
                    f"ml.{field_name}[{index}]", f"unknown response{nearest(name, response_names)}"
                )


def _check_training_rows(
    plan: KitPlan,
    space: Space,
    points: int,
    cells: int | None,
    violations: Violations,
    warnings: Violations,
) -> None:
    """Whether the design leaves enough rows to train on.

    A model needs two rows a fold, more rows than it has coefficients of a plane, and five at least.
    """
    varied = space.dimension - len(plan.fixed)
    needed = max(2 * plan.folds, varied + 2, 5)
    if plan.known_only:
        # What runs is known: so are the rows that will be usable.
        needed = max(needed, varied + 3, MIN_TRAINING_ROWS)
    training = points - math.ceil(points * plan.test_fraction)
    # The smallest design that is large enough, one row more for rounding.
    size = math.ceil(needed / (1 - plan.test_fraction)) + 1
    field_name = "design.size" if plan.generator != Generator.FULL_FACTORIAL else "design.levels"
    if plan.known_only:
        field_name = "reuse"
    if training < needed and cells and size > cells and not plan.known_only:
        violations.add(
            field_name,
            f"{points} of the {cells} points of the space leave {training} to train on, too few "
            f"for a model: run all of them, with {_every_point(cells)}",
        )
    elif training < needed:
        violations.add(
            field_name,
            f"{points} points leave {training} to train on; {varied} parameters and {plan.folds} "
            f"folds need {needed}: "
            + (
                f"widen the ranges, so that {size} known points are inside"
                if plan.known_only
                else f"make at least {size}"
            ),
        )
    elif points < 5 * varied:
        warnings.add(
            "design.size", f"{points} points are few for {varied} parameters; 10 each is usual"
        )


def _goals(plan: KitPlan, space: Space | None, violations: Violations) -> Goals | None:
    if not plan.goals.strip():
        if plan.reaches("OPTIMIZE"):
            violations.add(
                "goals",
                "say what is wanted, such as `maximize ion`, or stop_after an earlier stage",
            )
        return None
    free = (space or plan.deck.space).numeric_names
    try:
        goals = parse_goals(plan.goals, responses=plan.deck.response_names, parameters=free)
    except ServiceError as error:
        violations.extend("goals", error)
        return None
    if len(goals.objectives) > 1:
        texts = ", ".join(f"`{objective}`" for objective in goals.objectives)
        violations.add("goals", f"{texts}: one objective may be; make the others constraints")
    for constraint in goals.constraints:
        if problem := _unphysical(constraint, plan.deck):
            violations.add("goals", problem)
    return goals


def _unphysical(constraint: Constraint, deck: Deck) -> str:
    """Why no run can ever meet a bound on a single response, or nothing."""
    response = next(
        (response for response in deck.responses if str(constraint.left) == response.name), None
    )
    if response is None or constraint.right.names:
        return ""
    limit = float(constraint.right.evaluate({}))
    if constraint.op.startswith("<") and response.low is not None and limit < response.low:
        return f"`{constraint}` can never be met: {response.name} is never below {response.low}"
    if constraint.op.startswith(">") and response.high is not None and limit > response.high:
        return f"`{constraint}` can never be met: {response.name} is never above {response.high}"
    return ""


def _check_optimize(
    plan: KitPlan, goals: Goals | None, violations: Violations, warnings: Violations
) -> None:
    if not 1 <= plan.budget <= MAX_BUDGET:
        violations.add("optimize.budget", f"{plan.budget} is not from 1 to {MAX_BUDGET}")
    if not 0 <= plan.batch_size <= MAX_BATCH:
        violations.add("optimize.batch_size", f"{plan.batch_size} is not from 1 to {MAX_BATCH}")
    if not 0 <= plan.tolerance < 1:
        violations.add("optimize.tolerance", f"{plan.tolerance} is not from 0 to below 1")
    if goals is None:
        return
    missing = sorted((goals.names & set(plan.deck.response_names)) - set(modelled(plan)))
    if missing:
        warnings.add(
            "ml.responses",
            f"the goals read {', '.join(missing)}, which the kit does not model: the optimisation "
            "learns from its own runs only, and no model proposes its first point",
        )
    if not goals.names & set(plan.deck.response_names):
        violations.add("goals", "no response is in the goals: nothing to simulate for")
