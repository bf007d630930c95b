"""A kit as it was at a revision, from its rows up to then. Pure.

The definitions of jobs never change; everything else of a kit follows from its rows. A job without
rows after the revision is as it is now, so its rows need not be in the log any more.
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
    moved,
)


class Incomplete(Exception):
    """The log does not keep all the rows that it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A kit at one revision, with its rows by their revisions alone: there may be very many."""

    kit: Kit
    """With its jobs, but not with their tasks."""
    rows: Mapping[uuid.UUID, Mapping[str, int]]
    """By job and name of the task, the revision of the latest row of each task; of the job itself
    under the empty name. The kit's own row is among them under the id of its job."""
    counts: Mapping[uuid.UUID, Counts]
    """Tasks by status, of each job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One job or task that differs between two revisions."""

    before: int
    """Revision of its latest row at the earlier one; 0: it was not there."""
    after: int
    """The same at the later one."""

    @classmethod
    def of(cls, before: int, after: int) -> Difference:
        """One of two revisions."""
        return cls(before=before, after=after)

    @property
    def revision(self) -> int:
        """Of the later row."""
        return self.after or self.before


class PastKit:
    """A kit as it was at a revision, in the making: `add` all rows of tasks, then take `moment`.

    Args:
        kit: The kit with its jobs as they are now; it is not changed.
        revision: When; not before the kit was there.
        own_rows: The jobs' own rows up to then, in order.

    Raises:
        Incomplete: Rows of a job that moved since are no longer in the log.
    """

    def __init__(self, kit: Kit, revision: int, own_rows: Iterable[StateRow]) -> None:
        own: dict[uuid.UUID, list[StateRow]] = {}
        for row in own_rows:
            own.setdefault(row.job_id, []).append(row)
        self._jobs = {
            job.job_id: _job_at(job, revision, own.get(job.job_id, ()))
            for job in kit.jobs.values()
            if job.first_revision <= revision
        }
        self._kit = replace(kit, jobs=self._jobs, paused=False, pauses=0)
        self._moved_since = kit.revision > revision
        self._rows: dict[uuid.UUID, dict[str, int]] = {
            job_id: {"": rows[-1].revision} for job_id, rows in own.items()
        }
        self._counts: dict[uuid.UUID, Counts] = {}
        self._progress: dict[uuid.UUID, StateRow] = {}
        ends = [rows[-1] for rows in own.values()]
        self._last = max(ends, key=lambda row: row.revision, default=None)

    def add(self, rows: Iterable[StateRow]) -> None:
        """Takes in the latest rows up to then of tasks of any attempt, and of the kit's own."""
        for row in rows:
            if self._last is None or row.revision > self._last.revision:
                self._last = row
            if row.job_type == KIT:
                self._kit.paused = row.status == Status.RUNNING
                self._kit.pauses = row.attempt
            else:
                job = self._jobs[row.job_id]
                if row.attempt != job.attempt:
                    continue
                if row.task_name == PROGRESS_TASK:
                    self._progress[row.job_id] = row
                if job.counts_task(row.task_name):
                    counts = self._counts.get(row.job_id, NO_COUNTS)
                    self._counts[row.job_id] = moved(counts, None, row.status)
            self._rows.setdefault(row.job_id, {})[row.task_name] = row.revision

    def moment(self) -> Moment:
        """The kit as it was then."""
        kit = self._kit
        for job in self._jobs.values():
            job.progress = _progress_at(job, self._progress.get(job.job_id))
        for job_id, reason in blocked(kit).items():
            self._jobs[job_id].reason = reason
        kit.counts = count(job.status for job in self._jobs.values())
        if self._moved_since:
            last = self._last
            kit.revision = last.revision if last else kit.first_revision
            kit.updated_at = last.created_at if last else kit.created_at
        return Moment(kit=kit, rows=self._rows, counts=self._counts)


def differences(before: Moment | None, after: Moment) -> list[Difference]:
    """What differs between two moments, by the revision of the later row."""
    earlier: Mapping[uuid.UUID, Mapping[str, int]] = before.rows if before is not None else {}
    none: Mapping[str, int] = {}
    changes: list[Difference] = []
    for job_id in earlier.keys() | after.rows.keys():
        one, two = earlier.get(job_id, none), after.rows.get(job_id, none)
        changes += [
            Difference(before=one.get(name, 0), after=revision)
            for name, revision in two.items()
            if one.get(name) != revision
        ]
        changes += [
            Difference(before=revision, after=0)
            for name, revision in one.items()
            if name not in two
        ]
    return sorted(changes, key=lambda change: change.revision)


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
    metadata = row.metadata or {}
    event = metadata.get("event")
    if event == "RETRIED":
        job.failures = 0
    elif event in ("LOST", "RELEASED") and metadata.get("counts") is True and not job.external:
        job.failures += 1
    if row.status == Status.RUNNING:
        job.started_at, job.finished_at = row.created_at, None
    elif row.status in TERMINAL:
        job.finished_at = row.created_at
    else:
        job.started_at = job.finished_at = None
    if row.status == Status.FINISHED and isinstance(metadata.get("result"), dict):
        job.result_json = json.dumps(metadata["result"], ensure_ascii=False)
    job.status, job.attempt, job.revision = row.status, row.attempt, row.revision
    job.actor = row.actor
    job.reason = "" if row.status == Status.INIT else row.reason
    job.worker = row.actor if row.status == Status.RUNNING and not job.external else ""


def _progress_at(job: Job, row: StateRow | None) -> Progress | None:
    """What the log holds of the progress of a job that was running."""
    if job.external or job.status != Status.RUNNING or row is None:
        return None
    progress = (row.metadata or {}).get("progress")
    if not isinstance(progress, dict):
        return None
    return Progress(
        phase=progress.get("phase", ""),
        completed=progress.get("completed", 0),
        total=progress.get("total", 0),
        unit=progress.get("unit", ""),
        message=progress.get("message", ""),
        updated_at=row.created_at,
    )
