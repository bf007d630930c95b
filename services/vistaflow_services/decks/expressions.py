"""The small language of formulas, constraints and goals that users write.

    formula     numbers, names, + - * / **, unary minus, parentheses,
                abs sqrt exp log log10 min max
    constraint  formula <= formula, also >=, <, >
    goals       "maximize ion; ioff <= 1e-9; vth >= 0.3"

The text is parsed by hand and evaluated over a tree of a few node types: nothing is
ever handed to Python's own evaluator. Formulas take numbers or numpy arrays. Every
mistake is an `InvalidError` that names the column, counted from 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.formulas import (
    FUNCTIONS,
    MAX_TEXT,
    FormulaParser,
    Node,
    Terms,
    added,
    describe,
    evaluate,
    invalid,
    names_in,
    scaled,
    suggest,
    weighted_terms,
)

__all__ = [
    "FUNCTIONS",
    "MAX_TEXT",
    "RESERVED",
    "Constraint",
    "Expression",
    "Goals",
    "Objective",
    "parse_constraint",
    "parse_expression",
    "parse_goals",
    "suggest",
]

RESERVED: Final = frozenset((*FUNCTIONS, "minimize", "minimise", "maximize", "maximise"))
"""Words of the language, which nothing may be named."""

Operator = Literal["<=", ">=", "<", ">"]
Direction = Literal["minimize", "maximize"]

_DIRECTIONS: Final[Mapping[str, Direction]] = {
    "minimize": "minimize",
    "minimise": "minimize",
    "maximize": "maximize",
    "maximise": "maximize",
}

_COMPARISONS: Final = ("<=", ">=", "<", ">")


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A formula over named values; made by `parse_expression`."""

    text: str
    """The formula as it was written."""

    names: frozenset[str]
    """The names it reads."""

    root: Node
    """The parsed tree."""

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """The formula's value, elementwise over arrays.

        Args:
            values: A number or an array for each of `names`; more are ignored.

        Returns:
            A float when all values are numbers, else an array of their common shape. Where the
            formula is undefined (a root of a negative number, a division by zero) it is nan or
            infinite, never an exception.
        """
        with np.errstate(all="ignore"):
            result = evaluate(self.root, values)
        return result if isinstance(result, np.ndarray) and result.ndim else float(result)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One inequality between two formulas; made by `parse_constraint`."""

    left: Expression
    op: Operator
    right: Expression

    @property
    def names(self) -> frozenset[str]:
        """The names that either side reads."""
        return self.left.names | self.right.names

    def violation(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """By how much the constraint is broken, in the units of its sides.

        Args:
            values: A number or an array for each of `names`.

        Returns:
            An array of the values' shape: at most 0 where the constraint is met, positive where
            it is broken, infinite where a side is undefined.
        """
        left = np.asarray(self.left.evaluate(values), dtype=np.float64)
        right = np.asarray(self.right.evaluate(values), dtype=np.float64)
        with np.errstate(all="ignore"):
            excess = left - right if self.op.startswith("<") else right - left
        return np.where(np.isnan(excess), np.inf, excess)

    def met(self, values: Mapping[str, Any]) -> NDArray[np.bool_]:
        """Whether the constraint holds, elementwise; it does not where a side is undefined."""
        excess = self.violation(values)
        return np.asarray(excess <= 0 if self.op.endswith("=") else excess < 0)

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right}"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A formula to make as small or as large as the constraints allow."""

    direction: Direction
    expression: Expression

    @property
    def sign(self) -> float:
        """The factor that turns the objective into one to minimise."""
        return 1.0 if self.direction == "minimize" else -1.0

    def __str__(self) -> str:
        return f"{self.direction} {self.expression}"


@dataclass(frozen=True, kw_only=True)
class Goals:
    """What an optimisation is after."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]

    @property
    def names(self) -> frozenset[str]:
        """Every name that an objective or a constraint reads."""
        of_objectives = (objective.expression.names for objective in self.objectives)
        return frozenset().union(
            *of_objectives, *(constraint.names for constraint in self.constraints)
        )

    def __str__(self) -> str:
        return "; ".join(str(goal) for goal in (*self.objectives, *self.constraints))


def parse_expression(text: str, names: Collection[str]) -> Expression:
    """Parses a formula.

    Args:
        text: Such as `2 * w1 + max(w3, w5)`.
        names: The names that the formula may read.

    Raises:
        InvalidError: What is wrong and in which column.
    """
    parser = _Parser(text, names)
    expression = parser.expression()
    parser.end()
    return expression


def parse_constraint(text: str, names: Collection[str]) -> Constraint:
    """Parses one inequality.

    Args:
        text: Such as `ioff <= 1e-9`.
        names: The names that it may read.

    Raises:
        InvalidError: What is wrong and in which column.
    """
    parser = _Parser(text, names)
    constraint = parser.constraint()
    parser.end()
    return constraint


def parse_goals(text: str, *, responses: Sequence[str], parameters: Sequence[str]) -> Goals:
    """Parses objectives and constraints, separated by semicolons or line ends.

    Args:
        text: Such as `maximize ion; ioff <= 1e-9; vth >= 0.3`.
        responses: The names that the simulator returns.
        parameters: The names of the numeric parameters.

    Raises:
        InvalidError: One violation for each goal that is wrong, with its line and column;
            or that nothing is to be optimised; or which two bounds contradict each other.
    """
    names = [*responses, *parameters]
    objectives: list[Objective] = []
    constraints: list[tuple[str, Constraint]] = []
    mistakes: list[str] = []
    if len(text) > MAX_TEXT:
        raise invalid(f"the goals have {len(text)} characters, at most {MAX_TEXT} are read")
    for line, offset, goal in _split(text):
        try:
            parser = _Parser(goal, names, line=line, offset=offset)
            place = parser.where(parser.next())
            direction = parser.direction()
            if direction is None:
                constraints.append((place, parser.constraint()))
            else:
                objectives.append(Objective(direction=direction, expression=parser.objective()))
            parser.end()
        except InvalidError as error:
            mistakes += [violation.description for violation in error.violations]
    if not objectives and not mistakes:
        mistakes.append("nothing to optimise: begin with `minimize` or `maximize` and a response")
    mistakes += _contradictions(constraints)
    if mistakes:
        raise invalid(*mistakes)
    return Goals(
        objectives=tuple(objectives), constraints=tuple(constraint for _, constraint in constraints)
    )


def _split(text: str) -> Iterator[tuple[int, int, str]]:
    """Each goal with its line, 0 if there is but one, and how much of the line comes before it."""
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        for match in re.finditer(r"[^;]+", line):
            goal = match.group()
            if goal.strip():
                before = match.start() + len(goal) - len(goal.lstrip())
                yield number if len(lines) > 1 else 0, before, goal.strip()


class _Parser(FormulaParser):
    """Adds comparisons and objectives to formulas."""

    def direction(self) -> Direction | None:
        """Takes the leading `minimize` or `maximize`, if there is one."""
        token, after = self._tokens[0], self._tokens[min(1, len(self._tokens) - 1)]
        if token.kind != "name" or token.text in self._names:
            return None
        if after.kind not in ("name", "number") and after.text not in ("(", "-", "+", ""):
            return None
        if token.text.lower() in _DIRECTIONS:
            self._position += 1
            return _DIRECTIONS[token.text.lower()]
        if after.kind in ("name", "number"):
            raise self.wrong(
                token, f"unknown goal `{token.text}`{suggest(token.text, ['minimize', 'maximize'])}"
            )
        return None

    def objective(self) -> Expression:
        start = self._tokens[self._position]
        expression = self.expression()
        if self.next().text in (*_COMPARISONS, "=", "=="):
            raise self.wrong(
                self.next(), "an objective has no bound; write the bound as a goal of its own"
            )
        if not expression.names:
            raise self.wrong(start, "the objective is a constant; name a response")
        return expression

    def constraint(self) -> Constraint:
        start = self.next()
        left = self.expression()
        token = self.next()
        if token.text in ("=", "==", "!="):
            raise self.wrong(
                token, "only <=, >=, < and > are known; for equality write two bounds around it"
            )
        if token.text not in _COMPARISONS:
            raise self.wrong(token, f"expected <=, >=, < or >, not {describe(token)}")
        self._position += 1
        right = self.expression()
        if self.next().text in _COMPARISONS:
            raise self.wrong(self.next(), "a constraint has one comparison; write two constraints")
        constraint = Constraint(left=left, op=token.text, right=right)  # type: ignore[arg-type]
        if not constraint.names:
            raise self.wrong(start, "the constraint compares two constants; name something in it")
        return constraint

    def expression(self) -> Expression:
        text, root = self.formula()
        return Expression(text=text, names=frozenset(names_in(root)), root=root)


_Sum = frozenset[tuple["Node | None", float]]
"""A weighted sum of nodes up to a factor: each node with its weight over the leading weight."""


@dataclass
class _Bounds:
    """The tightest bounds so far on one weighted sum, each with where it was written."""

    low: float = -math.inf
    low_at: tuple[str, Constraint] | None = None
    high: float = math.inf
    high_at: tuple[str, Constraint] | None = None

    def clash(self) -> tuple[tuple[str, Constraint], tuple[str, Constraint]] | None:
        """The lower and the upper bound, if no value lies between them."""
        if self.low_at is None or self.high_at is None:
            return None
        strict = not (self.low_at[1].op.endswith("=") and self.high_at[1].op.endswith("="))
        if self.low > self.high or (strict and self.low == self.high):
            return self.low_at, self.high_at
        return None


def _contradictions(constraints: Sequence[tuple[str, Constraint]]) -> list[str]:
    """Pairs of bounds on the same weighted sum that no value can meet."""
    by_sum: dict[_Sum, _Bounds] = {}
    problems: list[str] = []
    for place, constraint in constraints:
        terms, offset = _at_most_zero(constraint)
        if not terms:
            if not (offset < 0 or (offset == 0 and constraint.op.endswith("="))):
                problems.append(f"{place}: `{constraint}` can never be met")
            continue
        # The smallest node in text order leads, so that x - y and y - x meet in one entry.
        lead = terms[min(terms, key=repr)]
        # Rounded, so that 0.1 * x and x / 10 are one sum.
        key = frozenset((node, round(weight / lead, 12)) for node, weight in terms.items())
        bounds = by_sum.setdefault(key, _Bounds())
        # lead * sum + offset <= 0 bounds the sum from above, or from below where lead < 0.
        bound = -offset / lead
        if lead > 0 and bound < bounds.high:
            bounds.high, bounds.high_at = bound, (place, constraint)
        if lead < 0 and bound > bounds.low:
            bounds.low, bounds.low_at = bound, (place, constraint)
    for bounds in by_sum.values():
        if clash := bounds.clash():
            (first, one), (second, other) = sorted(clash, key=constraints.index)
            problems.append(
                f"{second}: `{other}` contradicts `{one}` in {first}; no value can meet both"
            )
    return problems


def _at_most_zero(constraint: Constraint) -> tuple[Terms, float]:
    """A constraint as `terms + offset <= 0` (or < 0): the weights of its nodes, and the offset."""
    sides = (
        weighted_terms(constraint.left.root),
        scaled(weighted_terms(constraint.right.root), -1.0),
    )
    terms = scaled(added(*sides), 1.0 if constraint.op.startswith("<") else -1.0)
    offset = terms.pop(None, 0.0)
    return terms, offset
