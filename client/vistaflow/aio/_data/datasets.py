"""Calls of the asynchronous client for datasets: which there are, their rows, new versions."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vistaflow._datasets import (
    DatasetFigures,
    DatasetSummary,
    DatasetVersion,
    summary_of,
    version_of,
)
from vistaflow._rows import AsyncListing, check_pandas
from vistaflow._rpc.messages import listed, message_of, page_size, set_span
from vistaflow.aio._artifacts import replacing, write_blocks
from vistaflow.aio._calls import Calls
from vistaflow.aio._data.record_batches import batch_reader, write_batches
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.errors import NotFoundError, invalid

if TYPE_CHECKING:
    import pandas
    import pyarrow

_ENCODINGS: Final = {
    "arrow": ingestion_pb2.ROW_ENCODING_ARROW,
    "csv": ingestion_pb2.ROW_ENCODING_CSV,
    "json": ingestion_pb2.ROW_ENCODING_JSON,
}
FORMATS: Final = {
    ".csv": "csv",
    ".json": "json",
    ".ndjson": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
"""What a file is written as, by the end of its name."""


class DatasetCalls(Calls):
    """The methods of a client that are for datasets."""

    def datasets(
        self, *, project: str = "", name_contains: str = "", limit: int = 0
    ) -> AsyncListing[DatasetSummary]:
        """Datasets by project and name; every page is fetched as it is needed.

        Args:
            project: Only those of it.
            name_contains: Only those whose name has this in it.
            limit: Most datasets; 0: all.
        """
        request = message_of(
            datasets_pb2.ListDatasetsRequest,
            project=project,
            name_contains=name_contains,
            page_size=page_size(limit, 1000),
        )
        pages = self._pages("datasets", "ListDatasets", request, "datasets", limit)
        return AsyncListing(summary_of(message) async for message in pages)

    async def dataset(self, dataset: str, *, table: str = "") -> AsyncDataset:
        """A version of a dataset, with its figures and methods that read its rows.

        Args:
            dataset: `NAME`, `NAME@3`, `NAME@ALIAS`, or these after `PROJECT.`.
            table: The table whose rows are read; empty for the first or only one.

        Raises:
            NotFoundError: There is no such dataset, version or table.
        """
        message_of(ingestion_pb2.DatasetRows, table=table)
        request = message_of(datasets_pb2.GetDatasetRequest, dataset=dataset)
        return AsyncDataset(self, await self._call("datasets", "GetDataset", request), table)

    def dataset_versions(self, dataset: str, *, limit: int = 0) -> AsyncListing[DatasetVersion]:
        """The versions of a dataset, newest first; every page is fetched as it is needed.

        Args:
            dataset: `NAME` or `PROJECT.NAME`.
            limit: Most versions; 0: all.
        """
        request = message_of(
            datasets_pb2.ListDatasetVersionsRequest,
            dataset=dataset,
            page_size=page_size(limit, 1000),
        )
        pages = self._pages("datasets", "ListDatasetVersions", request, "versions", limit)
        return AsyncListing(version_of(message) async for message in pages)

    def read_dataset(
        self,
        dataset: str,
        *,
        table: str = "",
        columns: Sequence[str] = (),
        filter: str = "",
        offset: int = 0,
        limit: int = 0,
        rejects: bool = False,
        encoding: str = "arrow",
        formula_guard: bool = True,
    ) -> AsyncIterator[bytes]:
        """The rows of a table as bytes, in blocks of at most 1 MiB.

        Args:
            dataset: As `dataset` takes it.
            table: The table; empty for the first or only one.
            columns: Which columns, in this order; all if empty.
            filter: An SQL expression that the rows fulfil, such as `price > 0`.
            offset: Rows to leave out first.
            limit: Most rows; 0: all.
            rejects: Whether to read the rejected rows, with the columns `_rule`, `_row`, `_value`.
            encoding: "arrow", an IPC stream, "csv" with a header, or "json", an object a line.
            formula_guard: Whether text that a spreadsheet would run as a formula gets a `'` in
                front. Of CSV only.
        """
        if not isinstance(encoding, str) or encoding not in _ENCODINGS:
            raise invalid("encoding", f"{encoding!r} is none of {', '.join(_ENCODINGS)}")
        request = message_of(
            ingestion_pb2.ReadDatasetRequest,
            dataset=dataset,
            table=table,
            columns=listed(columns, "columns"),
            filter=filter,
            offset=offset,
            limit=limit,
            rejects=rejects,
            encoding=_ENCODINGS[encoding],
            formula_guard=formula_guard,
        )
        return self._rows(request)

    async def _rows(self, request: ingestion_pb2.ReadDatasetRequest) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(self._stream("ingestion", "ReadDataset", request)) as parts:
            async for part in parts:
                if part.data:
                    yield part.data

    async def set_dataset_alias(
        self, dataset: str, alias: str, *, remove: bool = False
    ) -> DatasetSummary:
        """Has an alias name a version, which retention then never removes.

        Args:
            dataset: `NAME@3`; the latest version without a number.
            alias: The alias.
            remove: Whether to remove the alias instead.
        """
        if not isinstance(remove, bool):
            raise invalid("remove", f"is {remove!r}; give True or False")
        request = message_of(datasets_pb2.SetDatasetAliasRequest, alias=alias)
        request.dataset = split(dataset)[0]
        if not remove:
            request.version = await self._version(dataset)
        return summary_of((await self._call("datasets", "SetDatasetAlias", request)).dataset)

    async def pin_dataset(self, dataset: str, *, pinned: bool = True) -> DatasetVersion:
        """Pins a version, so that retention never removes it.

        Args:
            dataset: `NAME@3`, `NAME@ALIAS`; the latest version without it.
            pinned: Whether it is pinned from now on.
        """
        request = message_of(datasets_pb2.PinDatasetVersionRequest, pinned=pinned)
        request.dataset, request.version = split(dataset)[0], await self._version(dataset)
        return version_of((await self._call("datasets", "PinDatasetVersion", request)).version)

    async def delete_dataset(self, dataset: str) -> int:
        """Deletes a version of a dataset, or the dataset with all of them.

        Args:
            dataset: `NAME@3` or `NAME@ALIAS` for one version, `NAME` for all of it.

        Returns:
            How many versions were deleted.

        Raises:
            FailedPreconditionError: A version is pinned or has an alias.
        """
        name, version = split(dataset)
        request = datasets_pb2.DeleteDatasetRequest(dataset=name)
        if version:
            request.version = await self._version(dataset)
        return int((await self._call("datasets", "DeleteDataset", request)).version_count)

    async def update_dataset(
        self,
        dataset: str,
        *,
        quota_bytes: int | None = None,
        max_versions: int | None = None,
        max_age: timedelta | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> DatasetSummary:
        """Changes the limits, the description and the labels of a dataset; None: as it is.

        A dataset that is not there is created without versions.

        Args:
            dataset: `NAME` or `PROJECT.NAME`.
            quota_bytes: Most bytes of all versions; 0: what its project has left.
            max_versions: Most versions, the oldest go first; 0: all are kept.
            max_age: Versions older than this go; of no length: none.
            description: What it is.
            labels: Labels to set; one with an empty value is removed.
            request_id: Makes the call safe to repeat: a UUID.
        """
        request = message_of(
            datasets_pb2.UpdateDatasetRequest,
            dataset=dataset,
            request_id=request_id,
            description=description,
            labels=labels or {},
        )
        numbers = {"quota_bytes": quota_bytes, "max_versions": max_versions}
        changes: dict[str, Any] = {
            name: number for name, number in numbers.items() if number is not None
        }
        limits = message_of(datasets_pb2.DatasetLimits, **changes)
        set_span(limits.max_age, max_age, "max_age")
        if changes or max_age is not None:
            # The service takes all limits at once.
            with contextlib.suppress(NotFoundError):
                former = datasets_pb2.GetDatasetRequest(dataset=dataset)
                answer = await self._call("datasets", "GetDataset", former)
                request.limits.CopyFrom(answer.dataset.limits)
            for name, number in changes.items():
                setattr(request.limits, name, number)
            if max_age is not None:
                request.limits.ClearField("max_age")
            if max_age:
                request.limits.max_age.CopyFrom(limits.max_age)
        return summary_of((await self._call("datasets", "UpdateDataset", request)).dataset)

    async def _version(self, dataset: str) -> int:
        """The number of the version that `NAME@3`, `NAME@ALIAS` or `NAME` names."""
        _, version = split(dataset)
        if version.isdecimal():
            return int(version)
        request = datasets_pb2.GetDatasetRequest(dataset=dataset)
        return int((await self._call("datasets", "GetDataset", request)).version.version)


class AsyncDataset(DatasetFigures):
    """A version of a dataset, seen as one of its tables; `Client.dataset` makes it.

    Its methods take `columns`, `filter`, `offset` and `limit` as `read_dataset` does. It is an
    asynchronous iterator over the record batches of the table, too.
    """

    def __init__(
        self,
        calls: DatasetCalls,
        answer: datasets_pb2.GetDatasetResponse,
        table: str = "",
        *,
        rejects: bool = False,
    ) -> None:
        super().__init__(answer, table, rejects=rejects)
        self._calls = calls

    def table(self, name: str) -> AsyncDataset:
        """The same version, seen as another of its tables."""
        return AsyncDataset(self._calls, self.pb, name, rejects=self.is_rejects)

    @property
    def rejects(self) -> AsyncDataset:
        """The rejected rows of the table, with the columns `_rule`, `_row` and `_value`."""
        return AsyncDataset(self._calls, self.pb, self.table_name, rejects=True)

    def versions(self) -> AsyncListing[DatasetVersion]:
        """The versions of the dataset, newest first."""
        return self._calls.dataset_versions(split(self.name)[0])

    async def batches(self, **selection: Any) -> AsyncIterator[pyarrow.RecordBatch]:
        """The rows of the table as record batches of Arrow.

        Raises:
            MissingPackageError: pyarrow is not installed.
        """
        async with self.reader(**selection) as reader:
            while (batch := await asyncio.to_thread(next, reader, None)) is not None:
                yield batch

    def __aiter__(self) -> AsyncIterator[pyarrow.RecordBatch]:
        return self.batches()

    async def to_arrow(self, **selection: Any) -> pyarrow.Table:
        """The rows of the table as a table of Arrow, which has to fit into memory.

        Raises:
            MissingPackageError: pyarrow is not installed.
        """
        async with self.reader(**selection) as reader:
            return await asyncio.to_thread(reader.read_all)

    async def to_pandas(self, **selection: Any) -> pandas.DataFrame:
        """The rows of the table as a data frame, which has to fit into memory.

        Raises:
            MissingPackageError: pandas or pyarrow is not installed.
        """
        check_pandas()
        return (await self.to_arrow(**selection)).to_pandas()

    async def download(
        self, path: str | os.PathLike[str], format: str = "", **selection: Any
    ) -> Path:
        """Writes the rows of the table to a file of this machine.

        The file appears once it is complete; one that is there is replaced.

        Args:
            path: The file.
            format: "csv", "json" (an object a line), "parquet" or "arrow" (an IPC file); by the
                end of the file's name if empty.
            selection: As `read_dataset` takes it.

        Returns:
            The path of the file.

        Raises:
            InvalidArgumentError: The path cannot be written, or its end is none of those above.
            MissingPackageError: pyarrow is not installed; CSV and JSON do not need it.
        """
        if not isinstance(path, str | os.PathLike):
            raise invalid("path", f"{path!r} is no path")
        target = Path(path)
        kind = format or FORMATS.get(target.suffix.lower(), "")
        if kind not in FORMATS.values():
            raise invalid(
                "format", f"{kind or target.suffix!r} is none of csv, json, parquet, arrow"
            )
        async with replacing(target) as temporary:
            if kind in ("csv", "json"):
                await write_blocks(self.blocks(kind, **selection), temporary)
            else:
                async with self.reader(**selection) as reader:
                    await asyncio.to_thread(write_batches, reader, kind, temporary)
        return target

    def blocks(self, encoding: str, **selection: Any) -> AsyncGenerator[bytes, None]:
        """The rows of the table as bytes: "arrow", "csv" or "json"; see `read_dataset`."""
        own: dict[str, Any] = {"table": self.table_name, "rejects": self.is_rejects}
        blocks: Any = self._calls.read_dataset(self.name, encoding=encoding, **own, **selection)
        return blocks  # type: ignore[no-any-return]

    def reader(self, **selection: Any) -> AbstractAsyncContextManager[pyarrow.RecordBatchReader]:
        """A reader of the record batches of the table, for threads, while a block runs."""
        return batch_reader(self.blocks("arrow", **selection))


def split(dataset: str) -> tuple[str, str]:
    """The name of a dataset, and what follows its `@`: a version or an alias."""
    if not isinstance(dataset, str):
        raise invalid("dataset", f"{dataset!r} is no name")
    name, _, version = dataset.partition("@")
    return name, version
