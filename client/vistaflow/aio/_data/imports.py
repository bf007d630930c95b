"""Calls of the asynchronous client that make versions of datasets: imports, erasure."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from vistaflow._datasets import DatasetFigures
from vistaflow._rpc.messages import listed, message_of, set_span
from vistaflow.aio._data.import_specs import (
    Rules,
    files_message,
    is_uuid,
    key_text,
    number_of_word,
    table_message,
)
from vistaflow.aio._data.record_batches import check_arrow, write_batches
from vistaflow.aio._data.uploads import SCHEME, FileSource, UploadCalls
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.errors import invalid
from vistaflow.models import Job, job_of

_TABLES_OF_JOBS: Final = {
    common_pb2.JOB_TYPE_CONVERT: "conversion",
    common_pb2.JOB_TYPE_DOE: "design",
    common_pb2.JOB_TYPE_QUERY: "query",
    common_pb2.JOB_TYPE_COLLECT: "collection",
}
"""The field of a source for the tables of a job, by the job's type."""

_STREAM: Final = "__arrow_c_stream__"
"""By which data frames and tables of Arrow are known."""


class ImportCalls(UploadCalls):
    """The methods of a client that make versions of datasets."""

    async def import_dataset(
        self,
        dataset: str,
        source: Any = None,
        *,
        primary_key: str | Sequence[str] = (),
        dedupe: str | Mapping[str, Any] | None = None,
        rules: Rules = (),
        types: Mapping[str, str] | None = None,
        tables: Sequence[Mapping[str, Any]] = (),
        alias: str = "",
        profile: bool = True,
        request_id: str = "",
        on_upload: Callable[[str, int, int], None] | None = None,
    ) -> Job:
        """Starts making a version of a dataset; returns at once.

        A source is one of these:

            files of this machine, or names in data roots, such as `raw/x.csv`, or several; files
            that the service does not see are sent to it; `./x.csv` and a `Path` are always here
            a data frame, or any table of Arrow: it is sent as Parquet
            a conversion, a design or a query: the job or its id; a conversion has all its tables
            an `AsyncDataset` or a `Dataset`
            a mapping: `{"files": …, "delimiter": ";"}` with the other fields of `RowFiles`,
            `{"job": …, "table": …}` or `{"dataset": "whisky@3", "table": …}`

        Args:
            dataset: Its name; it is made if it is not there.
            source: Where the rows come from.
            primary_key: The columns that name a row.
            dedupe: Which row of a key stays: "first", "newest:COLUMN" or "best:EXPRESSION", or a
                mapping with the fields of `Dedupe`. The first one if left out.
            rules: What every accepted row fulfils: expressions such as "price > 0", or mappings
                such as `{"column": "age", "minimum": 18}`; in a list, or by their names.
            types: Types of columns instead of those found, such as `{"price": "DECIMAL(18,2)"}`.
            tables: Instead of a source: mappings with `name`, `source`, `primary_key`, `dedupe`,
                `rules`, `types` and `references`, such as `["user_id -> user.id"]`.
            alias: A name for the new version.
            profile: Whether to compute the figures of the columns.
            request_id: Makes the call safe to repeat: a UUID.
            on_upload: Called with a file's name, the bytes of it that were sent, and its size.

        Returns:
            The job. Once it is finished, `dataset(name)` is what it made.
        """
        if not isinstance(profile, bool):
            raise invalid("profile", f"is {profile!r}; give True or False")
        if on_upload is not None and not callable(on_upload):
            raise invalid("on_upload", f"{on_upload!r} cannot be called")
        spec = message_of(
            ingestion_pb2.ImportSpec, dataset=dataset, alias=alias, skip_profile=not profile
        )
        request = message_of(ingestion_pb2.ImportDatasetRequest, request_id=request_id)
        options = {"primary_key": primary_key, "dedupe": dedupe, "rules": rules, "types": types}
        entries = [
            (f"tables[{index}].", entry) for index, entry in enumerate(listed(tables, "tables"))
        ]
        for path, entry in entries:
            if not isinstance(entry, Mapping):
                raise invalid(path[:-1], f"{entry!r} is no mapping with the keys of a table")
        if not entries:
            entries = [("", {"source": source, **options})]
        elif source is not None or any(options.values()):
            raise invalid("tables", "are given beside a source or its options; put those into them")
        files = await self._put_tables(spec, entries)
        first = spec.tables[0].source
        if not tables and first.HasField("conversion") and isinstance(source, str | Job):
            if any(options.values()):
                hint = '{"job": …, "table": …}, or --from-table in the command'
                raise invalid("source", f"is a whole conversion; name one table of it: {hint}")
            spec.conversion = first.conversion.job_id
            del spec.tables[:]

        def request_of(names: list[str]) -> ingestion_pb2.ImportDatasetRequest:
            places = iter(names)
            for table in spec.tables:
                if table.source.HasField("files"):
                    count = len(table.source.files.file_names)
                    table.source.files.file_names[:] = itertools.islice(places, count)
            request.spec.CopyFrom(spec)
            return request

        answer = await self._call_with_files("ImportDataset", files, request_of, on_upload)
        return job_of(answer.job)

    async def _put_tables(
        self, spec: ingestion_pb2.ImportSpec, entries: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> dict[str, FileSource]:
        """Puts tables into a spec; their files by the fields for their names.

        Args:
            spec: The spec.
            entries: What the caller says of each table, with its place for mistakes.
        """
        spec.tables.extend(table_message(entry, path) for path, entry in entries)
        files: dict[str, FileSource] = {}
        for index, (table, (path, entry)) in enumerate(zip(spec.tables, entries, strict=True)):
            source, names = await self._source(entry.get("source"), f"{path}source")
            table.source.CopyFrom(source)
            field = f"spec.tables[{index}].source.files.file_names"
            files |= {f"{field}[{place}]": name for place, name in enumerate(names)}
        return files

    async def _source(
        self, source: Any, path: str
    ) -> tuple[ingestion_pb2.RowSource, list[FileSource]]:
        """A source as a message, and its files as the caller named them."""
        if isinstance(source, DatasetFigures):
            source = {"dataset": source.name, "table": source.table_name}
        elif isinstance(source, Job) or (isinstance(source, str) and is_uuid(source)):
            source = {"job": source}
        elif not isinstance(source, Mapping):
            source = {"files": source}
        rest = dict(source)
        if "files" in rest:
            files = rest.pop("files")
            entries = list(files) if isinstance(files, list | tuple) else [files]
            for entry in entries:
                if not (isinstance(entry, str | os.PathLike) or hasattr(entry, _STREAM)):
                    raise invalid(path, f"{entry!r} is no file, table, job or dataset")
            message = files_message(["" for _ in entries], rest, path)
            names = [
                await self._send_table(entry, path) if hasattr(entry, _STREAM) else entry
                for entry in entries
            ]
            return ingestion_pb2.RowSource(files=message), names
        table = rest.pop("table", "")
        if set(rest) == {"job"}:
            return await self._source_of_job(rest["job"], table, path), []
        if set(rest) == {"dataset"}:
            rows = message_of(ingestion_pb2.DatasetRows, dataset=rest["dataset"], table=table)
            return ingestion_pb2.RowSource(dataset=rows), []
        raise invalid(path, "has none of `files`, `job` and `dataset`, or keys that do not fit it")

    async def _source_of_job(self, job: Any, table: Any, path: str) -> ingestion_pb2.RowSource:
        job_id = job.job_id if isinstance(job, Job) else job
        rows = message_of(ingestion_pb2.JobTable, job_id=job_id, table=table)
        request = message_of(registry_pb2.GetJobRequest, job_id=job_id, page_size=1)
        job = job_of((await self._call("registry", "GetJob", request)).job)
        field = _TABLES_OF_JOBS.get(job.pb.job_type)
        if field is None:
            raise invalid(path, f"job {job_id} is of type {job.job_type}, which makes no table")
        message = ingestion_pb2.RowSource()
        getattr(message, field).CopyFrom(rows)
        return message

    async def _send_table(self, table: Any, path: str) -> str:
        """Sends a data frame or a table of Arrow as Parquet; its name for the service."""
        arrow = check_arrow()
        with tempfile.TemporaryDirectory(prefix="vistaflow-") as folder:
            file = Path(folder) / "table.parquet"
            try:
                reader = arrow.RecordBatchReader.from_stream(table)
                await asyncio.to_thread(write_batches, reader, "parquet", file)
            except (arrow.ArrowException, OSError) as error:
                raise invalid(path, f"cannot be written as Parquet: {error}") from None
            return SCHEME + await self.upload(file)

    async def deliver_dataset(
        self,
        dataset: str,
        *,
        alias: str = "final",
        require: Mapping[str, str] | None = None,
        output: str = "",
        format: str = "",
        request_id: str = "",
    ) -> Job:
        """Starts delivering a version of a dataset; returns at once.

        Args:
            dataset: `NAME`, `NAME@3` or `NAME@ALIAS`.
            alias: What names the version once it is delivered.
            require: What it must fulfil, or nothing changes: `accepted`, `rejected`,
                `rejected_share` or `bytes`, and a comparison such as ">= 100".
            output: A folder of a data root for its tables, such as `out/whisky`, or a URL below a
                root's; empty: they are not written.
            format: The files to write: `csv`, `parquet` or `both`; `csv` if empty.
            request_id: Makes the call safe to repeat: a UUID.

        Returns:
            The job. Once it is finished, its result says which version was delivered.
        """
        spec = message_of(
            ingestion_pb2.DeliverSpec,
            dataset=dataset,
            alias=alias,
            require=require or {},
            output=output,
        )
        if format:
            number = number_of_word(ingestion_pb2.TableFormat, "TABLE_FORMAT_", format, "format")
            spec.format = ingestion_pb2.TableFormat.ValueType(number)
        request = message_of(ingestion_pb2.DeliverDatasetRequest, request_id=request_id, spec=spec)
        return job_of((await self._call("ingestion", "DeliverDataset", request)).job)

    async def forget_records(
        self,
        dataset: str,
        keys: Sequence[Any],
        *,
        table: str = "",
        columns: str | Sequence[str] = (),
        purge_after: timedelta | None = None,
        request_id: str = "",
    ) -> Job:
        """Starts making a version without the rows of some keys; returns at once.

        The rows go from tables that refer to them and from the rejected rows, too. Older versions
        that hold such rows are deleted, pinned ones too, and their files purged after a time.

        Args:
            dataset: Its name.
            keys: At most 10,000; each a value, or a list with one for each column.
            table: The table that the keys are of; empty for the first or only one.
            columns: The columns of the keys; empty: the primary key.
            purge_after: How long the files of older versions stay; None: as the service is set.
            request_id: Makes the call safe to repeat: a UUID.
        """
        request = message_of(
            ingestion_pb2.ForgetRecordsRequest,
            request_id=request_id,
            dataset=dataset,
            table=table,
            columns=[columns] if isinstance(columns, str) else listed(columns, "columns"),
        )
        for key in listed(keys, "keys"):
            values = key if isinstance(key, list | tuple) else [key]
            request.keys.add(values=[key_text(value, "keys") for value in values])
        set_span(request.purge_after, purge_after, "purge_after")
        return job_of((await self._call("ingestion", "ForgetRecords", request)).job)
