"""Kits and jobs as they are read from the tables, on any connection."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Collection
from datetime import datetime
from typing import Any

from vistaflow_services.registry.database.pool import Connection, Row
from vistaflow_services.registry.database.queries import QUERIES, ROWS_AT_ONCE, fetch, rows_of
from vistaflow_services.registry.database.rows import to_job, to_kit, to_row
from vistaflow_services.registry.domain import Head, Job, Kit, StateRow


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
    """Kits with their jobs and current tasks; of one moment if the caller began a snapshot."""
    parameters = {"kit_ids": list(kit_ids)}
    kits = {row[0]: to_kit(row) for row in await fetch(connection, "kits_by_id", parameters)}
    for row in await fetch(connection, "jobs_of_kits", parameters):
        job = to_job(row)
        kits[job.kit_id].jobs[job.job_id] = job
    for row in await fetch(connection, "tasks_of_kits", parameters):
        task = to_row(row)
        kits[task.kit_id].jobs[task.job_id].tasks[task.task_name] = task
    return kits


async def read_kit(connection: Connection, kit_id: int) -> tuple[Kit | None, int]:
    """A kit with its jobs and current tasks, and where the log ends, by one statement.

    The statement returns two kinds of rows: one without a job, which holds the kit and its jobs as
    JSON, and one for each task.
    """
    # The most frequent read: so it is one statement, with values in binary form.
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(QUERIES["kit_whole"], {"kit_id": kit_id}, prepare=True)
        rows = await rows_of(cursor)
    ((revision, *_, text, _, _),) = [row for row in rows if row[1] is None]
    stored = json.loads(text)
    if stored["kit"][0] is None:
        return None, revision
    kit = to_kit(_with_values(stored["kit"], times=(8, 9)))
    jobs = {}
    for fields in stored["jobs"]:
        job = to_job(_with_values(fields, times=(19, 20, 21, 27), ids=(0,), contents=(7,)))
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
    """A row that came as JSON, with its texts converted where JSON has no such type.

    Args:
        row: The fields, which are changed.
        times: Places of times.
        ids: Places of UUIDs.
        contents: Places of bytes, in base64.
    """
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
    parameters = {"kit_id": job.kit_id, "job_id": job_id}
    for row in await fetch(connection, "tasks_of_job", parameters):
        task = to_row(row)
        job.tasks[task.task_name] = task
    return job
