"""One kit with its jobs and tasks in wire form, kept up to date with the log.

Every task is serialised once, when it is first read, and its row is dropped then. Every job is
joined once, and the next answer only joins the bytes of the jobs. A tree follows rows that move one
job or one task. It refuses every other row, and its reader reads the kit again.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.domain import (
    KIT,
    NO_COUNTS,
    RETRYABLE,
    STATUS_PLACE,
    TERMINAL,
    TRANSITIONS,
    Job,
    Kit,
    Progress,
    StateRow,
    Status,
    moved,
)
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.messages.encoding import readable, struct_bytes
from vistaflow_services.registry.messages.varint import varint

LENGTH_DELIMITED = 2

_TASKS = varint(common.Job.TASKS_FIELD_NUMBER << 3 | LENGTH_DELIMITED)
_SPEC = varint(pb.Kit.SPEC_FIELD_NUMBER << 3 | LENGTH_DELIMITED)
_JOBS = varint(pb.Kit.JOBS_FIELD_NUMBER << 3 | LENGTH_DELIMITED)

SLICE_BYTES = 8 * 1024
"""About how much of a tree is serialised before other calls get a turn: about a millisecond. A call
takes a dozen turns of the event loop, and between any two of them there may be a slice."""

ROW_COST = 250
"""What a row without metadata counts of that."""

# About the memory of the objects beside the texts and bytes they hold.
KIT_BYTES = 2_500
JOB_BYTES = 3_500
ROW_BYTES = 1_000
TASK_BYTES = 350


class _Task:
    """A task: its latest row or, once that was read, the wire form in its place."""

    __slots__ = ("row", "size", "status", "wire")

    def __init__(self, row: StateRow) -> None:
        self.row: StateRow | None = row
        self.status = row.status
        self.wire = b""
        # The wire form is counted before it is made: it is when the kit is read at all.
        text = len(row.metadata_json)
        self.size = ROW_BYTES + 4 * text + 2 * (len(row.reason) + len(row.actor))

    @property
    def cost(self) -> int:
        """How much work its wire form is still, in bytes."""
        return ROW_COST + len(self.row.metadata_json) if self.row is not None else 0

    def make(self) -> None:
        """Makes the wire form."""
        assert self.row is not None
        state = translate.state_to_proto(self.row).SerializeToString()
        self.wire = b"".join((_TASKS, varint(len(state)), state))
        self.row = None
        # Here and in the job that it is joined to.
        self.size = TASK_BYTES + 2 * len(self.wire)


class _Branch:
    """A job, its tasks by name in revision order, and what of them was serialised."""

    __slots__ = ("_counts", "job", "size", "tasks", "wire")

    def __init__(self, job: Job) -> None:
        rows = sorted(job.tasks.values(), key=lambda row: row.revision)
        self.job = replace(job, tasks={})
        self.tasks = {row.task_name: _Task(row) for row in rows}
        self._counts = job.task_counts()
        self.wire = b""
        self.size = 0
        self.measure()

    def put(self, row: StateRow) -> tuple[_Task, _Task | None]:
        """Puts a row in place of that of the same task; both tasks."""
        old = self.tasks.pop(row.task_name, None)
        new = self.tasks[row.task_name] = _Task(row)
        self.size += new.size - (old.size if old else 0)
        if self.job.counts_task(row.task_name):
            self._counts = moved(self._counts, old.status if old else None, row.status)
        return new, old

    def clear(self) -> None:
        """Drops all tasks."""
        self.tasks = {}
        self._counts = NO_COUNTS

    def measure(self) -> None:
        """Weighs the whole job again."""
        self.size = (
            JOB_BYTES
            + 3 * len(self.job.spec)
            + 5 * len(self.job.result_json)
            + 2 * len(self.job.reason)
            + sum(2 * len(key) + 2 * len(value) + 200 for key, value in self.job.labels.items())
            + sum(2 * len(name) + 60 for name in self.job.depends_on)
            + sum(task.size for task in self.tasks.values())
        )

    def bytes(self) -> bytes:
        """The job with its tasks, whose wire forms are all made."""
        if not self.wire:
            head = translate.job_to_proto(self.job, task_counts=self._counts).SerializeToString()
            self.wire = b"".join((head, *[task.wire for task in self.tasks.values()]))
        return self.wire


class Tree:
    """A kit, up to a revision of the log. It takes over what `kit` holds."""

    __slots__ = ("_branches", "_head", "_kit", "_spec", "_unmade", "progress_at", "read_at", "size")

    def __init__(self, kit: Kit, read_at: int) -> None:
        ordered = kit.ordered_jobs()
        self._branches = {job.job_id: _Branch(job) for job in ordered}
        self._kit = replace(kit, jobs={})
        self._head = b""
        self._spec = b""
        self._unmade = {
            task: branch for branch in self._branches.values() for task in branch.tasks.values()
        }
        self.read_at = read_at
        """The revision it was read at; rows up to it are in it already."""
        self.progress_at = float("-inf")
        """When the progress of its running jobs was last read."""
        self.size = KIT_BYTES + 5 * len(kit.spec_json)
        self.size += sum(2 * len(key) + 2 * len(value) + 200 for key, value in kit.labels.items())
        self.size += sum(branch.size for branch in self._branches.values())

    @property
    def kit_id(self) -> int:
        """The kit's id."""
        return self._kit.kit_id

    @property
    def project(self) -> str:
        """The project of the kit."""
        return self._kit.project

    def __contains__(self, job_id: uuid.UUID) -> bool:
        return job_id in self._branches

    @property
    def job_ids(self) -> list[uuid.UUID]:
        """The jobs."""
        return list(self._branches)

    def apply(self, row: StateRow) -> bool:
        """Takes in the next row of the kit; False if the row does not say all that changed."""
        if row.revision <= self.read_at:
            return True
        if row.job_type == KIT:
            self._kit.paused, self._kit.pauses = row.status == Status.RUNNING, row.attempt
            self._kit.revision, self._kit.updated_at = row.revision, row.created_at
            self._head = b""
            return True
        branch = self._branches.get(row.job_id)
        if branch is None:
            return False
        before = branch.size
        taken = self._move(branch, row) if not row.task_name else self._move_task(branch, row)
        if not taken:
            return False
        self._kit.revision, self._kit.updated_at = row.revision, row.created_at
        self.size += branch.size - before
        branch.wire = self._head = b""
        return True

    def leased(self) -> list[uuid.UUID]:
        """The jobs that workers run, whose progress is not in the log."""
        return [
            job_id
            for job_id, branch in self._branches.items()
            if branch.job.status == Status.RUNNING and not branch.job.external
        ]

    def put_progress(self, by_attempt: Mapping[tuple[uuid.UUID, int], Progress]) -> None:
        """Puts in the progress of attempts; an attempt that is left out has reported none.

        Progress of an attempt that has ended since is dropped with its lease.
        """
        for job_id in self.leased():
            branch = self._branches[job_id]
            progress = by_attempt.get((job_id, branch.job.attempt))
            if progress != branch.job.progress:
                branch.job.progress = progress
                branch.wire = b""

    def spec_bytes(self) -> bytes:
        """The kit's spec in wire form, which never changes."""
        if not self._spec and self._kit.spec_json:
            self._spec = struct_bytes(readable(self._kit.spec_json))
        return self._spec

    def encode(self) -> Iterator[None]:
        """Makes the wire forms that are still to be made, some at each step.

        Rows may be applied between two steps; they are made as well.
        """
        size = 0
        while self._unmade:
            task = next(iter(self._unmade))
            size += task.cost
            self._make(task)
            if size > SLICE_BYTES:
                size = 0
                yield

    def _make(self, task: _Task) -> None:
        branch = self._unmade.pop(task)
        before = task.size
        task.make()
        branch.size += task.size - before
        self.size += task.size - before

    def kit_parts(self) -> list[bytes]:
        """The kit with its jobs and tasks, as `pb.Kit` in wire form, to be joined.

        They are not kept joined: large kits would take twice the memory.
        """
        for _ in self.encode():
            pass
        if not self._head:
            self._head = translate.kit_to_proto(
                replace(self._kit, spec_json="")
            ).SerializeToString()
        spec = self.spec_bytes()
        parts = [self._head, _SPEC, varint(len(spec)), spec] if spec else [self._head]
        for branch in self._branches.values():
            job = branch.bytes()
            parts += (_JOBS, varint(len(job)), job)
        return parts

    def job_bytes(self, job_id: uuid.UUID) -> bytes:
        """One job with its tasks, as `common.Job` in wire form."""
        for _ in self.encode():
            pass
        return self._branches[job_id].bytes()

    def _move(self, branch: _Branch, row: StateRow) -> bool:
        """A job's own row, if it is a plain transition."""
        job = branch.job
        # False drops the kit from the cache; the next read takes it from the database.
        if row.kit_counts is None or row.status not in TRANSITIONS[job.status]:
            return False
        if row.status in RETRYABLE or job.status in RETRYABLE:
            # The reasons of jobs that wait for this one may change, and no row says so.
            waiting = self._kit.counts[STATUS_PLACE[Status.INIT]]
            if waiting or row.status == Status.INIT:
                return False
        if row.attempt != job.attempt:
            # The tasks of an attempt are not those of the next.
            for task in branch.tasks.values():
                self._unmade.pop(task, None)
            branch.clear()
        job.status, job.attempt = row.status, row.attempt
        job.revision, job.actor, job.reason = row.revision, row.actor, row.reason
        job.progress = None
        job.worker = row.actor if row.status == Status.RUNNING and not job.external else ""
        # The times are derived as the statement of the journal derives them.
        if row.status == Status.RUNNING:
            job.started_at, job.finished_at = row.created_at, None
        elif row.status in TERMINAL:
            job.finished_at = row.created_at
        else:
            job.started_at = job.finished_at = None
        if row.status == Status.FINISHED:
            result = (row.metadata or {}).get("result")
            if isinstance(result, dict):
                job.result_json = json.dumps(result)
        self._kit.counts = row.kit_counts
        branch.measure()
        return True

    def _move_task(self, branch: _Branch, row: StateRow) -> bool:
        """A row of a task, of the attempt that runs."""
        if branch.job.status != Status.RUNNING or row.attempt != branch.job.attempt:
            return False
        new, old = branch.put(row)
        if old is not None:
            self._unmade.pop(old, None)
        self._unmade[new] = branch
        return True
