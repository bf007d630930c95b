"""Reads of what a kit was, and of what a filter of jobs wants."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from vistaflow_services.core import off_loop
from vistaflow_services.core.errors import ExpiredError, NotFoundError
from vistaflow_services.registry.domain import Head, Job, JobFilter, Kit, StateRow
from vistaflow_services.registry.history import Incomplete, Moment, kit_at
from vistaflow_services.registry.reading import (
    ROWS_AT_ONCE,
    Connection,
    fetch,
    read_head,
    to_job,
)
from vistaflow_services.registry.watch_store import Row, to_kit, to_row


async def read_moment(
    connection: Connection, kit_id: int, revision: int, head: Head | None = None
) -> Moment | None:
    """A kit as it was at a revision; None if it was not there then.

    Jobs come without specs and results, and rows without metadata: a large kit has very much of
    those. Whoever sends some of them reads these; see `tree_pages` and `read_rows`.

    Raises:
        NotFoundError: There is no such kit.
        ExpiredError: The revision is not in the log.
    """
    head = head or await read_head(connection)
    check_kept(revision, head)
    kits = await fetch(connection, "kits_by_id", {"kit_ids": [kit_id]})
    if not kits:
        raise NotFoundError(f"there is no kit {kit_id}")
    kit: Kit = to_kit(kits[0])
    for row in await fetch(connection, "jobs_of_kit_in_short", {"kit_id": kit_id}):
        job = to_job(row)
        kit.jobs[job.job_id] = job
    wanted = {"kit_id": kit_id, "revision": revision}
    own = await fetch(connection, "own_rows_until", wanted)
    tasks = await fetch(connection, "task_rows_until", wanted)
    try:
        if len(own) + len(tasks) > ROWS_AT_ONCE:
            return await off_loop.reading.do(_moment, kit, revision, own, tasks)
        return _moment(kit, revision, own, tasks)
    except Incomplete as error:
        raise ExpiredError(
            f"what kit {kit_id} was at revision {revision} is no longer kept",
            reason="REVISION_EXPIRED",
            metadata={"oldest_revision": str(head.oldest_id)},
        ) from error


def _moment(kit: Kit, revision: int, own: Sequence[Row], tasks: Sequence[Row]) -> Moment | None:
    return kit_at(kit, revision, map(to_row, own), [to_row(row) for row in tasks])


async def read_rows(connection: Connection, ids: Sequence[int], limit: int) -> dict[int, StateRow]:
    """Rows of the log by their revisions: the first of those asked for, about so many bytes."""
    rows = await fetch(connection, "rows_by_id", {"ids": list(ids), "bytes": limit})
    return {row[0]: to_row(row) for row in rows}


async def read_revision_at(connection: Connection, time: datetime, head: Head) -> int:
    """The last revision recorded by a time.

    Raises:
        ExpiredError: The log does not keep, or does not know yet, what was then.
    """
    ((revision, past),) = await fetch(connection, "revision_at", {"time": time})
    if not past:
        raise ExpiredError(
            "the time is beyond the clock of the database: what will be is not known",
            reason="BEYOND_HEAD",
            metadata={"head_revision": str(head.last_id)},
        )
    if revision < head.oldest_id and head.oldest_id > 1:
        raise _expired(head)
    return int(revision)


def check_kept(revision: int, head: Head) -> None:
    """Raises `ExpiredError` if a revision is beyond the head or no longer kept."""
    if revision > head.last_id:
        raise ExpiredError(
            f"revision {revision} is beyond the head of the log, {head.last_id}",
            reason="BEYOND_HEAD",
            metadata={"head_revision": str(head.last_id)},
        )
    if revision < head.oldest_id and head.oldest_id > 1:
        raise _expired(head)


async def count_jobs(connection: Connection, wanted: JobFilter) -> int:
    """How many jobs a filter wants."""
    ((number,),) = await fetch(connection, "count_matching_jobs", _parameters(wanted))
    return int(number)


async def jobs_by_kit(
    connection: Connection, wanted: JobFilter, *, after: int, limit: int
) -> list[tuple[int, tuple[uuid.UUID, ...]]]:
    """The jobs that a filter wants of the next kits, in their order."""
    parameters = _parameters(wanted) | {"after": after, "limit": limit}
    rows = await fetch(connection, "matching_jobs", parameters)
    return [(row[0], tuple(row[1])) for row in rows]


async def jobs_in_short(connection: Connection, job_ids: Sequence[uuid.UUID]) -> list[Job]:
    """Jobs without specs, results and tasks."""
    rows = await fetch(connection, "jobs_by_id", {"job_ids": list(job_ids)})
    return [to_job(row) for row in rows]


async def parts_of_request(
    connection: Connection, request_id: uuid.UUID
) -> list[tuple[int, str, bytes, datetime]]:
    """What was done of a request that is done kit by kit: kit, body's hash, answer, time."""
    rows = await fetch(connection, "parts_of_request", {"request_id": str(request_id)})
    return [(row[0], row[1], bytes(row[2]), row[3]) for row in rows]


def _parameters(wanted: JobFilter) -> dict[str, Any]:
    return {
        "statuses": list(wanted.statuses),
        "kit_ids": list(wanted.kit_ids) or None,
        "job_types": list(wanted.job_types) or None,
        "labels": Jsonb(dict(wanted.labels)) if wanted.labels else None,
        "before": wanted.created_before,
        "project": wanted.project or None,
        "kit_labels": Jsonb(dict(wanted.kit_labels)) if wanted.kit_labels else None,
    }


def _expired(head: Head) -> ExpiredError:
    return ExpiredError(
        f"what was before revision {head.oldest_id} is no longer kept",
        reason="REVISION_EXPIRED",
        metadata={"oldest_revision": str(head.oldest_id)},
    )
