"""Table decks: measured points are all there is; nothing between them is made up."""

from __future__ import annotations

import csv
import io
import time
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.core.errors import Violations
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.definition import Lookup, Table
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.space import Parameter, Point
from vistaflow_services.simulators.outcome import Failure, Outcome, failed, gated

Rows = dict[str, list[Any]]

_EXACT = 1e-9
"""Relative difference of numbers that are the same, but for how they are written."""


def check(deck: Deck) -> None:
    """Refuses a table without a column for each parameter and response.

    Raises:
        InvalidError: A violation for each mistake.
    """
    table = _table(deck)
    violations = Violations()
    try:
        rows = _rows(table.file, deck.files[table.file])
    except (ValueError, OSError) as error:
        violations.add("table.file", f"`{table.file}` cannot be read: {str(error)[:200]}")
        violations.check()
        raise AssertionError from None
    for index, parameter in enumerate(deck.space.parameters):
        if parameter.name not in rows:
            near = suggest(parameter.name, list(rows))
            violations.add(f"parameters[{index}].name", f"`{table.file}` has no such column{near}")
    for index, response in enumerate(deck.responses):
        if response.extract not in rows:
            near = suggest(response.extract, list(rows))
            violations.add(
                f"responses[{index}].{'measure' if response.measure else 'name'}",
                f"`{table.file}` has no column `{response.extract}`{near}",
            )
    if not violations and not len(next(iter(rows.values()))):
        violations.add("table.file", f"`{table.file}` has no rows")
    violations.check()


def compute(deck: Deck, point: Point) -> Outcome:
    """The outcome of a point: that of its row, or which row is the nearest."""
    start = time.perf_counter()
    table = _table(deck)
    rows = _rows(table.file, deck.files[table.file])
    distances = np.stack(
        [
            _distances(parameter, rows[parameter.name], point[parameter.name], table)
            for parameter in deck.space.parameters
        ]
    ).max(axis=0)
    row = int(np.argmin(distances))
    near = table.within if table.lookup is Lookup.NEAREST else _EXACT
    seconds = time.perf_counter() - start
    if not distances[row] <= near:
        nearest = ", ".join(f"{name}={rows[name][row]}" for name in deck.space.names)
        far = f"{distances[row]:.2g} of a range away"
        if not np.isfinite(distances[row]):
            nearest, far = "another choice", "not comparable"
        limit = f", more than {near:g}" if table.lookup is Lookup.NEAREST else ""
        message = f"not measured: the nearest row of `{table.file}` is {nearest}, {far}{limit}"
        return failed(point, Failure.INFEASIBLE, message, seconds)
    values = {response.extract: rows[response.extract][row] for response in deck.responses}
    return gated(point, deck.responses, values, seconds)


def _distances(
    parameter: Parameter, cells: list[Any], value: Any, table: Table
) -> NDArray[np.float64]:
    """How far the cells are from a value, as parts of the parameter's range."""
    if not parameter.is_numeric:
        same = np.array([str(cell).strip() == value for cell in cells])
        return np.where(same, 0.0, np.inf)
    numbers = np.array([_number(cell) for cell in cells])
    if parameter.choices:
        low, high = float(parameter.choices[0]), float(parameter.choices[-1])
    else:
        low, high = float(parameter.low or 0), float(parameter.high or 0)
    exact = table.lookup is Lookup.EXACT
    width = max(abs(float(value)), 1e-300) if exact else high - low
    distances: NDArray[np.float64] = np.abs(numbers - float(value)) / width
    return np.where(np.isnan(distances), np.inf, distances)


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return float("nan")


@lru_cache(maxsize=8)
def _rows(name: str, content: bytes) -> Rows:
    """The columns of a table; an empty cell is None."""
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        columns: Rows = pq.read_table(io.BytesIO(content)).to_pydict()
        return columns
    lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), skipinitialspace=True)
    rows = [row for row in lines if any(cell.strip() for cell in row)]
    if not rows:
        raise ValueError("it is empty")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise ValueError(f"row {number} has {len(row)} cells, the header {len(rows[0])}")
    return {
        heading.strip(): [row[place].strip() or None for row in rows[1:]]
        for place, heading in enumerate(rows[0])
    }


def _table(deck: Deck) -> Table:
    assert deck.table is not None
    return deck.table
