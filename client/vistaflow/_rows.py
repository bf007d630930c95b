"""Lists of results that turn into data frames, and short texts of single results."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from vistaflow.errors import MissingPackageError

if TYPE_CHECKING:
    import pandas

RowT = TypeVar("RowT")

COLUMNS: Final = "columns"
"""Metadata of a dataclass field whose mapping becomes a column for each key."""

HIDDEN: Final = frozenset({"pb", "jobs", "tasks", "seen_at"})
"""Fields without a column."""


class Rows(list[RowT]):
    """A list of results."""

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a row for each result, in order.

        Fields within fields are columns such as `job_counts.failed`; parameters and responses of
        trials are columns such as `parameters.width`.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        return frame_of(self)


class AsyncListing(AsyncIterator[RowT]):
    """Results that are fetched page by page, as they are needed.

    Args:
        source: The generator of the results.
    """

    def __init__(self, source: AsyncIterator[RowT]) -> None:
        self._source = source

    async def __anext__(self) -> RowT:
        return await anext(self._source)

    async def aclose(self) -> None:
        """Ends the iteration."""
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()

    async def to_pandas(self) -> pandas.DataFrame:
        """The remaining results as a data frame; see `Rows.to_pandas`. Bound them by `limit`."""
        check_pandas()
        return frame_of([row async for row in self])


class Listing(Iterator[RowT]):
    """Results that are fetched page by page, as they are needed.

    Args:
        source: The generator of the results.
    """

    def __init__(self, source: Iterator[RowT]) -> None:
        self._source = source

    def __next__(self) -> RowT:
        return next(self._source)

    def close(self) -> None:
        """Ends the iteration."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    def to_pandas(self) -> pandas.DataFrame:
        """The remaining results as a data frame; see `Rows.to_pandas`. Bound them by `limit`."""
        check_pandas()
        return frame_of(self)


def check_pandas() -> Any:
    """The package pandas, which is imported only when it is used.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise MissingPackageError(
            "to_pandas() needs pandas: pip install 'vistaflow[pandas]'", reason="PANDAS_MISSING"
        ) from None
    return pandas


def frame_of(values: Iterable[Any]) -> pandas.DataFrame:
    """A data frame with a row for each dataclass object or mapping.

    Raises:
        MissingPackageError: pandas is not installed.
    """
    return check_pandas().DataFrame.from_records([dict(_cells(row)) for row in values])


def short_repr(value: Any, *names: str) -> str:
    """A text of a dataclass object with some of its fields; empty ones are left out."""
    shown = ", ".join(
        f"{name}={field!r}"
        for name in names
        if (field := getattr(value, name)) not in ("", None, (), {})
    )
    return f"{type(value).__name__}({shown})"


def _cells(row: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(row, Mapping):
        for name, value in row.items():
            if dataclasses.is_dataclass(value):
                yield from _cells(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value
        return
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if field.name in HIDDEN:
            continue
        if field.metadata.get(COLUMNS) or dataclasses.is_dataclass(value):
            yield from _cells(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def python_values(column: Any) -> list[Any]:
    """The values of a column of pyarrow; times that Python does not have as text."""
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):
        return [_value(value) for value in column]
    return values


def _value(value: Any) -> Any:
    # By name: the client does not import pyarrow for those who have no tables.
    kind = type(value).__name__
    if not value.is_valid:
        return None
    if kind == "MapScalar":
        return [(_value(entry["key"]), _value(entry["value"])) for entry in value.values]
    if kind in ("ListScalar", "LargeListScalar", "FixedSizeListScalar"):
        return [_value(item) for item in value.values]
    if kind == "StructScalar":
        return {name: _value(item) for name, item in value.items()}
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        unit = "d" if kind == "Date32Scalar" else getattr(value.type, "unit", "ms")
        is_zoned = kind == "TimestampScalar" and value.type.tz
        return far_time(value.value, unit) + ("Z" if is_zoned else "")


_PLACES: Final = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_CYCLE_DAYS: Final = 146_097
"""Days of 400 years, after which the calendar repeats."""


def far_time(count: int, unit: str) -> str:
    """A date or time in ISO 8601, with a year of six digits or more.

    Args:
        count: Units since the beginning of 1970.
        unit: `d` for a date; s, ms, us or ns.
    """
    places = _PLACES.get(unit, 0)
    seconds, fraction = divmod(count, 10**places)
    days, seconds = (count, 0) if unit == "d" else divmod(seconds, 86_400)
    cycles, days = divmod(days, _CYCLE_DAYS)
    day = datetime.date(1970, 1, 1) + datetime.timedelta(days)
    text = f"{day.year + 400 * cycles:+07d}-{day:%m-%d}"
    if unit == "d":
        return text
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}T{clock}" + (f".{fraction:0{places}}" if places else "")


_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def guarded(cell: Any) -> Any:
    """A cell of CSV, with `'` in front of text that a spreadsheet would run as a formula.

    The rule is that of the tables that the services write: taking one apostrophe away always gives
    the text back.
    """
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"
