"""From the messages that ask for designs to the domain; mistakes carry field paths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

from google.protobuf import json_format, struct_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.core.errors import FieldViolation, InvalidError, Violations
from vistaflow_services.decks.deck import Deck, FailurePolicy, Policy
from vistaflow_services.decks.expressions import Constraint, parse_constraint, suggest
from vistaflow_services.decks.space import Choice, Space
from vistaflow_services.designs.generators import check_feasible
from vistaflow_services.designs.recipe import Generator, Recipe, Region, default_generator
from vistaflow_services.designs.table import IMPORTED

GENERATORS = {
    pb.GENERATOR_FULL_FACTORIAL: Generator.FULL_FACTORIAL,
    pb.GENERATOR_LHS: Generator.LHS,
    pb.GENERATOR_LHS_ESE: Generator.LHS_ESE,
    pb.GENERATOR_SOBOL: Generator.SOBOL,
    pb.GENERATOR_HALTON: Generator.HALTON,
}

POLICIES = {
    pb.FAILURE_POLICY_ABORT: Policy.ABORT,
    pb.FAILURE_POLICY_RETRY: Policy.RETRY,
    pb.FAILURE_POLICY_SUBSTITUTE: Policy.SUBSTITUTE,
    pb.FAILURE_POLICY_CONTINUE: Policy.CONTINUE,
}

MAX_SOURCES = 20
"""Most kits, and most tables, whose points a design takes."""

MAX_JOBS = 100
"""Most jobs of one kit whose points a design takes."""

MAX_ROWS = 10_000
"""Most rows of a table of known points."""

MAX_ORIGIN = 200

MAX_CONSTRAINTS = 100
"""Most constraints that a design adds to its deck's."""


def check_spec(spec: pb.DoeSpec) -> None:
    """Raises `InvalidError` unless the spec says what to make or run."""
    violations = Violations()
    if spec.HasField("design") and spec.design_id:
        violations.add(
            "design_id", "give either a design to make or the id of one to run, not both"
        )
    elif not spec.HasField("design") and not spec.design_id:
        violations.add("design", "missing: say which design to make, or give the id of one to run")
    elif spec.HasField("design") and not spec.deck:
        violations.add("deck", "missing: give the deck's id, its name, or the job that collects it")
    elif spec.design_id and not spec.HasField("evaluation"):
        violations.add("evaluation", "missing: a design that is made already can only be run")
    if spec.HasField("reuse") and spec.design_id:
        violations.add("reuse", "goes with a design to make, not with one that is made already")
    violations.check()
    check_reuse(spec.reuse)


def check_reuse(reuse: pb.ReuseSpec) -> None:
    """Raises `InvalidError` for more known points than a request may name."""
    violations = Violations()
    for name in ("kits", "tables"):
        if len(getattr(reuse, name)) > MAX_SOURCES:
            violations.add(f"reuse.{name}", f"give at most {MAX_SOURCES}")
    for place, kit in enumerate(reuse.kits):
        if not 1 <= len(kit.job_ids) <= MAX_JOBS:
            violations.add(f"reuse.kits[{place}].job_ids", f"give 1 to {MAX_JOBS}")
    for place, table in enumerate(reuse.tables):
        if not table.origin.startswith(IMPORTED) or len(table.origin) > MAX_ORIGIN:
            violations.add(
                f"reuse.tables[{place}].origin",
                f"give at most {MAX_ORIGIN} characters that begin with `{IMPORTED}`",
            )
        if any(len(column.numbers or column.texts) > MAX_ROWS for column in table.columns):
            violations.add(f"reuse.tables[{place}]", f"give at most {MAX_ROWS:,} rows")
    violations.check()


def plan(spec: pb.DesignSpec, deck: Deck) -> tuple[Recipe, Region]:
    """What design to make over `deck`, checked as far as it can be without making it.

    Raises:
        InvalidError: With every mistake, under its path in the spec.
    """
    violations = Violations()
    recipe = region = None
    try:
        recipe = recipe_of(spec)
    except InvalidError as error:
        violations.extend("", error)
    try:
        region = region_of(spec, deck.space)
    except InvalidError as error:
        violations.extend("", error)
    if recipe is not None:
        try:
            recipe.check(region or Region(space=deck.space))
            if region is not None:
                check_feasible(recipe, region)
        except InvalidError as error:
            violations.extend("", error)
    violations.check()
    assert recipe is not None
    assert region is not None
    return recipe, region


def recipe_of(spec: pb.DesignSpec) -> Recipe:
    """The recipe; the generator that is not set is chosen by the size."""
    violations = Violations()
    generator = GENERATORS.get(spec.generator)
    if spec.generator == pb.GENERATOR_UNSPECIFIED:
        generator = default_generator(spec.size)
    if generator is None:
        violations.add(
            "generator", f"{spec.generator} is no generator; list them with ListGenerators"
        )
    violations.check()
    assert generator is not None
    return Recipe(
        generator=generator,
        size=spec.size,
        seed=spec.seed,
        levels=spec.levels,
        parameter_levels=dict(spec.parameter_levels),
        include_default=spec.include_default,
    )


def region_of(spec: pb.DesignSpec, space: Space) -> Region:
    """The part of the deck's space that the overrides and constraints leave."""
    violations = Violations()
    fixed: dict[str, Choice] = {}
    narrowed = space
    seen: set[str] = set()
    for index, override in enumerate(spec.parameters):
        path = f"parameters[{index}]"
        name = override.name
        if name not in space.names:
            violations.add(f"{path}.name", f"`{name}` is no parameter{suggest(name, space.names)}")
            continue
        if name in seen:
            violations.add(f"{path}.name", f"`{name}` is given twice: merge the two")
            continue
        seen.add(name)
        try:
            value = _held(override, space)
            if value is not None:
                fixed[name] = value
            else:
                narrowed = narrowed.narrow({name: _changes(override, space)})
        except InvalidError as error:
            under = Violations()
            under.extend("", error)
            for violation in under:
                violations.add(f"{path}{violation.field.removeprefix(name)}", violation.description)
    constraints = _constraints(spec, narrowed, violations)
    violations.check()
    return Region(space=replace(narrowed, constraints=constraints), fixed=fixed)


def policy_of(spec: pb.EvaluationSpec, deck: Deck) -> FailurePolicy:
    """The deck's failure policy with what the request changes.

    Raises:
        InvalidError: With every mistake, under its path in the spec.
    """
    word = ""
    if spec.failure_policy != pb.FAILURE_POLICY_UNSPECIFIED:
        word = str(POLICIES.get(spec.failure_policy, spec.failure_policy))
    fraction = spec.max_failed_fraction if spec.HasField("max_failed_fraction") else None
    return deck.failure_policy.changed(word, fraction, deck.response_names)


def _held(override: common_pb2.ParameterOverride, space: Space) -> Choice | None:
    """The value that the override holds its parameter at, if it does."""
    parameter = space[override.name]
    ranged = override.HasField("low") or override.HasField("high") or override.choices
    if override.HasField("fixed"):
        if ranged:
            _refuse("fixed", "give either a fixed value or a range or choices, not both")
        value = _value(override.fixed, "fixed")
        field = "fixed"
    elif len(override.choices) == 1:
        value, field = _value(override.choices[0], "choices[0]"), "choices"
    elif override.HasField("low") and override.HasField("high") and override.low == override.high:
        value, field = override.low, "low"
    else:
        return None
    canonical, problem = parameter.canonical(value)
    if problem:
        _refuse(field, problem)
    return canonical


def _changes(override: common_pb2.ParameterOverride, space: Space) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if override.HasField("low"):
        changes["low"] = override.low
    if override.HasField("high"):
        changes["high"] = override.high
    if override.choices:
        choices = [
            _value(choice, f"choices[{index}]") for index, choice in enumerate(override.choices)
        ]
        # Messages know no whole numbers: the deck's own form of a choice is what points hold.
        canonical = [space[override.name].canonical(choice)[0] for choice in choices]
        changes["choices"] = choices if None in canonical else canonical
    return changes


def _value(value: struct_pb2.Value, field: str) -> Any:
    """What a message holds, if JSON has it."""
    try:
        return json_format.MessageToDict(value)
    except ValueError:
        _refuse(field, "is NaN or an infinity; give a number or a text")


def _constraints(
    spec: pb.DesignSpec, space: Space, violations: Violations
) -> tuple[Constraint, ...]:
    """The spec's constraints, then the deck's: so an index is the same in both."""
    if len(spec.constraints) > MAX_CONSTRAINTS:
        violations.add(
            "constraints", f"{len(spec.constraints)} given; at most {MAX_CONSTRAINTS} may be"
        )
        return space.constraints
    parsed = []
    for index, text in enumerate(spec.constraints):
        try:
            parsed.append(parse_constraint(text, space.numeric_names))
        except InvalidError as error:
            violations.add(f"constraints[{index}]", error.message)
    return (*parsed, *space.constraints)


def _refuse(field: str, description: str) -> NoReturn:
    raise InvalidError(
        f"{field}: {description}",
        violations=[FieldViolation(field=f".{field}", description=description)],
    )
