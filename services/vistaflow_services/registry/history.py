"""A kit as it was: what the log says of it up to a revision. Pure.

How jobs are defined never changes; everything else of a kit follows from its rows. A job that has
not moved since the revision is as it is now, so that its rows may have left the log meanwhile.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vistaflow_services.registry.dependencies import blocked
from vistaflow_services.registry.domain import (
    KIT,
    NO_COUNTS,
    PROGRESS_TASK,
    TERMINAL,
    Counts,
    Job,
    Kit,
    Progress,
    StateRow,
    Status,
    count,
)

Key = tuple[uuid.UUID, str]
"""A job and the name of a task of it; of the job itself when the name is empty."""


class Incomplete(Exception):
    """The log does not keep all the rows that it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A kit at one revision."""

    kit: Kit
    rows: Mapping[Key, StateRow]
    """The latest row of the kit's own, of each job, and of each task of the tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One job or task that differs between two revisions."""

    before: StateRow | None
    after: StateRow | None

    @property
    def revision(self) -> int:
        """Of the later row."""
        row = self.after or self.before
        assert row is not None
        return row.revision


def kit_at(
    kit: Kit, revision: int, own_rows: Iterable[StateRow], task_rows: Sequence[StateRow]
) -> Moment | None:
    """The kit as it was at a revision; None if it was not there yet.

    Args:
        kit: The kit with its jobs as they are now; it is not changed.
        revision: When.
        own_rows: The jobs' own rows up to then, in order.
        task_rows: The latest row up to then of each task of any attempt, and of the kit's own.

    Raises:
        Incomplete: Rows of a job that moved since are no longer in the log.
    """
    if revision < kit.first_revision:
        return None
    rows: dict[Key, StateRow] = {}
    own: dict[uuid.UUID, list[StateRow]] = {}
    for row in own_rows:
        own.setdefault(row.job_id, []).append(row)
        rows[row.job_id, ""] = row
    jobs = {
        job.job_id: _job_at(job, revision, own.get(job.job_id, ()))
        for job in kit.jobs.values()
        if job.first_revision <= revision
    }
    past = replace(kit, jobs=jobs, paused=False, pauses=0)
    for row in sorted(task_rows, key=lambda each: each.revision):
        if row.job_type == KIT:
            past.paused, past.pauses = row.status == Status.RUNNING, row.attempt
        elif row.attempt == jobs[row.job_id].attempt:
            jobs[row.job_id].tasks[row.task_name] = row
        else:
            continue
        rows[row.job_id, row.task_name] = row
    for job in jobs.values():
        job.progress = _progress_at(job)
    for job_id, reason in blocked(past).items():
        jobs[job_id].reason = reason
    past.counts = count(job.status for job in jobs.values())
    if kit.revision > revision:
        last = max([*rows.values(), *task_rows], key=lambda row: row.revision, default=None)
        past.revision = last.revision if last else kit.first_revision
        past.updated_at = last.created_at if last else kit.created_at
    return Moment(kit=past, rows=rows)


def differences(before: Moment | None, after: Moment) -> list[Difference]:
    """What differs between two moments, by the revision of the later row."""
    earlier: Mapping[Key, StateRow] = before.rows if before is not None else {}
    found = [
        Difference(before=earlier.get(key), after=row)
        for key, row in after.rows.items()
        if key not in earlier or earlier[key].revision != row.revision
    ]
    found += [
        Difference(before=row, after=None) for key, row in earlier.items() if key not in after.rows
    ]
    return sorted(found, key=lambda each: each.revision)


def counts_at(moment: Moment | None) -> Counts:
    """The jobs by status at a moment."""
    return moment.kit.counts if moment is not None else NO_COUNTS


def _job_at(job: Job, revision: int, rows: Sequence[StateRow]) -> Job:
    """The job without its tasks, from its own rows up to the revision."""
    past = replace(job, tasks={}, progress=None)
    if job.revision <= revision:
        return past
    if not rows:
        raise Incomplete(f"job {job.job_id} has no row up to revision {revision}")
    past.failures, past.result_json = 0, ""
    past.started_at = past.finished_at = None
    for row in rows:
        _move(past, row)
    return past


def _move(job: Job, row: StateRow) -> None:
    told = row.metadata or {}
    event = told.get("event")
    if event == "RETRIED":
        job.failures = 0
    elif event in ("LOST", "RELEASED") and told.get("counts") is True and not job.external:
        job.failures += 1
    if row.status == Status.RUNNING:
        job.started_at, job.finished_at = row.created_at, None
    elif row.status in TERMINAL:
        job.finished_at = row.created_at
    else:
        job.started_at = job.finished_at = None
    if row.status == Status.FINISHED and isinstance(told.get("result"), dict):
        job.result_json = json.dumps(told["result"], ensure_ascii=False)
    job.status, job.attempt, job.revision = row.status, row.attempt, row.revision
    job.actor = row.actor
    job.reason = "" if row.status == Status.INIT else row.reason
    job.worker = row.actor if row.status == Status.RUNNING and not job.external else ""


def _progress_at(job: Job) -> Progress | None:
    """What the log holds of the progress of a job that was running."""
    row = job.tasks.get(PROGRESS_TASK)
    if job.external or job.status != Status.RUNNING or row is None:
        return None
    told = (row.metadata or {}).get("progress")
    if not isinstance(told, dict):
        return None
    return Progress(
        phase=told.get("phase", ""),
        completed=told.get("completed", 0),
        total=told.get("total", 0),
        unit=told.get("unit", ""),
        message=told.get("message", ""),
        updated_at=row.created_at,
    )
