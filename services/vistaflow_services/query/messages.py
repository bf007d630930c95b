"""Jobs of queries as messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.query.v1 import query_pb2 as pb
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.registry_client import result_of
from vistaflow_services.core.results import UNREADABLE
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.query_results import PARTS
from vistaflow_services.core.work.templates import unpacked
from vistaflow_services.datasets.manifest import Column
from vistaflow_services.query.mistakes import QueryError
from vistaflow_services.query.tables.catalog import FoundTable, from_json_bytes

RESERVED: Final = "query."
"""What the keys of labels begin with that the service sets itself."""

CALLER, TEXT, REQUEST = f"{RESERVED}caller", f"{RESERVED}text", f"{RESERVED}request"
"""Labels of a query's job: whose it is, the hash of what is asked, the `request_id`."""

MOST: Final = f"{RESERVED}most_running"
"""How many queries of this caller the registry lets run at once; without it, any number."""

_FAILURE: Final = re.compile(
    r"(?P<reason>[A-Z][A-Z0-9_]*): (?:user_query: )?(?P<text>.*)", re.DOTALL
)
_PLACE: Final = re.compile(r"line (\d+), column (\d+): ")


def recorded(job: common_pb2.Job) -> pb.QuerySpec | None:
    """What is recorded of a query; None for a job that is none, such as one made by hand."""
    if job.job_type != common_pb2.JOB_TYPE_QUERY:
        return None
    request: pb.SubmitQueryRequest | None = unpacked(job.spec, pb.SubmitQueryRequest)
    if request is not None:  # of a data kit; each attempt finds its tables
        limit = request.limit if request.HasField("limit") else None
        return pb.QuerySpec(request=request, offset=request.offset, limit=limit)
    spec: pb.QuerySpec | None = unpacked(job.spec, pb.QuerySpec)
    return spec


def query_message(
    job: common_pb2.Job, artifacts: ArtifactStore, *, with_columns: bool = False
) -> pb.Query:
    """The query of a job, without its place in the queue.

    Args:
        job: A job that has a `QuerySpec`, also one that was made by hand.
        artifacts: Where its result is.
        with_columns: Whether to read the columns from the result.
    """
    spec = recorded(job) or pb.QuerySpec()
    request = spec.request
    updated = next(
        (time for time in (job.finished_at, job.started_at) if time.ToNanoseconds()), job.created_at
    )
    message = pb.Query(
        query_id=job.job_id,
        kit_id=job.kit_id,
        status=job.status,
        user_query=request.user_query,
        converted_query=spec.converted_query,
        dialect=request.dialect or pb.QUERY_DIALECT_TRINO,
        engine=request.engine or pb.QUERY_ENGINE_DUCKDB,
        parameters=request.parameters,
        offset=spec.offset,
        limit=spec.limit if spec.HasField("limit") else None,
        labels={key: value for key, value in job.labels.items() if not key.startswith(RESERVED)},
        created_at=job.created_at,
        updated_at=updated,
        sources=_sources(spec),
        rerun_of=request.rerun_of,
    )
    if job.HasField("started_at"):
        message.queue_duration.FromTimedelta(between(job.created_at, job.started_at))
    if job.status == common_pb2.STATUS_FAILED:
        message.error.CopyFrom(error_of_reason(job.reason))
        if job.HasField("started_at"):
            message.run_duration.FromTimedelta(between(job.started_at, job.finished_at))
    if job.status == common_pb2.STATUS_FINISHED:
        try:
            _add_result(message, result_of(job).result, artifacts, with_columns)
        except (*UNREADABLE, ServiceError):
            # The job was created by hand, with any result.
            message.result_removed = True
    return message


def _sources(spec: pb.QuerySpec) -> list[pb.QuerySource]:
    try:
        return [source_message(table) for table in from_json_bytes(spec.sources)]
    except ValueError:
        return []


def _add_result(
    message: pb.Query, result: Mapping[str, Any], artifacts: ArtifactStore, with_columns: bool
) -> None:
    message.result_name, message.result_path = result["result_name"], result["result_path"]
    message.row_count, message.size_bytes = result["rows"], result["bytes"]
    message.limited = result["limited"]
    message.plan_duration.FromTimedelta(timedelta(seconds=result["plan_seconds"]))
    message.run_duration.FromTimedelta(timedelta(seconds=result["run_seconds"]))
    if not message.converted_query:  # of a data kit: its tables are known since it ran
        message.converted_query = result.get("converted_query", "")
        for table in result.get("tables", ()):
            message.sources.add(name=table["name"], target=table["fqn"], version=table["version"])
    parts = artifacts.path(message.result_path) / PARTS
    message.result_removed = not parts.exists()
    if with_columns and not message.result_removed:
        columns = json.loads(parts.read_bytes())["columns"]
        message.columns.extend(pb.QueryColumn(**column) for column in columns)


def between(start: Timestamp, end: Timestamp) -> timedelta:
    """The time from one moment to another; none if the clock was set back."""
    return max(timedelta(), end.ToDatetime() - start.ToDatetime())


def source_message(table: FoundTable) -> pb.QuerySource:
    """A table that a query reads."""
    return pb.QuerySource(
        name=table.name,
        kind=table.kind,
        target=table.target,
        version=table.version,
        file_count=len(table.files),
    )


def column_messages(columns: Iterable[Column]) -> list[pb.QueryColumn]:
    """Columns of a result."""
    return [pb.QueryColumn(name=column.name, type=column.type) for column in columns]


def error_message(error: QueryError) -> pb.QueryError:
    """A mistake of a query."""
    place = error.position
    return pb.QueryError(
        message=error.problem,
        line=place.line if place else 0,
        column=place.column if place else 0,
        reason=error.reason,
    )


def error_of_reason(reason: str) -> pb.QueryError:
    """The mistake in the reason of a FAILED job."""
    match = _FAILURE.fullmatch(reason)
    text, word = (match["text"], match["reason"]) if match else (reason, "FAILED")
    message = pb.QueryError(message=text, reason=word)
    if place := _PLACE.match(text):
        message.line, message.column = int(place[1]), int(place[2])
        message.message = text[place.end() :]
    return message
