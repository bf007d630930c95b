from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.expressions import (
    MAX_TEXT,
    parse_constraint,
    parse_expression,
    parse_goals,
)

NAMES = ["a", "b", "vth", "ion", "ioff"]


def mistakes(error: pytest.ExceptionInfo[InvalidError]) -> list[str]:
    return [each.description for each in error.value.violations]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("100 / 10 / 2", 5),
        ("2 ** 3 ** 2", 512),
        ("-2 ** 2", -4),
        ("2 ** -1", 0.5),
        ("--3 + +2", 5),
        ("6 / 2 * 3", 9),
        ("1e-9 * 1E9 + .5 + 2.", 3.5),
        ("a*b", 6),
        ("max(a, b, 7) - min(a, b)", 5),
        ("abs(-a) + sqrt(4) + exp(0) + log(1) + log10(100)", 7),
        ("(-8) ** 2", 64),
    ],
)
def test_a_formula_has_the_value_of_ordinary_arithmetic(text: str, value: float) -> None:
    assert parse_expression(text, NAMES).evaluate({"a": 2, "b": 3}) == pytest.approx(value)


def test_a_formula_over_arrays_is_evaluated_elementwise() -> None:
    formula = parse_expression("max(a, 2 * b) + 1", NAMES)
    result = formula.evaluate({"a": np.array([1.0, 8.0]), "b": np.array([2, 3])})
    assert result.tolist() == [5.0, 9.0]


def test_a_formula_over_numbers_gives_a_plain_float() -> None:
    assert type(parse_expression("a + 1", NAMES).evaluate({"a": np.int64(2)})) is float


def test_a_formula_knows_its_names_and_its_text() -> None:
    formula = parse_expression("  vth + 2*max(a , 1) ", NAMES)
    assert (formula.names, str(formula)) == (frozenset({"vth", "a"}), "vth + 2*max(a , 1)")


@pytest.mark.parametrize("text", ["sqrt(a)", "log(a)", "1 / (a + 1)", "a ** 0.5", "exp(-1000 * a)"])
def test_where_a_formula_is_undefined_its_value_is_not_finite(text: str) -> None:
    assert not math.isfinite(parse_expression(text, NAMES).evaluate({"a": -1.0}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "column 1: expected a number, a name or `(`, not the end"),
        ("a +", "column 4: expected a number, a name or `(`, not the end"),
        ("a b", "column 3: expected an operator or the end, not `b`"),
        ("a ++* b", "column 5: expected a number, a name or `(`, not `*`"),
        ("(a + b", "column 7: expected `)` for the `(` in column 1, not the end"),
        ("a + b)", "column 6: expected an operator or the end, not `)`"),
        ("a + vht", "column 5: unknown name `vht`; did you mean `vth`?"),
        ("a + VTH", "column 5: unknown name `VTH`; did you mean `vth`?"),
        ("a ^ 2", "column 3: `^` is not part of the language; write ** for powers"),
        ("a % 2", "column 3: `%` is not part of the language; there is no remainder"),
        ("a & b", "column 3: `&` is not part of the language"),
        ("a.b", "column 2: `.` is not part of the language"),
        ("a[0]", "column 2: `[` is not part of the language"),
        ("'x'", "column 1: `'` is not part of the language"),
        ("3n", "column 1: `3n` is no number; write 1e-9 rather than 1n, and * for products"),
        ("1e999", "column 1: 1e999 is too large a number"),
        ("sqrt + 1", "column 1: `sqrt` is a function; write `sqrt(...)`"),
        ("sqr(a)", "column 1: unknown function `sqr`; did you mean `sqrt`?"),
        ("__import__(a)", "column 1: unknown function `__import__`"),
        ("sqrt(a, b)", "column 1: `sqrt` takes one value, not 2"),
        ("max(a)", "column 1: `max` takes two or more values, not 1"),
        ("max()", "column 5: expected a number, a name or `(`, not `)`"),
        ("a <= 1", "column 3: expected an operator or the end, not `<=`"),
        ("٣ + a", "column 1: `٣` is not part of the language"),
    ],
)
def test_a_wrong_formula_is_refused_with_the_column(text: str, told: str) -> None:
    with pytest.raises(InvalidError) as error:
        parse_expression(text, NAMES)
    assert [each.split("; known")[0] for each in mistakes(error)] == [told]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "a",
        "(" * 100 + "a" + ")" * 100,
        "-" * 1000 + "a",
        "abs(" * 500 + "a" + ")" * 500,
        "2**" * 500 + "2",
        "+".join(["a"] * 1000),
        "a" * (MAX_TEXT + 1),
    ],
    ids=["open", "parentheses", "signs", "calls", "powers", "terms", "long"],
)
def test_a_formula_made_to_exhaust_the_parser_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        parse_expression(text, NAMES)


def test_the_longest_sum_that_is_allowed_evaluates() -> None:
    formula = parse_expression("+".join(["a"] * 200), NAMES)
    assert formula.evaluate({"a": 0.5}) == 100.0


formulas = st.recursive(
    st.sampled_from(["a", "b", "1.5", "2"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda t: f"-{t}"),
        inner.map(lambda t: f"abs({t})"),
        st.tuples(inner, inner).map(lambda t: f"max({t[0]}, {t[1]})"),
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(text=formulas, a=st.floats(-3, 3), b=st.floats(0.1, 3))
def test_a_formula_agrees_with_the_same_text_in_python(text: str, a: float, b: float) -> None:
    try:
        expected = eval(text, {"abs": abs, "max": max}, {"a": a, "b": b})
    except ZeroDivisionError:
        return
    assert parse_expression(text, NAMES).evaluate({"a": a, "b": b}) == pytest.approx(
        expected, rel=1e-9, abs=1e-9
    )


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="ab19.+-*/()<>=,;e \nmaxinz", max_size=40))
def test_any_text_is_either_parsed_or_refused_with_a_violation(text: str) -> None:
    try:
        goals = parse_goals(text, responses=["a"], parameters=["b"])
    except InvalidError as error:
        told: object = error.violations
    else:
        told = parse_goals(str(goals), responses=["a"], parameters=["b"]).objectives
    assert told


@pytest.mark.parametrize(
    ("text", "excess", "met"),
    [
        ("a <= 2", [-1.0, 0.0, 1.0], [True, True, False]),
        ("a < 2", [-1.0, 0.0, 1.0], [True, False, False]),
        ("a >= 2", [1.0, 0.0, -1.0], [False, True, True]),
        ("2 < a", [1.0, 0.0, -1.0], [False, False, True]),
        ("log(a - 2) <= 9", [math.inf, -math.inf, -9.0], [False, True, True]),
    ],
)
def test_a_constraint_tells_by_how_much_it_is_broken(
    text: str, excess: list[float], met: list[bool]
) -> None:
    values = {"a": np.array([1.0, 2.0, 3.0])}
    constraint = parse_constraint(text, NAMES)
    assert constraint.violation(values).tolist() == pytest.approx(excess)
    assert constraint.met(values).tolist() == met


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a", "column 2: expected <=, >=, < or >, not the end"),
        (
            "a == 1",
            "column 3: only <=, >=, < and > are known; for equality write two bounds around it",
        ),
        ("0 <= a <= 1", "column 8: a constraint has one comparison; write two constraints"),
        (
            "1 <= 2",
            "column 1: the constraint compares two constants; name something in it",
        ),
    ],
)
def test_a_wrong_constraint_is_refused_with_the_column(text: str, told: str) -> None:
    with pytest.raises(InvalidError) as error:
        parse_constraint(text, NAMES)
    assert mistakes(error) == [told]


def goals_of(text: str) -> Any:
    return parse_goals(text, responses=["vth", "ion", "ioff"], parameters=["a", "b"])


def test_goals_hold_objectives_and_constraints_in_their_order() -> None:
    goals = goals_of(" maximize ion ; ioff <= 1e-9\nvth >= 0.3;; minimise a*b\n")
    assert [str(each) for each in goals.objectives] == ["maximize ion", "minimize a*b"]
    assert [str(each) for each in goals.constraints] == ["ioff <= 1e-9", "vth >= 0.3"]
    assert [each.sign for each in goals.objectives] == [-1.0, 1.0]
    assert goals.names == {"ion", "ioff", "vth", "a", "b"}


def test_goals_can_be_sent_to_another_process() -> None:
    goals = goals_of("maximize ion; vth + a >= 0.3")
    assert pickle.loads(pickle.dumps(goals)) == goals


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["nothing to optimise: begin with `minimize` or `maximize` and a response"]),
        (
            "vth >= 0.3",
            ["nothing to optimise: begin with `minimize` or `maximize` and a response"],
        ),
        ("maximize", ["column 9: expected a number, a name or `(`, not the end"]),
        ("maximze ion", ["column 1: unknown goal `maximze`; did you mean `maximize`?"]),
        ("maximize 3", ["column 10: the objective is a constant; name a response"]),
        (
            "maximize ion <= 3",
            ["column 14: an objective has no bound; write the bound as a goal of its own"],
        ),
        (
            "maximize iom; iofff <= 1e-9; vth >= ",
            [
                "column 10: unknown name `iom`; did you mean `ion`?",
                "column 15: unknown name `iofff`; did you mean `ioff`?",
                "column 36: expected a number, a name or `(`, not the end",
            ],
        ),
        (
            "maximize ion\nioff <= 1e-9; vht >= 0\n",
            ["line 2, column 15: unknown name `vht`; did you mean `vth`?"],
        ),
        (
            "maximize ion; vth >= 0.5; vth <= 0.3",
            [
                "column 27: `vth <= 0.3` contradicts `vth >= 0.5` in column 15; "
                "no value can meet both"
            ],
        ),
        (
            "maximize ion\n-vth <= -0.5\n2*vth - 0.6 <= 0",
            [
                "line 3, column 1: `2*vth - 0.6 <= 0` contradicts `-vth <= -0.5` in "
                "line 2, column 1; no value can meet both"
            ],
        ),
        (
            "maximize ion; vth - a >= 1; a - vth >= 1",
            [
                "column 29: `a - vth >= 1` contradicts `vth - a >= 1` in column 15; "
                "no value can meet both"
            ],
        ),
        (
            "maximize ion; log10(ioff) <= -9; log10(ioff) > -9",
            [
                "column 34: `log10(ioff) > -9` contradicts `log10(ioff) <= -9` in column 15; "
                "no value can meet both"
            ],
        ),
        ("maximize ion; vth - vth >= 1", ["column 15: `vth - vth >= 1` can never be met"]),
    ],
)
def test_wrong_goals_are_refused_all_at_once(text: str, told: list[str]) -> None:
    with pytest.raises(InvalidError) as error:
        goals_of(text)
    assert mistakes(error) == told


@pytest.mark.parametrize(
    "text",
    [
        "maximize ion; vth >= 0.3; vth <= 0.3",
        "maximize ion; vth >= 0.3; vth <= 0.5; vth <= 0.4",
        "maximize ion; vth - a >= 1; a - vth >= -2",
        "maximize ion; vth >= 0.5; a <= 0.3",
    ],
)
def test_bounds_that_leave_room_are_taken(text: str) -> None:
    assert len(goals_of(text).constraints) >= 2


@pytest.mark.parametrize("text", ["1 / (z - z) <= 0", "sqrt(z - z) >= 0", "abs(0 * z) <= 1"])
def test_names_that_cancel_out_are_no_constants_to_compute(text: str) -> None:
    goals = parse_goals(f"minimize z; {text}", responses=["z"], parameters=[])
    assert [str(each) for each in goals.constraints] == [text]
