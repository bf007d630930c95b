from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.deck import Deck, Response
from vistaflow_services.decks.space import Parameter, Space
from vistaflow_services.simulators import Failure, check_deck
from vistaflow_services.simulators.function_simulator import compute
from vistaflow_services.simulators.functions import FUNCTIONS


def value(name: str, *inputs: float) -> Mapping[str, float]:
    columns = [np.array([each, each]) for each in inputs]
    returned = FUNCTIONS[name].compute(*columns)
    assert tuple(returned) == FUNCTIONS[name].outputs
    assert all(column.shape == (2,) for column in returned.values())
    return {each: float(column[1]) for each, column in returned.items()}


@pytest.mark.parametrize(
    ("name", "inputs", "output", "expected"),
    [
        ("branin", (np.pi, 2.275), "y", 0.397887),
        ("branin", (-np.pi, 12.275), "y", 0.397887),
        ("hartmann6", (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573), "y", -3.32237),
        ("welded_beam", (0.20572964, 3.470488666, 9.03662391, 0.20572964), "cost", 1.724852),
        ("welded_beam", (0.20572964, 3.470488666, 9.03662391, 0.20572964), "tau", 13600.0),
        ("welded_beam", (0.20572964, 3.470488666, 9.03662391, 0.20572964), "sigma", 30000.0),
        ("welded_beam", (0.20572964, 3.470488666, 9.03662391, 0.20572964), "pc", 6000.0),
        ("speed_reducer", (3.5, 0.7, 17, 7.3, 7.71532, 3.350215, 5.286654), "weight", 2994.47),
        ("pressure_vessel", (0.778169, 0.384649, 40.319619, 200.0), "cost", 5885.33),
        ("pressure_vessel", (0.778169, 0.384649, 40.319619, 200.0), "volume", 1296000.0),
        ("borehole", (0.1, 25050, 89335, 1050, 89.55, 760, 1400, 10950), "flow", 70.8729),
    ],
)
def test_functions_have_their_published_values(
    name: str, inputs: tuple[float, ...], output: str, expected: float
) -> None:
    assert value(name, *inputs)[output] == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(
    ("name", "inputs", "expected"),
    [
        ("otl", (100, 47.5, 1.75, 1.85, 0.725, 175), 5.31061694),
        ("piston", (45, 0.0125, 0.006, 3000, 1e5, 293, 350), 0.46439702),
        ("wing", (175, 260, 8, 3, 30.5, 0.75, 0.13, 4.25, 2100, 0.0525), 267.9438694),
    ],
)
def test_functions_agree_with_an_implementation_written_apart_from_them(
    name: str, inputs: tuple[float, ...], expected: float
) -> None:
    (returned,) = value(name, *inputs).values()
    assert returned == pytest.approx(expected, rel=1e-7)


def test_the_published_optimum_of_the_speed_reducer_meets_all_its_constraints() -> None:
    returned = value("speed_reducer", 3.5, 0.7, 17, 7.3, 7.71532, 3.350215, 5.286654)
    assert max(returned[f"g{at}"] for at in range(1, 12)) == pytest.approx(0, abs=1e-5)


def branin_deck(*, names: tuple[str, ...] = ("x1", "x2"), response: str = "y") -> Deck:
    ranges = ((-5.0, 10.0), (0.0, 15.0), (0.0, 1.0))
    parameters = tuple(
        Parameter(name=name, low=low, high=high)
        for name, (low, high) in zip(names, ranges, strict=False)
    )
    return Deck(
        name="branin",
        simulator="function",
        function="branin",
        space=Space(parameters=parameters),
        responses=(Response(name=response, high=200.0),),
    )


def test_parameters_named_otherwise_are_taken_in_their_order() -> None:
    outcome = compute(branin_deck(names=("a", "b"), response="height"), [{"a": np.pi, "b": 2.275}])
    assert outcome[0].responses["height"] == pytest.approx(0.397887, rel=1e-5)


def test_a_value_outside_the_physical_range_is_infeasible_and_its_neighbours_are_not() -> None:
    points = [{"x1": np.pi, "x2": 2.275}, {"x1": -5.0, "x2": 0.0}]
    fine, bad = compute(branin_deck(), points)
    assert (fine.failure, bad.failure, bad.responses) == (None, Failure.INFEASIBLE, {})
    assert "physical range" in bad.message


@pytest.mark.parametrize(
    ("deck", "field"),
    [
        (branin_deck(names=("x1",)), "parameters"),
        (branin_deck(names=("x1", "b", "c")), "parameters"),
    ],
    ids=["too few", "too many"],
)
def test_a_deck_whose_parameters_do_not_fit_its_function_is_refused(deck: Deck, field: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_deck(deck)
    assert [each.field for each in caught.value.violations] == [field]


def test_an_unknown_function_is_refused_with_the_nearest_name() -> None:
    deck = Deck(
        name="d",
        simulator="function",
        function="borhole",
        space=Space(parameters=(Parameter(name="x", low=0, high=1),)),
        responses=(Response(name="y"),),
    )
    with pytest.raises(InvalidError, match="did you mean `borehole`"):
        check_deck(deck)
