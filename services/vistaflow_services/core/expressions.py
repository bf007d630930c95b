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

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.core.errors import FieldViolation, InvalidError

Value = float | NDArray[Any]
"""What a formula takes for a name, and what it returns."""

MAX_TEXT: Final = 4096
"""Longest text, in characters, that is parsed."""

MAX_DEPTH: Final = 64
"""Deepest nesting of parentheses, signs, calls and powers."""

MAX_TERMS: Final = 200
"""Most numbers and names in one formula; bounds the height of the tree."""

FUNCTIONS: Final[Mapping[str, Callable[..., Value]]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
    "min": np.minimum,
    "max": np.maximum,
}
"""The functions a formula may call; `log` is the natural one, `min` and `max` take two or more."""

_OPERATORS: Final[Mapping[str, Callable[[Any, Any], Value]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "**": np.float_power,
}

Operator = Literal["<=", ">=", "<", ">"]
Direction = Literal["minimize", "maximize"]

_DIRECTIONS: Final[Mapping[str, Direction]] = {
    "minimize": "minimize",
    "minimise": "minimize",
    "maximize": "maximize",
    "maximise": "maximize",
}

_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<mark>\*\*|<=|>=|==|!=|[-+*/(),<>=^%])"
    r"|(?P<space>\s+)"
)
_COMPARISONS: Final = ("<=", ">=", "<", ">")
_PRECEDENCE: Final = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True)
class _Number:
    value: float


@dataclass(frozen=True)
class _Name:
    name: str


@dataclass(frozen=True)
class _Call:
    """An operator or a function over its arguments; `neg` is the unary minus."""

    name: str
    arguments: tuple[_Node, ...]


_Node = _Number | _Name | _Call


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A formula over named values; made by `parse_expression`."""

    text: str
    """The formula as it was written."""

    names: frozenset[str]
    """The names it reads."""

    root: _Node
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
            result = _evaluate(self.root, values)
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
        of_objectives = (each.expression.names for each in self.objectives)
        return frozenset().union(*of_objectives, *(each.names for each in self.constraints))

    def __str__(self) -> str:
        return "; ".join(str(each) for each in (*self.objectives, *self.constraints))


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
        InvalidError: One violation for each goal that is wrong, with its column in the whole
            text; or that nothing is to be optimised; or which two bounds contradict each other.
    """
    names = [*responses, *parameters]
    objectives: list[Objective] = []
    constraints: list[tuple[int, Constraint]] = []
    mistakes: list[str] = []
    if len(text) > MAX_TEXT:
        raise _invalid(f"the goals have {len(text)} characters, at most {MAX_TEXT} are read")
    for column, goal in _split(text):
        try:
            parser = _Parser(goal, names, offset=column)
            direction = parser.direction()
            if direction is None:
                constraints.append((column + 1, parser.constraint()))
            else:
                objectives.append(Objective(direction=direction, expression=parser.objective()))
            parser.end()
        except InvalidError as error:
            mistakes += [each.description for each in error.violations]
    if not objectives and not mistakes:
        mistakes.append("nothing to optimise: begin with `minimize` or `maximize` and a response")
    mistakes += _contradictions(constraints)
    if mistakes:
        raise _invalid(*mistakes)
    return Goals(objectives=tuple(objectives), constraints=tuple(each for _, each in constraints))


def suggest(name: str, known: Collection[str]) -> str:
    """A clause that names the nearest of `known`, or all of them when they are few."""
    lowered = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    if near:
        return f"; did you mean `{lowered[near[0]]}`?"
    if known and len(known) <= 12:
        return f"; known are {', '.join(f'`{each}`' for each in sorted(known))}"
    return ""


def _invalid(*mistakes: str) -> InvalidError:
    violations = [FieldViolation(field="", description=each) for each in mistakes]
    return InvalidError("; ".join(mistakes), violations=violations)


def _split(text: str) -> Iterator[tuple[int, str]]:
    """Each non-empty goal with the offset at which its text begins."""
    for match in re.finditer(r"[^;\n]+", text):
        goal = match.group()
        if goal.strip():
            yield match.start() + len(goal) - len(goal.lstrip()), goal.strip()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


class _Parser:
    """Precedence climbing over one text; columns are told from the start of the whole text."""

    def __init__(self, text: str, names: Collection[str], *, offset: int = 0) -> None:
        if len(text) > MAX_TEXT:
            raise _invalid(f"the text has {len(text)} characters, at most {MAX_TEXT} are read")
        self._text = text
        self._names = names
        self._offset = offset
        self._depth = 0
        self._terms = 0
        self._tokens = list(self._scan())
        self._at = 0

    def direction(self) -> Direction | None:
        """Takes the leading `minimize` or `maximize`, if there is one."""
        token, after = self._tokens[0], self._tokens[min(1, len(self._tokens) - 1)]
        if token.kind != "name" or token.text in self._names:
            return None
        if after.kind not in ("name", "number") and after.text not in ("(", "-", "+", ""):
            return None
        if token.text.lower() in _DIRECTIONS:
            self._at += 1
            return _DIRECTIONS[token.text.lower()]
        if after.kind in ("name", "number"):
            raise self._wrong(
                token, f"unknown goal `{token.text}`{suggest(token.text, ['minimize', 'maximize'])}"
            )
        return None

    def objective(self) -> Expression:
        start = self._tokens[self._at]
        expression = self.expression()
        if self._next().text in (*_COMPARISONS, "=", "=="):
            raise self._wrong(
                self._next(), "an objective has no bound; write the bound as a goal of its own"
            )
        if not expression.names:
            raise self._wrong(start, "the objective is a constant; name a response")
        return expression

    def constraint(self) -> Constraint:
        start = self._next()
        left = self.expression()
        token = self._next()
        if token.text in ("=", "==", "!="):
            raise self._wrong(
                token, "only <=, >=, < and > are known; for equality write two bounds around it"
            )
        if token.text not in _COMPARISONS:
            raise self._wrong(token, f"expected <=, >=, < or >, not {_told(token)}")
        self._at += 1
        right = self.expression()
        if self._next().text in _COMPARISONS:
            raise self._wrong(
                self._next(), "a constraint has one comparison; write two constraints"
            )
        constraint = Constraint(left=left, op=token.text, right=right)  # type: ignore[arg-type]
        if not constraint.names:
            raise self._wrong(start, "the constraint compares two constants; name something in it")
        return constraint

    def expression(self) -> Expression:
        first = self._at
        self._terms = 0
        root = self._sum(0)
        text = self._text[self._tokens[first].start : self._tokens[self._at - 1].end]
        return Expression(text=text, names=frozenset(_names(root)), root=root)

    def end(self) -> None:
        token = self._next()
        if token.kind != "end":
            raise self._wrong(token, f"expected an operator or the end, not {_told(token)}")

    def _scan(self) -> Iterator[_Token]:
        at = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                bad = _Token("", self._text[at], at, at + 1)
                raise self._wrong(bad, f"{_told(bad)} is not part of the language")
            kind = match.lastgroup or ""
            if match.group() in ("^", "%"):
                hint = "write ** for powers" if match.group() == "^" else "there is no remainder"
                raise self._wrong(
                    _Token(kind, match.group(), at, at + 1),
                    f"`{match.group()}` is not part of the language; {hint}",
                )
            if kind != "space":
                yield _Token(kind, match.group(), at, match.end())
            at = match.end()
        yield _Token("end", "", len(self._text), len(self._text))

    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _wrong(self, token: _Token, problem: str) -> InvalidError:
        return _invalid(f"column {self._offset + token.start + 1}: {problem}")

    def _sum(self, least: int) -> _Node:
        left = self._unary()
        while _PRECEDENCE.get(self._next().text, 0) > least:
            operator = self._take().text
            left = _Call(operator, (left, self._sum(_PRECEDENCE[operator])))
        return left

    def _unary(self) -> _Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(self._next(), f"nested deeper than {MAX_DEPTH} levels")
        try:
            if self._next().text == "-":
                self._take()
                return _Call("neg", (self._unary(),))
            if self._next().text == "+":
                self._take()
                return self._unary()
            base = self._atom()
            if self._next().text == "**":
                self._take()
                # To the right first, and tighter than a sign on its left: -2**2 is -4.
                return _Call("**", (base, self._unary()))
            return base
        finally:
            self._depth -= 1

    def _atom(self) -> _Node:
        token = self._next()
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise self._wrong(token, f"more than {MAX_TERMS} numbers and names")
        if token.kind == "number":
            value = float(self._take().text)
            if not math.isfinite(value):
                raise self._wrong(token, f"{token.text} is too large a number")
            if self._next().kind == "name" and self._next().start == token.end:
                raise self._wrong(
                    token,
                    f"`{token.text}{self._next().text}` is no number; write 1e-9 rather than 1n, "
                    "and * for products",
                )
            return _Number(value)
        if token.kind == "name":
            self._take()
            return self._call(token) if self._next().text == "(" else self._name(token)
        if token.text == "(":
            self._take()
            inside = self._sum(0)
            self._close(token)
            return inside
        raise self._wrong(token, f"expected a number, a name or `(`, not {_told(token)}")

    def _name(self, token: _Token) -> _Node:
        if token.text in self._names:
            return _Name(token.text)
        if token.text in FUNCTIONS:
            raise self._wrong(token, f"`{token.text}` is a function; write `{token.text}(...)`")
        near = suggest(token.text, self._names)
        raise self._wrong(token, f"unknown name `{token.text}`{near}")

    def _call(self, token: _Token) -> _Node:
        if token.text not in FUNCTIONS:
            near = suggest(token.text, FUNCTIONS)
            raise self._wrong(token, f"unknown function `{token.text}`{near}")
        opened = self._take()
        arguments = [self._sum(0)]
        while self._next().text == ",":
            self._take()
            arguments.append(self._sum(0))
        self._close(opened)
        several = token.text in ("min", "max")
        if several != (len(arguments) > 1):
            wants = "two or more values" if several else "one value"
            raise self._wrong(token, f"`{token.text}` takes {wants}, not {len(arguments)}")
        return _Call(token.text, tuple(arguments))

    def _close(self, opened: _Token) -> None:
        token = self._next()
        if token.text != ")":
            column = self._offset + opened.start + 1
            raise self._wrong(
                token, f"expected `)` for the `(` in column {column}, not {_told(token)}"
            )
        self._at += 1


def _told(token: _Token) -> str:
    return "the end" if token.kind == "end" else f"`{token.text}`"


def _names(node: _Node) -> Iterator[str]:
    if isinstance(node, _Name):
        yield node.name
    elif isinstance(node, _Call):
        for each in node.arguments:
            yield from _names(each)


def _evaluate(node: _Node, values: Mapping[str, Any]) -> Any:
    if isinstance(node, _Number):
        return np.float64(node.value)
    if isinstance(node, _Name):
        return np.asarray(values[node.name], dtype=np.float64)
    arguments = [_evaluate(each, values) for each in node.arguments]
    if node.name == "neg":
        return np.negative(arguments[0])
    function = _OPERATORS.get(node.name) or FUNCTIONS[node.name]
    result = function(*arguments[:2])
    for each in arguments[2:]:
        result = function(result, each)
    return result


_Terms = dict[_Node | None, float]
"""A sum of nodes with their factors; the constant is under None."""


def _terms(node: _Node) -> _Terms:
    """The node as a weighted sum of nodes that are not sums themselves."""
    if isinstance(node, _Number):
        return {None: node.value}
    if isinstance(node, _Call):
        parts = [_terms(each) for each in node.arguments]
        if node.name == "neg":
            return _scaled(parts[0], -1.0)
        if node.name in ("+", "-"):
            return _added(parts[0], _scaled(parts[1], 1.0 if node.name == "+" else -1.0))
        if node.name == "*" and set(parts[0]) <= {None}:
            return _scaled(parts[1], parts[0].get(None, 0.0))
        if node.name in ("*", "/") and set(parts[1]) <= {None}:
            factor = parts[1].get(None, 0.0)
            if node.name == "*":
                return _scaled(parts[0], factor)
            if factor:
                return _scaled(parts[0], 1.0 / factor)
        if all(set(each) <= {None} for each in parts):
            with np.errstate(all="ignore"):
                return {None: float(_evaluate(node, {}))}
    return {node: 1.0}


def _scaled(terms: _Terms, factor: float) -> _Terms:
    return {each: factor * weight for each, weight in terms.items()}


def _added(left: _Terms, right: _Terms) -> _Terms:
    total = dict(left)
    for each, weight in right.items():
        total[each] = total.get(each, 0.0) + weight
    return {each: weight for each, weight in total.items() if each is None or weight}


@dataclass
class _Bounds:
    """The tightest bounds so far on one weighted sum, each with where it was written."""

    low: float = -math.inf
    low_at: tuple[int, Constraint] | None = None
    high: float = math.inf
    high_at: tuple[int, Constraint] | None = None


def _contradictions(constraints: Sequence[tuple[int, Constraint]]) -> list[str]:
    """Pairs of bounds on the same weighted sum that no value can meet."""
    found: dict[frozenset[tuple[_Node | None, float]], _Bounds] = {}
    told: list[str] = []
    for column, constraint in constraints:
        sign = 1.0 if constraint.op.startswith("<") else -1.0
        sides = _terms(constraint.left.root), _scaled(_terms(constraint.right.root), -1.0)
        terms = _scaled(_added(*sides), sign)
        offset = terms.pop(None, 0.0)
        if not terms:
            if not offset <= 0:
                told.append(f"column {column}: `{constraint}` can never be met")
            continue
        # The smallest node in text order leads, so that x - y and y - x meet in one entry.
        lead = terms[min(terms, key=repr)]
        key = frozenset((each, round(weight / lead, 12)) for each, weight in terms.items())
        bounds = found.setdefault(key, _Bounds())
        bound = -offset / lead
        if lead > 0 and bound < bounds.high:
            bounds.high, bounds.high_at = bound, (column, constraint)
        if lead < 0 and bound > bounds.low:
            bounds.low, bounds.low_at = bound, (column, constraint)
    for bounds in found.values():
        low, high = bounds.low_at, bounds.high_at
        if low is None or high is None:
            continue
        strict = not (low[1].op.endswith("=") and high[1].op.endswith("="))
        if bounds.low > bounds.high or (strict and bounds.low == bounds.high):
            (first, one), (second, other) = sorted([low, high], key=lambda each: each[0])
            told.append(
                f"column {second}: `{other}` contradicts `{one}` in column {first}; "
                "no value can meet both"
            )
    return told
