"""Formulas as trees: parsed by hand, evaluated over numbers or arrays.

Nothing is ever handed to Python's own evaluator; what a formula can do is what the few node types
here can. `expressions.py` is what the rest of the suite uses.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from vistaflow_services.core.errors import FieldViolation, InvalidError

MAX_TEXT: Final = 4096
"""Longest text, in characters, that is parsed."""

MAX_DEPTH: Final = 64
"""Deepest nesting of parentheses, signs, calls and powers."""

MAX_TERMS: Final = 200
"""Most numbers and names in one formula; bounds the height of the tree."""

FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
    "min": np.minimum,
    "max": np.maximum,
}
"""The functions a formula may call; `log` is the natural one, `min` and `max` take two or more."""

_OPERATORS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "**": np.float_power,
}

_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<mark>\*\*|<=|>=|==|!=|[-+*/(),<>=^%])"
    r"|(?P<space>\s+)",
    re.ASCII,
)

_PRECEDENCE: Final = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True)
class Number:
    """A constant."""

    value: float


@dataclass(frozen=True)
class Name:
    """A name whose value is given later."""

    name: str


@dataclass(frozen=True)
class Call:
    """An operator or a function over its arguments; `neg` is the unary minus."""

    name: str
    arguments: tuple[Node, ...]


Node = Number | Name | Call


@dataclass(frozen=True)
class Token:
    """A word of the text and the offsets where it begins and ends."""

    kind: str
    text: str
    start: int
    end: int


class FormulaParser:
    """Precedence climbing over one text, with the place of every mistake."""

    def __init__(
        self, text: str, names: Collection[str], *, line: int = 0, offset: int = 0
    ) -> None:
        """Splits the text.

        Args:
            text: What is parsed.
            names: The names that it may read.
            line: The line of a longer text that it is in; messages name it unless it is 0.
            offset: How many characters of that line come before it.
        """
        if len(text) > MAX_TEXT:
            raise invalid(f"the text has {len(text)} characters, at most {MAX_TEXT} are read")
        self._text = text
        self._names = names
        self._line = line
        self._offset = offset
        self._depth = 0
        self._terms = 0
        self._tokens = list(self._scan())
        self._position = 0

    def formula(self) -> tuple[str, Node]:
        """Takes a formula: its text and its tree."""
        first = self._position
        self._terms = 0
        root = self._sum(0)
        return self._text[self._tokens[first].start : self._tokens[self._position - 1].end], root

    def end(self) -> None:
        """Refuses what is left over."""
        token = self.next()
        if token.kind != "end":
            raise self.wrong(token, f"expected an operator or the end, not {describe(token)}")

    def _scan(self) -> Iterator[Token]:
        position = 0
        while position < len(self._text):
            match = _TOKEN.match(self._text, position)
            if match is None:
                bad = Token("", self._text[position], position, position + 1)
                raise self.wrong(bad, f"{describe(bad)} is not part of the language")
            kind = match.lastgroup or ""
            if match.group() in ("^", "%"):
                hint = "write ** for powers" if match.group() == "^" else "there is no remainder"
                raise self.wrong(
                    Token(kind, match.group(), position, position + 1),
                    f"`{match.group()}` is not part of the language; {hint}",
                )
            if kind != "space":
                yield Token(kind, match.group(), position, match.end())
            position = match.end()
        yield Token("end", "", len(self._text), len(self._text))

    def next(self) -> Token:
        """The token that comes next."""
        return self._tokens[self._position]

    def take(self) -> Token:
        """Takes it."""
        token = self._tokens[self._position]
        self._position += 1
        return token

    def wrong(self, token: Token, problem: str) -> InvalidError:
        """The error for a mistake at a token."""
        return invalid(f"{self.where(token)}: {problem}")

    def where(self, token: Token) -> str:
        """How a message speaks of a token's place."""
        column = f"column {self._offset + token.start + 1}"
        return f"line {self._line}, {column}" if self._line else column

    def _sum(self, least: int) -> Node:
        left = self._unary()
        while _PRECEDENCE.get(self.next().text, 0) > least:
            operator = self.take().text
            left = Call(operator, (left, self._sum(_PRECEDENCE[operator])))
        return left

    def _unary(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self.wrong(self.next(), f"nested deeper than {MAX_DEPTH} levels")
        try:
            if self.next().text == "-":
                self.take()
                return Call("neg", (self._unary(),))
            if self.next().text == "+":
                self.take()
                return self._unary()
            base = self._atom()
            if self.next().text == "**":
                self.take()
                # To the right first, and tighter than a sign on its left: -2**2 is -4.
                return Call("**", (base, self._unary()))
            return base
        finally:
            self._depth -= 1

    def _atom(self) -> Node:
        token = self.next()
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise self.wrong(token, f"more than {MAX_TERMS} numbers and names")
        if token.kind == "number":
            value = float(self.take().text)
            if not math.isfinite(value):
                raise self.wrong(token, f"{token.text} is too large a number")
            if self.next().kind == "name" and self.next().start == token.end:
                raise self.wrong(
                    token,
                    f"`{token.text}{self.next().text}` is no number; write 1e-9 rather than 1n, "
                    "and * for products",
                )
            return Number(value)
        if token.kind == "name":
            self.take()
            return self._call(token) if self.next().text == "(" else self._name(token)
        if token.text == "(":
            self.take()
            inside = self._sum(0)
            self._close(token)
            return inside
        raise self.wrong(token, f"expected a number, a name or `(`, not {describe(token)}")

    def _name(self, token: Token) -> Node:
        if token.text in self._names:
            return Name(token.text)
        if token.text in FUNCTIONS:
            raise self.wrong(token, f"`{token.text}` is a function; write `{token.text}(...)`")
        near = suggest(token.text, self._names)
        raise self.wrong(token, f"unknown name `{token.text}`{near}")

    def _call(self, token: Token) -> Node:
        if token.text not in FUNCTIONS:
            near = suggest(token.text, FUNCTIONS)
            raise self.wrong(token, f"unknown function `{token.text}`{near}")
        opened = self.take()
        arguments = [self._sum(0)]
        while self.next().text == ",":
            self.take()
            arguments.append(self._sum(0))
        self._close(opened)
        several = token.text in ("min", "max")
        if several != (len(arguments) > 1):
            wants = "two or more values" if several else "one value"
            raise self.wrong(token, f"`{token.text}` takes {wants}, not {len(arguments)}")
        return Call(token.text, tuple(arguments))

    def _close(self, opened: Token) -> None:
        token = self.next()
        if token.text != ")":
            raise self.wrong(
                token, f"expected `)` for the `(` in {self.where(opened)}, not {describe(token)}"
            )
        self._position += 1


def names_in(node: Node) -> Iterator[str]:
    """The names that a tree reads, each as often as it does."""
    if isinstance(node, Name):
        yield node.name
    elif isinstance(node, Call):
        for argument in node.arguments:
            yield from names_in(argument)


def evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    """A tree's value over numbers or arrays; numpy's warnings are the caller's to silence."""
    if isinstance(node, Number):
        return np.float64(node.value)
    if isinstance(node, Name):
        return np.asarray(values[node.name], dtype=np.float64)
    arguments = [evaluate(argument, values) for argument in node.arguments]
    if node.name == "neg":
        return np.negative(arguments[0])
    function = _OPERATORS.get(node.name) or FUNCTIONS[node.name]
    result = function(*arguments[:2])
    for argument in arguments[2:]:
        result = function(result, argument)
    return result


Terms = dict[Node | None, float]
"""A sum of nodes with their factors; the constant is under None."""


def weighted_terms(node: Node) -> Terms:
    """The node as a weighted sum of nodes that are not sums themselves."""
    if isinstance(node, Number):
        return {None: node.value}
    if isinstance(node, Call):
        parts = [weighted_terms(argument) for argument in node.arguments]
        if node.name == "neg":
            return scaled(parts[0], -1.0)
        if node.name in ("+", "-"):
            return added(parts[0], scaled(parts[1], 1.0 if node.name == "+" else -1.0))
        if node.name == "*" and set(parts[0]) <= {None}:
            return scaled(parts[1], parts[0].get(None, 0.0))
        if node.name in ("*", "/") and set(parts[1]) <= {None}:
            factor = parts[1].get(None, 0.0)
            if node.name == "*":
                return scaled(parts[0], factor)
            if factor:
                return scaled(parts[0], 1.0 / factor)
        if next(names_in(node), None) is None:
            with np.errstate(all="ignore"):
                return {None: float(evaluate(node, {}))}
    return {node: 1.0}


def scaled(terms: Terms, factor: float) -> Terms:
    """A weighted sum times a number."""
    return {node: factor * weight for node, weight in terms.items()}


def added(left: Terms, right: Terms) -> Terms:
    """The sum of two weighted sums, without what cancels."""
    total = dict(left)
    for node, weight in right.items():
        total[node] = total.get(node, 0.0) + weight
    return {node: weight for node, weight in total.items() if node is None or weight}


def suggest(name: str, words: Collection[str]) -> str:
    """A clause that names the nearest of `words`, or all of them when they are few."""
    lowered = {word.lower(): word for word in words}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    if near:
        return f"; did you mean `{lowered[near[0]]}`?"
    if words and len(words) <= 12:
        return f"; known are {', '.join(f'`{word}`' for word in sorted(words))}"
    return ""


def invalid(*mistakes: str) -> InvalidError:
    """One error for several mistakes in a text; the caller, who knows the text's field, adds it."""
    violations = [FieldViolation(field="", description=mistake) for mistake in mistakes]
    return InvalidError("; ".join(mistakes), violations=violations)


def describe(token: Token) -> str:
    """How a message speaks of a token."""
    return "the end" if token.kind == "end" else f"`{token.text}`"
