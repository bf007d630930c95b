"""Answers of engines in a form in which they can be compared, and kept in a file."""

from __future__ import annotations

import datetime
import json
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vistaflow_services.query.engines.contract import Result

HERE = Path(__file__).parent
SELECTS = HERE / "selects.sql"
ANSWERS = HERE / "selects.json"


def selects() -> dict[str, str]:
    """The queries of the file, each with why its answer differs by nature, or with ""."""
    lines = SELECTS.read_text("utf-8").splitlines()
    queries = (line.partition(" -- differs: ") for line in lines if line[:2] not in ("", "--"))
    return {text.strip(): reason for text, _, reason in queries}


def recorded() -> dict[str, Any]:
    """What Trino answered, by query."""
    answers: dict[str, Any] = json.loads(ANSWERS.read_text("utf-8"))
    return answers


def rows_of(result: Result, sql: str) -> list[Any]:
    """The rows of a result, in order if the query has one."""
    return plain_table(pq.read_table([part.path for part in result.parts]), sql)


def plain_table(table: pa.Table, sql: str) -> list[Any]:
    """Rows as JSON has them."""
    columns = [column.to_pylist() for column in table.columns]
    result = [[plain(value) for value in row] for row in zip(*columns, strict=True)]
    ordered = re.search(r"\border by [^()]*$", sql)
    return result if ordered else sorted(result, key=json.dumps)


def plain(value: Any) -> Any:
    """A value as JSON has it; equal numbers are equal, whatever their type."""
    match value:
        case None | bool() | str():
            return value
        case float():
            return f"{value:.12g}" if math.isfinite(value) else str(value)
        case int() | Decimal():
            return f"{Decimal(value).normalize():f}"
        case bytes():
            return value.hex()
        case datetime.datetime() if value.tzinfo:
            return value.astimezone(datetime.UTC).isoformat()
        case datetime.date() | datetime.time():
            return value.isoformat()
        case dict():
            return [plain(item) for item in value.values()]
        case list() | tuple():
            items = [plain(item) for item in value]
            # Maps come as lists of pairs, in any order.
            pairs = value and all(isinstance(item, tuple) for item in value)
            return sorted(items, key=json.dumps) if pairs else items
    return str(value)
