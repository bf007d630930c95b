from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.deck import Deck, FailurePolicy, Policy, Response
from vistaflow_services.decks.expressions import parse_constraint
from vistaflow_services.decks.space import Kind, Parameter, Scale, Space
from vistaflow_services.designs.recipe import Generator
from vistaflow_services.doe.specs import check_spec, plan, policy_of, recipe_of

DECK = Deck(
    name="mos",
    simulator="function",
    function="branin",
    space=Space(
        parameters=(
            Parameter(name="tox", low=1e-9, high=1e-8, scale=Scale.LOG),
            Parameter(name="vdd", low=0.5, high=2.0, default=1.0),
            Parameter(name="fingers", kind=Kind.INTEGER, low=1, high=8),
            Parameter(name="width", kind=Kind.ORDINAL, choices=(1, 2, 5)),
            Parameter(name="gate", kind=Kind.CATEGORICAL, choices=("poly", "metal", "none")),
        ),
        constraints=(parse_constraint("vdd * width <= 6", ["vdd", "width"]),),
    ),
    responses=(Response(name="ion", unit="A"),),
    failure_policy=FailurePolicy(max_failed_fraction=0.25),
)


def spec(**fields: Any) -> pb.DesignSpec:
    return json_format.ParseDict({"size": 10, **fields}, pb.DesignSpec())


def mistakes(spec: pb.DesignSpec) -> dict[str, str]:
    with pytest.raises(InvalidError) as caught:
        plan(spec, DECK)
    return {each.field: each.description for each in caught.value.violations}


def test_overrides_narrow_fix_and_constrain_the_decks_space() -> None:
    recipe, region = plan(
        spec(
            generator="GENERATOR_LHS",
            seed=3,
            parameters=[
                {"name": "vdd", "high": 1.5},
                {"name": "fingers", "fixed": 4},
                {"name": "width", "choices": [1, 5]},
                {"name": "gate", "choices": ["metal"]},
                {"name": "tox", "low": 2e-9, "high": 2e-9},
            ],
            constraints=["vdd <= 1.2"],
        ),
        DECK,
    )
    assert (recipe.generator, recipe.size, recipe.seed) == (Generator.LHS, 10, 3)
    assert region.fixed == {"fingers": 4, "gate": "metal", "tox": 2e-9}
    assert (region.space["vdd"].low, region.space["vdd"].high) == (0.5, 1.5)
    assert region.space["width"].choices == (1, 5)
    assert [type(each) for each in region.space["width"].choices] == [int, int]
    assert [str(each) for each in region.space.constraints] == ["vdd <= 1.2", "vdd * width <= 6"]


@pytest.mark.parametrize(
    ("size", "generator"), [(2000, Generator.LHS_ESE), (2001, Generator.SOBOL)]
)
def test_an_unset_generator_is_chosen_by_the_size(size: int, generator: Generator) -> None:
    assert recipe_of(spec(size=size)).generator is generator


def test_every_mistake_of_a_design_is_told_with_its_path() -> None:
    found = mistakes(
        spec(
            size=0,
            generator="GENERATOR_SOBOL",
            levels=3,
            parameters=[
                {"name": "vd"},
                {"name": "vdd", "low": 0.1},
                {"name": "vdd", "high": 1.0},
                {"name": "fingers", "fixed": 2.5},
                {"name": "tox", "fixed": 2e-9, "low": 1e-9},
                {"name": "gate", "choices": ["poly", "wood"]},
            ],
            constraints=["vdd <= 1", "vddd <= 1", "gate <= 1"],
        )
    )
    assert sorted(found) == [
        "constraints[1]",
        "constraints[2]",
        "levels",
        "parameters[0].name",
        "parameters[1].low",
        "parameters[2].name",
        "parameters[3].fixed",
        "parameters[4].fixed",
        "parameters[5].choices",
        "size",
    ]
    assert "`vdd`" in found["parameters[0].name"]


def test_constraints_that_leave_nothing_are_found_before_anything_is_made() -> None:
    found = mistakes(spec(constraints=["vdd <= 1.9", "vdd >= 1.95"]))
    assert list(found) == ["constraints[1]"]


def test_a_seed_of_the_whole_range_is_taken() -> None:
    assert plan(spec(seed=str(2**63 - 1)), DECK)[0].seed == 2**63 - 1
    assert list(mistakes(spec(seed=-1))) == ["seed"]


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({"deck": "mos"}, "design"),
        ({"deck": "mos", "design": {}, "designId": "doe"}, "design_id"),
        ({"design": {"size": 3}}, "deck"),
        ({"designId": "doe"}, "evaluation"),
    ],
)
def test_a_spec_says_either_what_to_make_or_what_to_run(told: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_spec(json_format.ParseDict(told, pb.DoeSpec()))
    assert [each.field for each in caught.value.violations] == [field]


def test_an_evaluation_keeps_the_decks_policy_unless_told() -> None:
    assert policy_of(pb.EvaluationSpec(), DECK) == DECK.failure_policy
    changed = policy_of(
        pb.EvaluationSpec(failure_policy=pb.FAILURE_POLICY_RETRY, max_failed_fraction=0.0), DECK
    )
    assert changed == FailurePolicy(policy=Policy.RETRY, retries=1, max_failed_fraction=0.0)


def test_an_evaluation_that_cannot_be_names_its_fields() -> None:
    asked = pb.EvaluationSpec(failure_policy=pb.FAILURE_POLICY_SUBSTITUTE, max_failed_fraction=1.5)
    with pytest.raises(InvalidError) as caught:
        policy_of(asked, DECK)
    assert [each.field for each in caught.value.violations] == [
        "failure_policy",
        "max_failed_fraction",
    ]
