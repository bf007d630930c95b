"""The steps that commands consist of: record a row, move a job, queue the jobs that depend on it.

`Changes` gathers what a batch of commands changes on top of a board, without touching the board.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.core.names import DEFAULT_PROJECT
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.dependencies import Dependencies, blocked
from vistaflow_services.registry.domain import (
    KIT,
    MAX_REASON,
    PAUSE_TASK,
    PENDING,
    SUCCESSOR,
    TERMINAL,
    Head,
    Job,
    Kit,
    StateRow,
    Status,
    edition,
    first_name,
    kit_row_id,
    moved,
    same,
)
from vistaflow_services.registry.log.board import Board

ACTOR = "registry"

Content = tuple[str, str, str, str]
"""What a row says: task, status, reason and metadata. Rows of one seq are the same if it is."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded row whose seq came again."""

    revision: int
    contents: frozenset[Content]
    """The contents of the later rows that are equal to its own."""


Seqs = Mapping[tuple[uuid.UUID, int, int], Recorded]
"""Recorded rows by job, attempt and seq, for the seqs that come again."""


def content_of(item: c.Item) -> Content:
    """The content of the row."""
    return item.task_name, item.status, item.reason, item.metadata_json


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLease:
    """The lease of an attempt that is granted to a worker; `seconds` is its duration."""

    job_id: uuid.UUID
    attempt: int
    worker: str
    seconds: float


class Changes:
    """What a batch of commands changes; the board stays as it is."""

    def __init__(
        self,
        board: Board,
        head: Head,
        seqs: Seqs,
        unfinished: Mapping[uuid.UUID, c.Change] | None = None,
    ) -> None:
        self._board = board
        self.unfinished = dict(unfinished or {})
        """Changes that need further commits, by their ids."""
        self._recorded = seqs
        self._seqs: dict[tuple[uuid.UUID, int, int], Recorded] = {}
        self.head = head
        self.last_id = head.last_id
        self.last_kit_id = head.last_kit_id
        self.rows: list[StateRow] = []
        self.tasks_only = True
        """Whether all rows are of tasks of jobs, and no kit is new."""
        self.kits: dict[int, Kit] = {}
        self.new_kits: set[int] = set()
        self.jobs: dict[uuid.UUID, Job] = {}
        self.new_jobs: set[uuid.UUID] = set()
        self.results: set[uuid.UUID] = set()
        """Jobs whose result is new."""
        self.restarted: set[uuid.UUID] = set()
        """Jobs that began a new attempt: tasks of earlier ones leave the current state."""
        self.leases: dict[uuid.UUID, NewLease] = {}
        self.ended: set[uuid.UUID] = set()
        """Jobs whose lease is over."""
        self.changes_begun: dict[uuid.UUID, c.Change] = {}
        """Changes that begin in this batch and need further commits."""
        self.changes_moved: dict[uuid.UUID, c.Change] = {}
        """Changes of earlier commits that need further commits."""
        self.many_begun: dict[uuid.UUID, c.ManyJobs] = {}
        """Changes of jobs of several kits, to be made by the commits that follow."""
        self.changes_over: set[uuid.UUID] = set()
        """Changes of earlier commits that are complete now."""
        self._batch = 0
        self._target: tuple[uuid.UUID, Kit, Job] | None = None
        """The job that the last row was appended to, with its kit, both this draft's own: most
        rows are of the job of the row before."""
        self._graphs: dict[int, Dependencies] = {}
        self._unexplained: set[int] = set()
        """Kits in which the reasons of waiting jobs may be out of date."""

    def jobs_moved(self) -> list[Job]:
        """The jobs that existed before and of which more than tasks changed."""
        self.explain()
        moved = []
        for job_id, job in self.jobs.items():
            if job_id not in self.new_jobs:
                held = self._board.kit(job.kit_id)
                old = held.jobs.get(job_id) if held else None
                if old is None or job_id in self.results or job.differs(old):
                    moved.append(job)
        return moved

    def settle(self, now: datetime) -> None:
        """Sets the time of the commit wherever it is pending."""
        self.explain()
        for row in self.rows:
            row.created_at = now
        for job in self.jobs.values():
            job.settle(now)
        for kit in self.kits.values():
            if kit.created_at is PENDING:
                kit.created_at = now
            if kit.updated_at is PENDING:
                kit.updated_at = now

    def _new_kit(
        self,
        name: str,
        project: str,
        labels: Mapping[str, str] | None,
        spec: str,
        actor: str,
        *,
        has_jobs: bool = True,
    ) -> Kit:
        self.last_kit_id += 1
        self.tasks_only = False
        kit = Kit(
            kit_id=self.last_kit_id,
            name=name,
            project=project or DEFAULT_PROJECT,
            labels=dict(labels or {}),
            spec_json=spec,
            actor=actor,
            revision=self.last_id,
            first_revision=self.last_id + has_jobs,
        )
        self.kits[kit.kit_id] = kit
        self.new_kits.add(kit.kit_id)
        return kit

    def _add(
        self,
        kit: Kit,
        new: c.NewJob,
        order: int,
        actor: str,
        *,
        metadata_json: str = "",
        reason: str = "",
    ) -> Job:
        """Adds a job, which is queued if it waits for nothing."""
        job = Job(
            job_id=new.job_id,
            kit_id=kit.kit_id,
            name=new.name,
            job_type=new.job_type,
            current_order=order,
            depends_on=new.depends_on,
            spec_type=new.spec_type,
            spec=new.spec,
            external=new.external,
            max_attempts=new.max_attempts,
            timeout_seconds=new.timeout_seconds,
            priority=new.priority,
            labels=dict(new.labels or {}),
            first_revision=self.last_id + 1,
        )
        self._dependencies(kit).add(job)
        kit.jobs[job.job_id] = job
        self.jobs[job.job_id] = job
        self.new_jobs.add(job.job_id)
        status = self._waiting_status(kit, job)
        self._record(kit, job, status, actor=actor, metadata_json=metadata_json, reason=reason)
        return job

    def _waiting_status(self, kit: Kit, job: Job) -> Status:
        """QUEUED for a job that may run, INIT for one that waits for others."""
        if self._ready(kit, job):
            return Status.QUEUED
        self._dependencies(kit).wait(job)
        return Status.INIT

    def _replace(self, kit: Kit, job: Job, new: c.NewJob, reason: str, actor: str) -> None:
        """Adds the successor of a FINISHED job, which stays as it is."""
        self._add(
            kit,
            new,
            job.current_order,
            actor,
            metadata_json=json.dumps({"event": "REPLACES", "job_id": str(job.job_id)}),
            reason=reason or f"replaces {job.name} on request",
        )

    def _cancel(self, kit: Kit, job: Job, reason: str, actor: str) -> None:
        self._record(kit, job, Status.CANCELED, actor=actor, reason=reason or "canceled on request")

    def _retry(self, kit: Kit, job: Job, reason: str, actor: str) -> None:
        job.failures = 0
        self._record(
            kit,
            job,
            self._waiting_status(kit, job),
            metadata_json='{"event": "RETRIED"}',
            actor=actor,
            reason=reason or "retried on request",
        )

    def _begin_attempt(self, job: Job) -> None:
        job.attempt += 1
        job.last_seq = 0
        job.tasks.clear()
        self.restarted.add(job.job_id)

    def _give_back(
        self, kit: Kit, job: Job, event: str, counts: bool, reason: str, actor: str
    ) -> None:
        """RUNNING to QUEUED, or to FAILED once all attempts are used up."""
        job.failures += counts
        over = job.failures >= job.max_attempts
        if over:
            reason = _clip(f"{reason}; all {job.max_attempts} attempts are used up")
        self._record(
            kit,
            job,
            Status.FAILED if over else Status.QUEUED,
            metadata_json=json.dumps({"event": event, "counts": counts}),
            actor=actor,
            reason=reason,
        )
        if over:
            self._unexplained.add(kit.kit_id)

    def _queue_ready(self, kit: Kit, name: str) -> None:
        """Queues the jobs that waited for `name` alone."""
        for job in self._dependencies(kit).finish(name, kit.jobs):
            self._record(
                kit,
                self._own_job(kit, job.job_id),
                Status.QUEUED,
                actor=ACTOR,
                reason="all it depends on is finished",
            )

    def _ready(self, kit: Kit, job: Job) -> bool:
        return not job.depends_on or self._dependencies(kit).ready(job)

    def _dependencies(self, kit: Kit) -> Dependencies:
        """The dependencies of a kit, as this draft has changed them."""
        graph = self._graphs.get(kit.kit_id)
        if graph is None:
            graph = self._graphs[kit.kit_id] = Dependencies(kit)
        return graph

    def explain(self) -> None:
        """Sets the reasons of jobs blocked by a failed job, in kits where they may have changed.

        Called once for many rows, before jobs are in an answer and before they are written.
        """
        for kit_id in sorted(self._unexplained):
            kit = self.kits[kit_id]
            for job_id, reason in blocked(kit).items():
                if kit.jobs[job_id].reason != reason:
                    self._own_job(kit, job_id).reason = reason
        self._unexplained.clear()

    def _record(
        self,
        kit: Kit,
        job: Job,
        status: str,
        *,
        task_name: str = "",
        seq: int = 0,
        metadata_json: str = "",
        actor: str = "",
        reason: str = "",
    ) -> StateRow:
        self.last_id += 1
        if not task_name:
            self.tasks_only = False
            exists = job.revision != 0
            kit.counts = moved(kit.counts, job.status if exists else None, status)
        # By position: names cost as much again.
        row = StateRow(
            self.last_id, self._batch, kit.kit_id, job.job_id, job.job_type, task_name, status,
            job.current_order, job.attempt, seq, PENDING, metadata_json, actor,
            _clip(reason) if reason else "", None if task_name else kit.counts,
        )  # fmt: skip
        self.rows.append(row)
        kit.revision, kit.updated_at = row.revision, PENDING
        if task_name:
            job.tasks[task_name] = row
        else:
            self._move(job, row)
        return row

    def _record_pause(self, kit: Kit, status: str, *, actor: str, reason: str) -> StateRow:
        """Records a row of the kit itself: a task of no job, with one attempt a pause."""
        self.last_id += 1
        self.tasks_only = False
        row = StateRow(
            revision=self.last_id,
            batch=self._batch,
            kit_id=kit.kit_id,
            job_id=kit_row_id(kit.kit_id),
            job_type=KIT,
            task_name=PAUSE_TASK,
            status=status,
            current_order=0,
            attempt=kit.pauses,
            seq=0,
            created_at=PENDING,
            actor=actor,
            reason=_clip(reason),
        )
        self.rows.append(row)
        kit.revision, kit.updated_at = row.revision, PENDING
        return row

    def _move(self, job: Job, row: StateRow) -> None:
        """Sets the job's status to that of its own row, and what follows from it."""
        if job.status == Status.RUNNING and not job.external:
            self.ended.add(job.job_id)
            self.leases.pop(job.job_id, None)
            job.worker = ""
        job.status, job.revision, job.actor = row.status, row.revision, row.actor
        job.reason = "" if row.status == Status.INIT else row.reason
        if row.status == Status.RUNNING:
            job.started_at, job.finished_at = PENDING, None
        elif row.status in TERMINAL:
            job.finished_at = PENDING
        else:
            job.started_at = job.finished_at = None

    # Kits and jobs: found on the board, and copied before their first change.

    def _held(self, kit_id: int) -> Kit | None:
        return self.kits.get(kit_id) or self._board.kit(kit_id)

    def _kit(self, kit_id: int) -> Kit:
        kit = self._held(kit_id)
        if kit is None:
            raise NotFoundError(f"there is no kit {kit_id}")
        return kit

    def _kit_id_of(self, job_id: uuid.UUID) -> int | None:
        job = self.jobs.get(job_id)
        return job.kit_id if job is not None else self._board.kit_of(job_id)

    def _placed(self, job_id: uuid.UUID) -> tuple[Kit, Job] | tuple[None, None]:
        """The kit and job, if they are held."""
        kit_id = self._kit_id_of(job_id)
        held = self._held(kit_id) if kit_id is not None else None
        return (held, held.jobs[job_id]) if held is not None else (None, None)

    def _find(self, job_id: uuid.UUID) -> tuple[Kit, Job]:
        kit_id = self._kit_id_of(job_id)
        if kit_id is None:
            raise NotFoundError(f"there is no job {job_id}")
        kit = self._kit(kit_id)
        return kit, kit.jobs[job_id]

    def _current(
        self, job_id: uuid.UUID, attempt: int, worker: str | None = None
    ) -> tuple[Kit, Job] | None:
        """The kit and job, copied for changes, if this attempt runs and its worker is this one."""
        kit_id = self._kit_id_of(job_id)
        held = self._held(kit_id) if kit_id is not None else None
        if held is None:
            return None
        job = held.jobs[job_id]
        if job.external or job.attempt != attempt or job.status != Status.RUNNING:
            return None
        if worker is not None and job.worker != worker:
            return None
        kit = self._own_kit(held.kit_id)
        return kit, self._own_job(kit, job_id)

    def _own_kit(self, kit_id: int) -> Kit:
        """The kit as this draft changes it; a copy of the board's at first."""
        kit = self.kits.get(kit_id)
        if kit is None:
            held = self._kit(kit_id)
            kit = self.kits[kit_id] = same(held, jobs=dict(held.jobs))
        return kit

    def _own_job(self, kit: Kit, job_id: uuid.UUID) -> Job:
        """The job as this draft changes it; a copy of the board's at first."""
        job = self.jobs.get(job_id)
        if job is None:
            job = self.jobs[job_id] = kit.jobs[job_id] = kit.jobs[job_id].copy()
        return job


def successor(job: Job, replacement: c.Replacement | None) -> c.NewJob:
    """The job that replaces another: equal but for its name and perhaps its spec."""
    spec_type, spec, external = job.spec_type, job.spec, job.external
    if replacement is not None and replacement.spec_type:
        spec_type, spec, external = replacement.spec_type, replacement.spec, False
    return c.NewJob(
        job_id=uuid.uuid4(),
        name=f"{first_name(job.name)}{SUCCESSOR}{edition(job.name) + 1}",
        job_type=job.job_type,
        current_order=job.current_order,
        depends_on=job.depends_on,
        spec_type=spec_type,
        spec=spec,
        external=external,
        max_attempts=job.max_attempts,
        timeout_seconds=job.timeout_seconds,
        priority=job.priority,
        labels=job.labels,
    )


def _clip(text: str) -> str:
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"
