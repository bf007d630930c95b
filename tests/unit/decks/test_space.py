from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calls import CountedCalls
from vistaflow_services.core.errors import FieldViolation, InvalidError
from vistaflow_services.decks.expressions import parse_constraint
from vistaflow_services.decks.feasibility import find_feasible, never_met, spread
from vistaflow_services.decks.space import Kind, Parameter, Scale, Space

LENGTH = Parameter(name="length", low=10, high=1000, scale=Scale.LOG, unit="nm", default=100)
BIAS = Parameter(name="bias", low=-1, high=1)
FINGERS = Parameter(name="fingers", kind=Kind.INTEGER, low=1, high=8)
CORNER = Parameter(name="corner", kind=Kind.CATEGORICAL, choices=("tt", "ff", "ss"))
NODE = Parameter(name="node", kind=Kind.ORDINAL, choices=(28, 40, 65))
SPACE = Space(parameters=(LENGTH, BIAS, FINGERS, CORNER, NODE))
POINT = {"length": 100.0, "bias": 0.25, "fingers": 3, "corner": "ff", "node": 40}


def violations(error: pytest.ExceptionInfo[InvalidError]) -> list[tuple[str, str]]:
    return [(each.field, each.description) for each in error.value.violations]


def test_the_unit_cube_decodes_by_scale_kind_and_choice() -> None:
    points = SPACE.decode(np.array([[0, 0, 0, 0, 0], [0.5] * 5, [1, 1, 1, 1, 1]]))
    assert points == [
        {"length": 10.0, "bias": -1.0, "fingers": 1, "corner": "tt", "node": 28},
        {"length": 100.0, "bias": 0.0, "fingers": 5, "corner": "ff", "node": 40},
        {"length": 1000.0, "bias": 1.0, "fingers": 8, "corner": "ss", "node": 65},
    ]
    assert [type(value) for value in points[1].values()] == [float, float, int, str, int]


def test_every_whole_number_and_choice_has_an_equal_share_of_the_unit_interval() -> None:
    unit = np.tile(((np.arange(2400) + 0.5) / 2400)[:, None], 5)
    columns = SPACE.decode_columns(unit)
    assert np.unique(columns["fingers"], return_counts=True)[1].tolist() == [300] * 8
    assert np.unique(columns["corner"], return_counts=True)[1].tolist() == [800] * 3
    assert np.unique(columns["node"], return_counts=True)[1].tolist() == [800] * 3


def test_points_encode_to_cell_centres_and_positions() -> None:
    unit = SPACE.encode([POINT])
    assert unit[0].tolist() == pytest.approx([0.5, 0.625, 2.5 / 8, 0.5, 0.5])


def test_features_hold_one_column_for_each_category() -> None:
    features, names = SPACE.features([POINT, POINT | {"corner": "tt"}])
    assert names == [
        *("length", "bias", "fingers", "corner=tt", "corner=ff", "corner=ss", "node"),
    ]
    assert features[:, 3:6].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert features[:, [0, 1, 2, 6]].tolist() == SPACE.encode([POINT] * 2)[:, [0, 1, 2, 4]].tolist()


@st.composite
def parameters(draw: st.DrawFn) -> Parameter:
    kind = draw(st.sampled_from(list(Kind)))
    if kind is Kind.CATEGORICAL:
        return Parameter(name="p", kind=kind, choices=tuple("abcdefg"[: draw(st.integers(2, 7))]))
    if kind is Kind.ORDINAL:
        values = draw(st.lists(st.integers(-50, 50), min_size=2, max_size=9, unique=True))
        step = draw(st.sampled_from([1, 0.1]))
        return Parameter(name="p", kind=kind, choices=tuple(each * step for each in sorted(values)))
    scale = draw(st.sampled_from(list(Scale)))
    if kind is Kind.INTEGER:
        low = draw(st.integers(1 if scale is Scale.LOG else -1000, 1000))
        high = low + draw(st.integers(1, 100_000))
        return Parameter(name="p", kind=kind, low=low, high=high, scale=scale)
    least = 10.0 ** draw(st.integers(-25, 18)) * draw(st.floats(1, 9))
    if scale is Scale.LINEAR and draw(st.booleans()):
        return Parameter(name="p", low=-least, high=least * draw(st.floats(0.001, 10)))
    return Parameter(name="p", low=least, high=least * draw(st.floats(1.01, 1e6)), scale=scale)


places = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(parameter=parameters(), unit=places)
def test_encoding_a_decoded_point_and_decoding_it_again_gives_the_same_point(
    parameter: Parameter, unit: list[float]
) -> None:
    space = Space(parameters=(parameter,))
    points = space.decode(np.array(unit)[:, None])
    encoded = space.encode(points)
    assert ((encoded >= 0) & (encoded <= 1)).all()
    again = space.decode(encoded)
    if parameter.kind is Kind.REAL:
        # The last of twelve digits may be lost to a logarithm and back.
        assert [each["p"] for each in again] == pytest.approx(
            [each["p"] for each in points], rel=1e-10
        )
    else:
        assert again == points


@settings(max_examples=150, deadline=None)
@given(parameter=parameters(), unit=places)
def test_a_decoded_point_is_canonical(parameter: Parameter, unit: list[float]) -> None:
    space = Space(parameters=(parameter,))
    for point in space.decode(np.array(unit)[:, None]):
        told = json.loads(json.dumps(point))
        assert space.check(told) == point
        assert [type(each) for each in space.check(told).values()] == [
            type(each) for each in point.values()
        ]


@settings(max_examples=60, deadline=None)
@given(parameter=parameters())
def test_a_space_survives_json_and_pickle(parameter: Parameter) -> None:
    space = Space(parameters=(parameter,))
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    assert pickle.loads(pickle.dumps(space)) == space


def test_a_space_with_constraints_and_fixed_parameters_survives_json() -> None:
    space = SPACE.narrow({"node": 40, "corner": "ss"}).constrain(["length >= 20 * fingers + node"])
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_more_points_of_fifty_parameters_take_no_more_calls() -> None:
    kinds = [
        Parameter(name="p", low=1e-3, high=1.0, scale=Scale.LOG),
        Parameter(name="p", low=-3, high=7),
        FINGERS,
        CORNER,
        NODE,
    ]
    space = Space(
        parameters=tuple(
            Parameter.from_dict(kinds[at % 5].to_dict() | {"name": f"p{at}"}) for at in range(50)
        )
    )

    def calls(count: int) -> int:
        unit = np.random.default_rng(0).random((count, 50))
        with CountedCalls() as counted:
            features, _ = space.features_columns(space.decode_columns(unit))
        assert features.shape == (count, 70)
        return counted.count

    # Whole columns are decoded: a loop over points would make a hundred times as many.
    assert calls(10_000) <= 1.1 * calls(100)


def test_a_typed_point_is_made_canonical() -> None:
    typed: dict[str, Any] = {
        "length": np.float64(100.00000000000001),
        "bias": 0,
        "fingers": 3.0,
        "corner": "ff",
        "node": np.int64(40),
    }
    point = SPACE.check(typed)
    assert point == POINT | {"bias": 0.0}
    assert [type(each) for each in point.values()] == [float, float, int, str, int]


def test_every_mistake_of_a_typed_point_is_told() -> None:
    with pytest.raises(InvalidError) as error:
        SPACE.check({"lenght": 3, "bias": math.nan, "fingers": 2.5, "corner": "fast", "node": "40"})
    assert violations(error) == [
        ("lenght", "unknown parameter; did you mean `length`?"),
        ("length", "missing; every parameter needs a value"),
        ("bias", "`nan` is not a finite number"),
        ("fingers", "2.5 is not a whole number"),
        ("corner", "`fast` is not one of its choices `tt`, `ff`, `ss`"),
        ("node", "`40` is not one of its choices `28`, `40`, `65`"),
    ]


def test_a_typed_point_outside_its_range_is_told_the_range_with_its_unit() -> None:
    with pytest.raises(InvalidError) as error:
        SPACE.check(POINT | {"length": 5, "fingers": 9, "bias": True})
    assert violations(error) == [
        ("length", "5 is outside its range 10.0 to 1000.0 nm"),
        ("bias", "`True` is not a finite number"),
        ("fingers", "9 is outside its range 1 to 8"),
    ]


def test_encoding_a_value_outside_its_range_is_refused() -> None:
    with pytest.raises(InvalidError) as error:
        SPACE.encode([POINT, POINT | {"length": 1001.0}])
    assert violations(error) == [("length", "1001.0 is outside its range 10.0 to 1000.0")]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"low": 2, "high": 1}, ("low", "2 is not below the upper end 1")),
        ({"low": 1, "high": 1}, ("low", "1 is not below the upper end 1")),
        ({"low": math.nan, "high": 1}, ("low", "`nan` is not a finite number")),
        ({"low": 0, "high": math.inf}, ("high", "`inf` is not a finite number")),
        (
            {"low": -1e308, "high": 1e308},
            ("high", "the range is too wide for double precision"),
        ),
        (
            {"low": 0, "high": 1, "scale": Scale.LOG},
            ("low", "a log scale needs a range above 0, not one from 0"),
        ),
        (
            {"low": 0.5, "high": 3, "kind": Kind.INTEGER},
            ("low", "0.5 is not a whole number of at most 2**53"),
        ),
        (
            {"low": 0, "high": 1, "choices": ("a", "b")},
            ("choices", "the type real has a range; choices go with categorical and ordinal"),
        ),
        ({"low": 0, "high": 1, "default": 2}, ("default", "2 is outside its range 0.0 to 1.0")),
        (
            {"kind": Kind.CATEGORICAL, "choices": ("a",)},
            ("choices", "1 choices; give 2 to 1000"),
        ),
        ({"kind": Kind.CATEGORICAL, "choices": ("a", "a")}, ("choices", "`a` is given twice")),
        (
            {"kind": Kind.CATEGORICAL, "choices": ("a", 1)},
            ("choices", "all must be texts or all numbers; quote what is meant as text"),
        ),
        (
            {"kind": Kind.CATEGORICAL, "choices": (True, False)},
            ("choices", "all must be texts or all numbers; quote what is meant as text"),
        ),
        (
            {"kind": Kind.CATEGORICAL, "choices": ("a", "b\nc")},
            ("choices", "a text has 1 to 64 printable characters"),
        ),
        (
            {"kind": Kind.ORDINAL, "choices": (2, 1)},
            ("choices", "the numbers of an ordinal parameter must ascend"),
        ),
        (
            {"kind": Kind.ORDINAL, "choices": (1, 2), "scale": Scale.LOG},
            ("scale", "the type ordinal has no scale"),
        ),
        (
            {"name": "log10", "low": 0, "high": 1},
            ("name", "`log10` is a word of the formula language; choose another name"),
        ),
    ],
)
def test_an_impossible_parameter_is_refused(fields: dict[str, Any], told: tuple[str, str]) -> None:
    with pytest.raises(InvalidError) as error:
        Parameter(**{"name": "p"} | fields)
    assert violations(error) == [told]


@pytest.mark.parametrize("name", ["", "1w", "_w", "w-1", "w 1", "w" * 64, "µ", None])
def test_a_name_is_an_identifier(name: Any) -> None:
    with pytest.raises(InvalidError) as error:
        Parameter(name=name, low=0, high=1)
    assert [field for field, _ in violations(error)] == ["name"]


def test_two_parameters_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidError) as error:
        Space(parameters=(BIAS, FINGERS, BIAS))
    assert violations(error) == [
        ("parameters[2].name", "`bias` is also the name of parameters[0]"),
    ]


def test_narrowing_reduces_ranges_and_choices_and_fixes_values() -> None:
    space = SPACE.narrow(
        {"length": [50, 500], "fingers": {"high": 4}, "corner": ["tt", "ss"], "node": 65}
    )
    assert [(each.name, each.low, each.high, each.choices) for each in space.parameters] == [
        ("length", 50.0, 500.0, ()),
        ("bias", -1.0, 1.0, ()),
        ("fingers", 1, 4, ()),
        ("corner", None, None, ("tt", "ss")),
    ]
    assert (space.fixed, space.dimension, space.point_names[-1]) == ({"node": 65}, 4, "node")


def test_a_default_outside_the_narrower_range_is_dropped() -> None:
    assert SPACE.narrow({"length": [200, 500]})["length"].default is None
    assert SPACE.narrow({"length": [50, 500]})["length"].default == 100.0


def test_fixed_parameters_are_in_points_and_not_in_the_cube() -> None:
    space = SPACE.narrow({"node": 65, "bias": 0.5})
    points = space.decode(np.full((2, 3), 0.5))
    assert points[0] == {"length": 100.0, "fingers": 5, "corner": "ff", "bias": 0.5, "node": 65}
    assert space.encode(points).shape == (2, 3)
    assert space.features(points)[0].shape == (2, 5)
    assert space.check({"length": 100.0, "fingers": 5, "corner": "ff"}) == points[0]
    assert space.constrain(["bias >= 0.6"]).feasible(points).tolist() == [False, False]


def test_every_override_that_is_wrong_is_told() -> None:
    with pytest.raises(InvalidError) as error:
        SPACE.narrow(
            {
                "lenth": [1, 2],
                "length": [5, 500],
                "bias": {"range": [0.5, 0.1]},
                "fingers": {"hi": 3},
                "corner": ["tt", "fast"],
                "node": 90,
            }
        )
    assert violations(error) == [
        ("lenth", "unknown parameter; did you mean `length`?"),
        (
            "length.low",
            "5 is outside its range 10.0 to 1000.0 nm; "
            "a kit may narrow the deck's range, not widen it",
        ),
        ("bias.low", "0.5 is not below the upper end 0.1"),
        ("fingers.hi", "unknown key; did you mean `high`?"),
        ("corner.choices", "`fast` is not one of the deck's choices"),
        (
            "node",
            "`90` is not one of its choices `28`, `40`, `65`; "
            "fix it at a value that the deck allows",
        ),
    ]


def test_fixing_every_parameter_is_refused() -> None:
    with pytest.raises(InvalidError, match="leave at least one to vary"):
        Space(parameters=(BIAS,)).narrow({"bias": 0.5})


def test_points_are_feasible_where_all_constraints_hold() -> None:
    space = SPACE.constrain(["length >= 20 * fingers", "node < 65"])
    points = [POINT, POINT | {"fingers": 6}, POINT | {"node": 65}]
    assert space.feasible(points).tolist() == [True, False, False]


def test_a_constraint_over_a_text_parameter_is_refused() -> None:
    with pytest.raises(InvalidError) as error:
        Space(parameters=(BIAS, CORNER), constraints=(parse_constraint("corner > 1", ["corner"]),))
    assert error.value.violations == (
        FieldViolation(field="constraints[0]", description="`corner` is not a numeric parameter"),
    )


def test_a_spread_of_points_fills_every_part_of_the_cube() -> None:
    cells = np.floor(spread(4096, 3) * 8).astype(int)
    assert len(np.unique(cells, axis=0)) == 512


@pytest.mark.parametrize(
    "constraints",
    [
        ["a + b <= 1"],
        ["a * b >= 0.9999"],
        ["a - b <= 1e-6", "b - a <= 1e-6"],
        ["a < b", "b < c", "c < 0.001"],
        ["abs(a - 0.123456) + abs(b - 0.654321) + abs(c - 0.5) <= 1e-6"],
    ],
)
def test_a_feasible_point_is_found_even_in_a_small_region(constraints: list[str]) -> None:
    space = Space(parameters=tuple(Parameter(name=name, low=0, high=1) for name in "abc"))
    space = space.constrain(constraints)
    point = find_feasible(space)
    assert point is not None
    assert space.feasible([point]).all()


def test_constraints_that_contradict_each_other_leave_no_feasible_point() -> None:
    space = Space(parameters=tuple(Parameter(name=name, low=0, high=1) for name in "ab"))
    together = space.constrain(["a >= 2 * b + 0.5", "a + 0.2 <= b"])
    assert (find_feasible(together), never_met(together)) == (None, [])
    alone = space.constrain(["a <= 1", "a + b >= 2.5"])
    assert (find_feasible(alone), never_met(alone)) == (None, [1])
