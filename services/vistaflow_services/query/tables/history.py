"""`state.log` and `state.jobs`: the registry's log and jobs as tables.

They are read by the registry's calls, so with the caller's rights, up to one revision, which is
their version. Conditions of the query on `kit_id` and `created_at` are passed on.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.timestamp_pb2 import Timestamp
from sqlglot import exp

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core import files
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import ExhaustedError
from vistaflow_services.core.registry_client import (
    RegistryClient,
    job_type_word,
    status_word,
    struct_to_dict,
)
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.query.tables.conditions import conditions_of

MAX_ROWS: Final = 1_000_000
"""Most rows of such a table."""

MAX_SECONDS: Final = 15.0
"""Longest time of a copy: less than callers wait for an answer."""

MAX_KITS: Final = 1_000
"""Most kits that the registry is asked for by their ids."""

PAGE_ROWS: Final = 5_000
KEPT_SECONDS: Final = 2 * 86_400
"""How long the files stay: longer than a query may wait."""

ANY_ZONE: Final = timedelta(days=1)
"""How far a time of a query may be from the one it means, as its zone depends on the session."""

_TIME: Final = pa.timestamp("us", tz="UTC")

LOG: Final = pa.schema(
    [
        ("revision", pa.int64()),
        ("kit_id", pa.int32()),
        ("job_id", pa.string()),
        ("job_type", pa.string()),
        ("task_name", pa.string()),
        ("status", pa.string()),
        ("current_order", pa.int32()),
        ("attempt", pa.int32()),
        ("created_at", _TIME),
        ("metadata", pa.string()),
        ("actor", pa.string()),
        ("reason", pa.string()),
    ]
)
JOBS: Final = pa.schema(
    [
        ("kit_id", pa.int32()),
        ("job_id", pa.string()),
        ("name", pa.string()),
        ("job_type", pa.string()),
        ("status", pa.string()),
        ("attempt", pa.int32()),
        ("created_at", _TIME),
        ("started_at", _TIME),
        ("finished_at", _TIME),
        ("worker", pa.string()),
        ("actor", pa.string()),
        ("reason", pa.string()),
        ("labels", pa.map_(pa.string(), pa.string())),
        ("result", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Which rows the query needs at most."""

    kit_ids: tuple[int, ...] = ()
    """Only these kits; any if empty."""

    after: datetime | None = None
    """Only rows recorded then or later."""

    before: datetime | None = None
    """Only rows recorded before."""


@dataclass(frozen=True, kw_only=True)
class Copied:
    """A table, copied to a file of the artifact store."""

    path: Path
    revision: int
    """Up to which it is complete."""

    rows: int


def bounds_of(tree: exp.Query, parts: Sequence[str]) -> Bounds:
    """What the conditions of a query say of the table that it calls by these names."""
    kit_ids: tuple[int, ...] = ()
    after = before = None
    for condition in conditions_of(tree, parts):
        is_equal = condition.operator is operator.eq
        if condition.column == "kit_id" and is_equal and not kit_ids:
            if all(value.isdecimal() for value in condition.values):
                kit_ids = tuple(sorted({int(value) for value in condition.values}))
        elif condition.column == "created_at" and (moment := _moment(condition.values[0])):
            if condition.operator in (operator.gt, operator.ge):
                after = moment - ANY_ZONE
            elif condition.operator in (operator.lt, operator.le):
                before = moment + ANY_ZONE
    return Bounds(kit_ids=kit_ids if len(kit_ids) <= MAX_KITS else (), after=after, before=before)


def _moment(text: str) -> datetime | None:
    """The time of a literal, whose zone may be another one."""
    try:
        moment = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


async def copy_log(registry: RegistryClient, artifacts: ArtifactStore, bounds: Bounds) -> Copied:
    """Copies the rows of the log that the caller sees.

    Raises:
        ExhaustedError: There are more than `MAX_ROWS`, or the copy takes longer than `MAX_SECONDS`.
    """
    if bounds == Bounds() and not callers.current().project:
        # All of it is the caller's, so its size is known before a row is read.
        info = await registry.server_info()
        if info.revision - max(0, info.oldest_revision - 1) > MAX_ROWS:
            raise _too_many("log")
    filters = registry_pb2.StateFilter()
    filters.kit_ids.extend(bounds.kit_ids)
    if bounds.after is not None:
        filters.recorded_after.FromDatetime(bounds.after)
    if bounds.before is not None:
        filters.recorded_before.FromDatetime(bounds.before)
    request = registry_pb2.ListStatesRequest(page_size=PAGE_ROWS, filter=filters)

    async def pages() -> AsyncIterator[tuple[int, list[Any]]]:
        while True:
            page = await registry.call(registry.stub.ListStates, request)
            yield page.revision, [_state_row(state) for state in page.states]
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return

    return await _copied(pages(), LOG, artifacts, "log")


async def copy_jobs(registry: RegistryClient, artifacts: ArtifactStore, bounds: Bounds) -> Copied:
    """Copies the jobs that the caller sees.

    Raises:
        ExhaustedError: There are more than `MAX_ROWS`, or the copy takes longer than `MAX_SECONDS`.
    """

    async def pages() -> AsyncIterator[tuple[int, list[Any]]]:
        token = ""
        while True:
            page = await registry.list_jobs(
                kit_ids=bounds.kit_ids, page_size=1000, page_token=token
            )
            yield page.revision, [_job_row(job) for job in page.jobs]
            token = page.next_page_token
            if not token:
                return

    return await _copied(pages(), JOBS, artifacts, "jobs")


async def _copied(
    pages: AsyncIterator[tuple[int, list[Any]]],
    schema: pa.Schema,
    artifacts: ArtifactStore,
    name: str,
) -> Copied:
    folder = artifacts.root / "states"
    folder.mkdir(exist_ok=True)
    _remove_old(folder)
    temporary = folder / f".{os.urandom(8).hex()}.parquet"
    revision = rows = 0
    give_up = time.monotonic() + MAX_SECONDS
    digest = hashlib.sha256()
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            async for page_revision, page in pages:
                # Later pages may know more of the log: what is complete is what the first knew.
                revision = revision or page_revision
                if name == "log":
                    page = [row for row in page if row["revision"] <= revision]
                rows += len(page)
                if rows > MAX_ROWS or time.monotonic() > give_up:
                    raise _too_many(name)
                batch = pa.RecordBatch.from_pylist(page, schema=schema)
                digest.update(repr(page).encode())
                writer.write_batch(batch)
        path = folder / f"{name}-{digest.hexdigest()[:40]}.parquet"
        files.sync(temporary)
        os.replace(temporary, path)
        files.sync(folder)
    finally:
        temporary.unlink(missing_ok=True)
    return Copied(path=path, revision=revision, rows=rows)


def _too_many(name: str) -> ExhaustedError:
    advice = "kit_id, such as kit_id = 7"
    if name == "log":
        advice += ", or on created_at from a time on, such as created_at >= timestamp '2026-11-01'"
    return ExhaustedError(
        f"user_query: state.{name} has more than {MAX_ROWS:,} rows, or more than can be read in "
        f"{MAX_SECONDS:g} s; add a condition on {advice}",
        reason="TOO_MANY_ROWS",
    )


def _remove_old(folder: Path) -> None:
    oldest = time.time() - KEPT_SECONDS
    for entry in os.scandir(folder):
        if entry.stat().st_mtime < oldest:
            Path(entry.path).unlink(missing_ok=True)


def _state_row(state: common_pb2.State) -> dict[str, Any]:
    return {
        "revision": state.revision,
        "kit_id": state.kit_id,
        "job_id": state.job_id,
        "job_type": job_type_word(state.job_type) if state.job_type else "KIT",
        "task_name": state.task_name,
        "status": status_word(state.status),
        "current_order": state.current_order,
        "attempt": state.attempt,
        "created_at": _time(state.created_at),
        "metadata": _json(state.metadata) if state.HasField("metadata") else None,
        "actor": state.actor,
        "reason": state.reason,
    }


def _job_row(job: common_pb2.Job) -> dict[str, Any]:
    return {
        "kit_id": job.kit_id,
        "job_id": job.job_id,
        "name": job.name,
        "job_type": job_type_word(job.job_type),
        "status": status_word(job.status),
        "attempt": job.attempt,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at) if job.HasField("started_at") else None,
        "finished_at": _time(job.finished_at) if job.HasField("finished_at") else None,
        "worker": job.worker,
        "actor": job.actor,
        "reason": job.reason,
        "labels": list(job.labels.items()),
        "result": _json(job.result) if job.HasField("result") else None,
    }


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def _json(struct: Any) -> str:
    return json.dumps(struct_to_dict(struct), ensure_ascii=False)


COPIES: Final[dict[str, Callable[..., Any]]] = {"log": copy_log, "jobs": copy_jobs}
"""What copies each table."""
