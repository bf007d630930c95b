"""Kits and jobs as they are read from the tables, on any connection."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, LiteralString

import psycopg

from vistaflow_services.core.sql import edited, load_queries
from vistaflow_services.registry.domain import Head, Job, Kit, StateRow
from vistaflow_services.registry.watch_store import Row, progress_from_json, to_kit, to_row

QUERIES = dict(load_queries("vistaflow_services.registry"))
# One text serves for the log and for what is kept of it.
QUERIES["list_kept_states"] = edited(
    QUERIES["list_states"], "mlops_totalstate_table", "kept_states"
)

ROWS_AT_ONCE = 500
"""Rows of a result that objects are made of before anything else has a turn."""

Connection = psycopg.AsyncConnection[Row]


async def fetch(
    connection: Connection, name: str, parameters: Mapping[str, Any] | None = None
) -> list[Row]:
    """The rows of a named query."""
    return await rows_of(await connection.execute(QUERIES[name], parameters))


async def rows_of(cursor: psycopg.AsyncCursor[Row]) -> list[Row]:
    """All rows of a cursor. To make objects of them takes time, which is given in between."""
    rows = await cursor.fetchmany(ROWS_AT_ONCE)
    while len(rows) % ROWS_AT_ONCE == 0 and (more := await cursor.fetchmany(ROWS_AT_ONCE)):
        rows += more
        await asyncio.sleep(0)
    return rows


async def fetch_planned(
    connection: Connection, text: LiteralString, parameters: Mapping[str, Any]
) -> list[Row]:
    """The rows of a query that is planned anew: how it is best done depends on its parameters."""
    return await rows_of(await connection.execute(text, parameters, prepare=False))


async def read_head(connection: Connection, name: str = "head", **parameters: Any) -> Head:
    """Where the log ends."""
    ((last_id, last_kit_id, epoch, commit_id, oldest_id),) = await fetch(
        connection, name, parameters
    )
    return Head(
        last_id=last_id,
        last_kit_id=last_kit_id,
        epoch=epoch,
        commit_id=commit_id,
        oldest_id=oldest_id,
    )


async def read_kits(connection: Connection, kit_ids: Collection[int]) -> dict[int, Kit]:
    """Kits with their jobs and current tasks, as of one moment if the caller holds one."""
    wanted = {"kit_ids": list(kit_ids)}
    kits = {row[0]: to_kit(row) for row in await fetch(connection, "kits_by_id", wanted)}
    for row in await fetch(connection, "jobs_of_kits", wanted):
        job = to_job(row)
        kits[job.kit_id].jobs[job.job_id] = job
    for row in await fetch(connection, "tasks_of_kits", wanted):
        task = to_row(row)
        kits[task.kit_id].jobs[task.job_id].tasks[task.task_name] = task
    return kits


async def read_kit(connection: Connection, kit_id: int) -> tuple[Kit | None, int]:
    """A kit with its jobs and current tasks, and where the log ends, by one statement."""
    # What is asked for most often: one trip to the database, and values as the database has them.
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(QUERIES["kit_whole"], {"kit_id": kit_id}, prepare=True)
        rows = await rows_of(cursor)
    ((revision, *_, found, _, _),) = [row for row in rows if row[1] is None]
    told = json.loads(found)
    if told["kit"][0] is None:
        return None, revision
    kit = to_kit(_with_values(told["kit"], times=(8, 9)))
    jobs = {}
    for each in told["jobs"]:
        job = to_job(_with_values(each, times=(19, 20, 21, 27), ids=(0,), contents=(7,)))
        kit.jobs[job.job_id] = jobs[job.job_id.bytes] = job
    tasks = sorted(row for row in rows if row[1] is not None)
    for place, row in enumerate(tasks):
        if place % ROWS_AT_ONCE == ROWS_AT_ONCE - 1:
            await asyncio.sleep(0)
        task_id, of, name, status, attempt, seq, created_at, metadata, actor, reason = row
        job = jobs[of]
        job.tasks[name] = StateRow(
            revision=task_id,
            batch=task_id,
            kit_id=kit_id,
            job_id=job.job_id,
            job_type=job.job_type,
            task_name=name,
            status=status,
            current_order=job.current_order,
            attempt=attempt,
            seq=seq,
            created_at=created_at,
            metadata_json=metadata,
            actor=actor,
            reason=reason,
        )
    return kit, revision


def _with_values(
    row: list[Any],
    *,
    times: Collection[int],
    ids: Collection[int] = (),
    contents: Collection[int] = (),
) -> Row:
    """A row that came as JSON, with values in the places of what JSON has only texts for."""
    for place in times:
        if row[place] is not None:
            row[place] = datetime.fromisoformat(row[place])
    for place in ids:
        row[place] = uuid.UUID(row[place])
    for place in contents:
        row[place] = base64.b64decode(row[place])
    return tuple(row)


async def read_job(connection: Connection, job_id: uuid.UUID) -> Job | None:
    """One job with its current tasks."""
    rows = await fetch(connection, "job_by_id", {"job_id": job_id})
    if not rows:
        return None
    job = to_job(rows[0])
    wanted = {"kit_id": job.kit_id, "job_id": job_id}
    for row in await fetch(connection, "tasks_of_job", wanted):
        task = to_row(row)
        job.tasks[task.task_name] = task
    return job


def to_job(row: Row) -> Job:
    """A job without its tasks."""
    progress = row[26]
    return Job(
        job_id=row[0],
        kit_id=row[1],
        name=row[2],
        job_type=row[3],
        current_order=row[4],
        depends_on=tuple(row[5]),
        spec_type=row[6],
        spec=bytes(row[7]),
        external=row[8],
        max_attempts=row[9],
        failures=row[10],
        timeout_seconds=row[11],
        priority=row[12],
        labels=row[13],
        status=row[14],
        attempt=row[15],
        last_seq=row[16],
        first_revision=row[17],
        revision=row[18],
        created_at=row[19],
        started_at=row[20],
        finished_at=row[21],
        worker=row[22],
        reason=row[23],
        actor=row[24],
        result_json=row[25],
        progress=None if progress is None else progress_from_json(progress, row[27]),
    )
