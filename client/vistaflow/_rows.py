"""Lists of results that turn into data frames, and short texts of single results."""

from __future__ import annotations

import dataclasses
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
