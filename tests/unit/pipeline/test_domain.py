"""Every mistake of a kit, found before anything runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vistaflow_services.decks.deck import Deck, Response
from vistaflow_services.decks.space import Kind, Parameter, Space
from vistaflow_services.pipeline.domain import KitPlan, examine, modelled

DECK = Deck(
    name="beam",
    simulator="function",
    function="welded_beam",
    space=Space(
        parameters=(
            Parameter(name="h", low=0.1, high=2.0),
            Parameter(name="l", low=0.1, high=10.0),
            Parameter(name="n", kind=Kind.INTEGER, low=1, high=4),
            Parameter(name="steel", kind=Kind.CATEGORICAL, choices=("a36", "a572")),
        )
    ),
    responses=(Response(name="cost", low=0.0), Response(name="tau", low=0.0, high=1e5)),
)
PLAN = KitPlan(
    name="k",
    project="default",
    labels={},
    deck=DECK,
    size=40,
    goals="minimize cost; tau <= 13600",
    budget=20,
)


def test_a_sound_kit_has_no_mistakes_and_counts_its_runs() -> None:
    found = examine(PLAN)

    assert (found.mistakes, found.warnings, found.simulation_count) == ((), (), 61)


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"name": " "}, "name", "1 to 200"),
        ({"project": "My Project"}, "project", "a-z"),
        ({"ranges": {"hh": {"low": 1}}}, "design.parameters.hh", "did you mean `h`"),
        ({"ranges": {"h": {"low": 0.01}}}, "design.parameters.h.low", "narrow"),
        ({"ranges": {"h": {"low": 1.5, "high": 0.5}}}, "design.parameters.h", ""),
        ({"fixed": {"steel": "a99"}}, "design.parameters.steel", "a99"),
        ({"fixed": {"x": 1}}, "design.parameters.x", "unknown parameter"),
        ({"constraints": ["h + q <= 1"]}, "design.constraints[0]", "q"),
        ({"constraints": ["h >= 1", "h <= 0.5"]}, "design.constraints", "none of 4096"),
        ({"size": 0}, "design.size", "not from 1 to 2000"),
        ({"size": 5000}, "design.size", "use `sobol`"),
        ({"size": 6}, "design.size", "make at least"),
        ({"generator": "sobol", "size": 2_000_000}, "design.size", "not from 1 to 1000000"),
        (
            {"generator": "full_factorial", "size": 0, "levels": 2000},
            "design.levels",
            "at most 1000000",
        ),
        ({"generator": "full_factorial"}, "design.size", "follows from its levels"),
        ({"max_failed_fraction": 1.5}, "evaluation.max_failed_fraction", "1.5 is not in 0 to 1"),
        ({"max_failed_fraction": float("nan")}, "evaluation.max_failed_fraction", "nan"),
        ({"failure_policy": "substitute"}, "evaluation.failure_policy", "no substitute values"),
        ({"failure_policy": "7"}, "evaluation.failure_policy", "none of abort, retry"),
        ({"responses": ("costs",)}, "ml.responses[0]", "did you mean `cost`"),
        ({"test_fraction": 0.95}, "ml.test_fraction", "0.95"),
        ({"folds": 1}, "ml.folds", "1 is not from 2"),
        ({"goals": ""}, "goals", "say what is wanted"),
        ({"goals": "minimize price"}, "goals", "price"),
        ({"goals": "minimize cost; minimize tau"}, "goals", "one objective"),
        ({"goals": "minimize cost; tau >= 2e5"}, "goals", "can never be met"),
        ({"goals": "minimize cost; tau <= 1; tau >= 2"}, "goals", "contradict"),
        ({"goals": "minimize h"}, "goals", "no response"),
        ({"budget": 0}, "optimize.budget", "0 is not from 1"),
        ({"tolerance": 1.5}, "optimize.tolerance", "1.5"),
        ({"max_attempts": 0}, "max_attempts", "0 is not from 1"),
    ],
)
def test_a_mistake_is_told_with_its_field(
    changes: dict[str, Any], field: str, problem: str
) -> None:
    mistakes = examine(replace(PLAN, **changes)).mistakes

    named = next(each.field for each in mistakes if problem in each.description)
    assert named.startswith(field)


def test_a_kit_that_stops_early_needs_no_goals() -> None:
    found = examine(replace(PLAN, goals="", stop_after="ML_TEST"))

    assert (found.mistakes, found.simulation_count) == ((), 40)


def test_the_goals_say_what_is_modelled() -> None:
    assert modelled(replace(PLAN, goals="minimize cost")) == ("cost",)
    assert modelled(replace(PLAN, goals="")) == ("cost", "tau")


def test_mistakes_of_all_parts_come_together() -> None:
    plan = replace(PLAN, name="", size=0, goals="minimize price", budget=-1)

    fields = [each.field for each in examine(plan).mistakes]

    assert fields == ["name", "design.size", "goals", "optimize.budget"]


GRID = replace(
    DECK,
    space=Space(
        parameters=(
            Parameter(name="i", kind=Kind.INTEGER, low=1, high=3),
            Parameter(name="c", kind=Kind.CATEGORICAL, choices=("a", "b", "c")),
        )
    ),
)


@pytest.mark.parametrize("generator", ["lhs", "lhs_ese", "sobol", "halton"])
def test_a_design_of_more_rows_than_the_space_has_points_is_told_what_to_do(generator: str) -> None:
    found = examine(replace(PLAN, deck=GRID, size=30, generator=generator))

    assert found.mistakes == ()
    (warning,) = found.warnings
    assert warning.field == "design.size"
    assert "the space has 9 points, so 30 rows repeat them" in warning.description
    assert "`size: 9`, or `generator: full_factorial`" in warning.description
    assert found.simulation_count == 9 + 1


def test_a_design_of_every_point_needs_no_rows_for_a_model() -> None:
    found = examine(replace(PLAN, deck=GRID, size=9))

    assert (found.mistakes, found.warnings, found.simulation_count) == ((), (), 10)


def test_a_part_of_a_small_space_is_refused_with_what_to_run_instead() -> None:
    (mistake,) = examine(replace(PLAN, deck=GRID, size=7)).mistakes

    assert mistake.field == "design.size"
    assert "7 of the 9 points of the space leave 5 to train on" in mistake.description
    assert "`size: 9`" in mistake.description


def test_a_noisy_deck_counts_the_runs_that_verify_its_best() -> None:
    assert examine(replace(PLAN, deck=replace(DECK, noisy=True))).simulation_count == 40 + 20 + 10


def test_a_goal_over_a_response_that_is_not_modelled_is_a_warning() -> None:
    found = examine(replace(PLAN, responses=("cost",)))

    assert found.mistakes == ()
    (warning,) = found.warnings
    assert "the goals read tau, which the kit does not model" in warning.description
