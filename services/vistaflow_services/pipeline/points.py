"""Rows of a table as points of a deck: measurements, and runs made elsewhere.

A column has the name of a parameter or a response, alone or after `x.` and `y.` as exported tables
have it. Other columns are not looked at. Numbers and choices may be texts, as in CSV. A row with a
text in the column `failure` is no point.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vistaflow.api.doe.v1 import doe_pb2
from vistaflow_services.core.errors import FieldViolation, InvalidError
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.parameter import Choice, Parameter

MAX_ROWS: Final = 10_000
"""Most points of a table."""

MAX_MISTAKES: Final = 20
"""Mistakes of a table that are reported at once."""

_MISSING: Final = (None, "")


@dataclass(kw_only=True)
class Points:
    """The points of a table, and what is wrong with it."""

    table: doe_pb2.PointTable = field(default_factory=doe_pb2.PointTable)
    count: int = 0
    mistakes: list[tuple[int, str, str]] = field(default_factory=list)
    """The row, from 1, and 0 for the whole table; the column; the problem."""


def read_points(rows: Iterable[Mapping[str, Any]], deck: Deck, origin: str) -> Points:
    """The points of a table.

    Args:
        rows: Its rows, each with all columns.
        deck: What they are points of.
        origin: Where they come from.
    """
    points = Points(table=doe_pb2.PointTable(origin=origin))
    names = {**dict.fromkeys(deck.space.names, "x."), **dict.fromkeys(deck.response_names, "y.")}
    columns: dict[str, list[Choice]] = {name: [] for name in names}
    keys: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if number == 1:
            for name, prefix in names.items():
                keys[name] = next((key for key in (name, prefix + name) if key in row), "")
                if not keys[name]:
                    near = suggest(name, [str(key) for key in row])
                    points.mistakes.append((0, name, f"there is no such column{near}"))
        if points.mistakes and points.mistakes[0][0] == 0:
            return points
        if row.get("failure") not in _MISSING:
            continue
        points.count += 1
        if points.count > MAX_ROWS:
            points.mistakes.append((0, "", f"has more than {MAX_ROWS:,} points"))
            return points
        for name, key in keys.items():
            parameter = deck.space[name] if names[name] == "x." else None
            value, problem = _value(row.get(key), parameter)
            columns[name].append(value)
            if problem:
                points.mistakes.append((number, key, problem))
        if len(points.mistakes) >= MAX_MISTAKES:
            return points
    if not points.count:
        points.mistakes.append((0, "", "has no points"))
    for name, values in columns.items():
        column = points.table.columns.add(name=name)
        if any(isinstance(value, str) for value in values):
            column.texts.extend(map(str, values))
        else:
            column.numbers.extend(map(float, values))
    return points


def csv_rows(content: bytes, file_name: str) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header.

    Raises:
        InvalidError: It is none.
    """
    try:
        text = content.decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        problem = f"is no CSV in UTF-8 with a header: {error}"
        violation = FieldViolation(field=file_name, description=problem)
        raise InvalidError(f"{file_name} {problem}", violations=[violation]) from None


def _value(value: Any, parameter: Parameter | None) -> tuple[Choice, str]:
    """A cell as the deck has it, and what is wrong with it."""
    if value in _MISSING:
        return 0, "is empty; give each point a value of each parameter and response"
    number = _number(value)
    if parameter is None:
        return (number, "") if number is not None else (0, f"`{value}` is no finite number")
    canonical, problem = parameter.canonical(value if parameter.choices else number)
    if problem and parameter.choices and number is not None:
        canonical, again = parameter.canonical(number)
        problem = again and problem
    if canonical is None or problem:
        return 0, problem if number is not None or parameter.choices else f"`{value}` is no number"
    return canonical, ""


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
