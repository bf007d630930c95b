"""The named analytic functions as a simulator: in this process, many points at once."""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.core.errors import Violations
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators.functions import FUNCTIONS, NamedFunction
from vistaflow_services.simulators.outcome import Outcome, gated

VERSION: Final = "1"
"""Raised when a function's values change: points stored before are then computed again."""


def check(deck: Deck) -> NamedFunction:
    """The deck's function, if its parameters and responses fit.

    Parameters are matched by name, or, if they are as many but named otherwise, by position; a
    single response may have any name if the function returns only one.

    Raises:
        InvalidError: A violation for each mistake.
    """
    violations = Violations()
    function = FUNCTIONS.get(deck.function)
    if function is None:
        near = difflib.get_close_matches(deck.function, FUNCTIONS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(sorted(FUNCTIONS))}"
        violations.add("function", f"no function is named `{deck.function}`; {hint}")
        violations.check()
        raise AssertionError
    names = deck.space.names
    if not set(function.inputs) <= set(names) and len(names) != len(function.inputs):
        violations.add("parameters", f"`{function.name}` takes {', '.join(function.inputs)}")
    for index, parameter in enumerate(deck.space.parameters):
        if not parameter.is_numeric:
            violations.add(f"parameters[{index}].type", f"`{function.name}` takes numbers only")
    single = len(deck.responses) == len(function.outputs) == 1
    for index, response in enumerate(deck.responses):
        if response.extract not in function.outputs and not single:
            outputs = ", ".join(function.outputs)
            violations.add(
                f"responses[{index}].name",
                f"`{function.name}` returns {outputs}; use `measure` to rename",
            )
    violations.check()
    return function


def compute(deck: Deck, points: Sequence[Point]) -> list[Outcome]:
    """The outcomes of many points, in their order."""
    function = check(deck)
    start = time.perf_counter()
    columns = _columns(deck, function, points)
    with np.errstate(all="ignore"):
        returned = dict(function.compute(*columns))
    if len(deck.responses) == 1 and len(returned) == 1:
        returned = {deck.responses[0].extract: next(iter(returned.values()))}
    values = {response.name: returned[response.extract] for response in deck.responses}
    good = np.ones(len(points), dtype=bool)
    for response in deck.responses:
        column = values[response.name]
        good &= np.isfinite(column)
        good &= column >= (-np.inf if response.low is None else response.low)
        good &= column <= (np.inf if response.high is None else response.high)
    names = deck.response_names
    rows = zip(*(values[name].tolist() for name in names), strict=True)
    seconds = (time.perf_counter() - start) / max(1, len(points))
    outcomes: list[Outcome] = []
    for point, row, fine in zip(points, rows, good.tolist(), strict=True):
        if fine:
            responses = dict(zip(names, row, strict=True))
            outcomes.append(Outcome(point=point, responses=responses, seconds=seconds))
        else:
            values_of_point = dict(
                zip((response.extract for response in deck.responses), row, strict=True)
            )
            outcomes.append(gated(point, deck.responses, values_of_point, seconds))
    return outcomes


def _columns(
    deck: Deck, function: NamedFunction, points: Sequence[Point]
) -> list[NDArray[np.float64]]:
    names: Sequence[str] = function.inputs
    if not set(names) <= set(deck.space.names):
        names = deck.space.names
    rows: list[list[Any]] = [[point[name] for name in names] for point in points]
    return list(np.array(rows, dtype=np.float64).reshape(len(points), len(names)).T)
