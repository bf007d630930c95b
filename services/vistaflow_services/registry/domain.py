"""What a kit, a job and a state row are, which status may follow which, and the filters of lists.

Knows nothing of gRPC or SQL.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from itertools import repeat
from operator import attrgetter
from typing import Any, TypeVar

from vistaflow_services.core import message_limits
from vistaflow_services.core.names import DEFAULT_PROJECT

Thing = TypeVar("Thing")

Counts = tuple[int, int, int, int, int, int]
"""How many are INIT, QUEUED, RUNNING, FINISHED, FAILED and CANCELED, in this order."""

NO_COUNTS: Counts = (0, 0, 0, 0, 0, 0)

PENDING = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Stands for the time of a commit that has not happened yet; see `Kit.settle`."""

WORKER_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]*")

MAX_REASON = 4096
MAX_JOBS_A_REQUEST = 1000
MAX_NEEDS_A_REQUEST = 200_000
"""Names in `depends_on` of all the jobs of one request, which are written in one commit."""

MAX_JOBS_A_KIT = 10_000
MAX_NEEDS_A_KIT = 500_000
"""Names in `depends_on` of all the jobs of a kit: 1,000 jobs that each wait for all before."""

MAX_JOBS_ANSWERED = 100
MAX_ORDER = 2**31 - 1
MAX_TASKS_A_JOB = 100_000
MAX_STATES_AN_APPEND = 1000
MAX_METADATA_BYTES = message_limits.METADATA_BYTES
MAX_RESULT_BYTES = MAX_METADATA_BYTES
MAX_KIT_SPEC_BYTES = message_limits.KIT_SPEC_BYTES
MAX_JOB_SPEC_BYTES = message_limits.JOB_SPEC_BYTES
MAX_FILTER_IDS = 1000
MAX_CAPACITY = 1000


PROGRESS_TASK = "progress"
"""The task under which a leased job's progress is sampled into the log."""

KIT = "KIT"
"""What a kit's own rows hold where others hold the type of their job."""

PAUSE_TASK = "pause"
"""The name of a kit's own rows: RUNNING while the kit is paused, FINISHED once it is resumed."""


class JobType(StrEnum):
    """What kind of work a job does; the words of the database."""

    DECK_COLLECTION = "DECK_COLLECTION"
    DOE = "DOE"
    ML_PREPROCESS = "ML_PREPROCESS"
    ML_SCALE = "ML_SCALE"
    ML_TRAIN = "ML_TRAIN"
    ML_TEST = "ML_TEST"
    OPTIMIZE = "OPTIMIZE"
    CONVERT = "CONVERT"
    QUERY = "QUERY"
    IMPORT = "IMPORT"
    COLLECT = "COLLECT"
    DELIVER = "DELIVER"
    BACKUP = "BACKUP"
    CLEANUP = "CLEANUP"
    REPAIR = "REPAIR"


SYSTEM_JOBS: frozenset[str] = frozenset({JobType.BACKUP, JobType.CLEANUP, JobType.REPAIR})
"""Jobs that look after the whole installation; administrators alone ask for them."""


class Status(StrEnum):
    """Where a kit, a job or a task is in its life; the words of the database."""

    INIT = "INIT"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class Verdict(StrEnum):
    """What became of one appended item."""

    ACCEPTED = "ACCEPTED"
    DUPLICATE = "DUPLICATE"
    REJECTED = "REJECTED"
    STALE_ATTEMPT = "STALE_ATTEMPT"


STATUSES: tuple[Status, ...] = tuple(Status)
STATUS_PLACE: dict[str, int] = {status.value: place for place, status in enumerate(Status)}
TERMINAL: frozenset[str] = frozenset({Status.FINISHED, Status.FAILED, Status.CANCELED})
RETRYABLE: frozenset[str] = frozenset({Status.FAILED, Status.CANCELED})

TRANSITIONS: dict[str, frozenset[str]] = {
    Status.INIT: frozenset({Status.QUEUED, Status.CANCELED}),
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELED}),
    Status.RUNNING: frozenset({Status.FINISHED, Status.FAILED, Status.CANCELED, Status.QUEUED}),
    Status.FINISHED: frozenset(),
    Status.FAILED: frozenset({Status.QUEUED, Status.INIT}),
    Status.CANCELED: frozenset({Status.QUEUED, Status.INIT}),
}
"""What may follow each status of a job. Leaving FAILED or CANCELED takes a retry."""

APPENDABLE_EXTERNAL: dict[str, frozenset[str]] = {
    Status.INIT: frozenset({Status.CANCELED}),
    Status.QUEUED: TRANSITIONS[Status.QUEUED],
    Status.RUNNING: TRANSITIONS[Status.RUNNING],
    Status.FINISHED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELED: frozenset(),
}
"""What the owner of an external job may append after each status."""

APPENDABLE_LEASED: dict[str, frozenset[str]] = {
    **{status: frozenset() for status in Status},
    Status.RUNNING: TERMINAL,
}
"""What the worker of a leased job may append after each status."""

TASK_TRANSITIONS: dict[str, frozenset[str]] = {
    Status.INIT: frozenset(Status) - {Status.INIT},
    Status.QUEUED: frozenset(Status) - {Status.INIT, Status.QUEUED},
    Status.RUNNING: frozenset(Status) - {Status.INIT},
    Status.FINISHED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELED: frozenset(),
}
"""What may follow each status of a task within an attempt. RUNNING again reports progress."""


@cache
def _columns(kind: type) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    names = tuple(column.name for column in fields(kind))
    return names, attrgetter(*names)


def same(old: Thing, **changes: Any) -> Thing:
    """A copy with some fields changed; `dataclasses.replace` is slower: it calls `__init__`."""
    kind: Any = type(old)
    names, read = _columns(kind)
    new: Thing = object.__new__(kind)
    for _ in map(setattr, repeat(new), names, read(old)):
        pass
    for name, value in changes.items():
        setattr(new, name, value)
    return new


@dataclass(slots=True)
class StateRow:
    """One row of the log. Not changed once its commit is known."""

    revision: int
    batch: int
    """Revision of the first row of the same append: rows of one batch are never split."""
    kit_id: int
    job_id: uuid.UUID
    job_type: str
    task_name: str
    status: str
    current_order: int
    attempt: int
    seq: int
    created_at: datetime
    metadata_json: str = ""
    """The metadata as JSON text; empty for none."""
    actor: str = ""
    reason: str = ""
    kit_counts: Counts | None = None
    """The kit's jobs by status after this row; None for a task's row."""

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The metadata, parsed; None for none."""
        return json.loads(self.metadata_json) if self.metadata_json else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a running job is."""

    phase: str = ""
    completed: int = 0
    total: int = 0
    unit: str = ""
    message: str = ""
    updated_at: datetime | None = None


@dataclass(slots=True, kw_only=True)
class Job:
    """One step of a kit. The board's copy changes; what is handed out is a copy."""

    job_id: uuid.UUID
    kit_id: int
    name: str
    job_type: str
    current_order: int
    depends_on: tuple[str, ...] = ()
    spec_type: str = ""
    """Type URL of the spec; empty for an external job."""
    spec: bytes = b""
    external: bool = False
    max_attempts: int = 3
    failures: int = 0
    timeout_seconds: float | None = None
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    status: str = Status.INIT
    attempt: int = 0
    last_seq: int = 0
    first_revision: int = 0
    revision: int = 0
    created_at: datetime = PENDING
    started_at: datetime | None = None
    finished_at: datetime | None = None
    worker: str = ""
    reason: str = ""
    actor: str = ""
    result_json: str = ""
    """The manifest its FINISHED row published, as JSON text; empty before."""
    tasks: dict[str, StateRow] = field(default_factory=dict)
    """The latest row of each task of the current attempt, by name."""
    progress: Progress | None = None

    def copy(self) -> Job:
        """A copy whose changes do not show here."""
        return same(self, tasks=dict(self.tasks))

    def differs(self, old: Job) -> bool:
        """Whether more than tasks and progress changed since `old`."""
        return _BESIDE_TASKS(self) != _BESIDE_TASKS(old)

    def task_counts(self) -> Counts:
        """Its tasks by status, without the one that only reports progress."""
        if not self.tasks:
            return NO_COUNTS
        return count(row.status for row in self.tasks.values() if self.counts_task(row.task_name))

    def counts_task(self, name: str) -> bool:
        """Whether a task is work, and not the sample of a leased job's progress."""
        return self.external or name != PROGRESS_TASK

    def settle(self, now: datetime) -> None:
        """Puts the time of the commit where it was pending."""
        if self.created_at is PENDING:
            self.created_at = now
        if self.started_at is PENDING:
            self.started_at = now
        if self.finished_at is PENDING:
            self.finished_at = now


_BESIDE_TASKS = attrgetter(
    *(column.name for column in fields(Job) if column.name not in ("tasks", "progress"))
)


SUCCESSOR = "@"
"""In the name of a job that took the place of another: `train@2`. No name that is asked for has
it, so that the name alone defines the relation."""


def first_name(name: str) -> str:
    """The name that a job and its successors share."""
    return name.partition(SUCCESSOR)[0]


def edition(name: str) -> int:
    """1 for a job, 2 for its first successor, and so on."""
    return int(name.partition(SUCCESSOR)[2] or 1)


@dataclass(slots=True, kw_only=True)
class Kit:
    """A device kit with its jobs. The board's copy changes; what is handed out is a copy."""

    kit_id: int
    name: str
    project: str = DEFAULT_PROJECT
    labels: Mapping[str, str] = field(default_factory=dict)
    spec_json: str = ""
    actor: str = ""
    counts: Counts = NO_COUNTS
    revision: int = 0
    created_at: datetime = PENDING
    updated_at: datetime = PENDING
    paused: bool = False
    """Whether its jobs are not granted now."""
    pauses: int = 0
    """How often it was paused."""
    first_revision: int = 0
    """Of its first row; where the log ended for a kit that was made without jobs."""
    jobs: dict[uuid.UUID, Job] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """Derived from its jobs; see `kit_status`."""
        return kit_status(self.counts)

    def job_named(self, name: str) -> Job | None:
        """Its job of that name, or the latest of the successors that took its place."""
        named = [job for job in self.jobs.values() if first_name(job.name) == name]
        return max(named, key=lambda job: edition(job.name), default=None)

    def current_jobs(self) -> dict[str, Job]:
        """By name the jobs that others wait for: of each name the latest successor."""
        current: dict[str, Job] = {}
        for job in self.jobs.values():
            name = first_name(job.name)
            if name not in current or edition(current[name].name) < edition(job.name):
                current[name] = job
        return current

    def ordered_jobs(self) -> list[Job]:
        """Its jobs by `current_order`, then in the order they were made."""
        return sorted(self.jobs.values(), key=lambda job: (job.current_order, job.first_revision))

    def copy(self) -> Kit:
        """A copy, jobs and all, whose changes do not show here."""
        return same(self, jobs={key: job.copy() for key, job in self.jobs.items()})

    def settle(self, now: datetime) -> None:
        """Puts the time of the commit where it was pending, in its jobs too."""
        if self.created_at is PENDING:
            self.created_at = now
        if self.updated_at is PENDING:
            self.updated_at = now
        for job in self.jobs.values():
            job.settle(now)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFilter:
    """Which rows a list or a watch shows. Empty fields do not restrict."""

    kit_ids: frozenset[int] = frozenset()
    job_types: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()
    """Labels the kit must have, sorted."""
    job_ids: frozenset[uuid.UUID] = frozenset()
    project: str = ""
    """The project of the kit."""
    recorded_after: datetime | None = None
    """Rows recorded then or later."""
    recorded_before: datetime | None = None
    """Rows recorded before."""

    def __bool__(self) -> bool:
        """Whether it restricts anything."""
        return bool(self.kit_ids or self.of_kits or self.of_rows)

    @property
    def of_kits(self) -> bool:
        """Whether the id of a kit does not tell whether the kit matches."""
        return bool(self.labels or self.project)

    @property
    def of_rows(self) -> bool:
        """Whether it may match some rows of a kit and not others."""
        return bool(
            self.job_types
            or self.statuses
            or self.job_ids
            or self.recorded_after
            or self.recorded_before
        )

    def matches(self, row: StateRow, labels_of_kit: Mapping[str, str] | None = None) -> bool:
        """Whether `row` of a kit with these labels matches.

        Args:
            row: The row.
            labels_of_kit: The kit's labels, and its project under `PROJECT_LABEL`.
        """
        labels = labels_of_kit or {}
        return (
            (not self.kit_ids or row.kit_id in self.kit_ids)
            and (not self.job_types or row.job_type in self.job_types)
            and (not self.statuses or row.status in self.statuses)
            and (not self.job_ids or row.job_id in self.job_ids)
            and (not self.labels or has_labels(labels, self.labels))
            and (not self.project or labels.get(PROJECT_LABEL) == self.project)
            and (self.recorded_after is None or row.created_at >= self.recorded_after)
            and (self.recorded_before is None or row.created_at < self.recorded_before)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KitFilter:
    """Which kits a list shows. Empty fields do not restrict.

    The queries take each field as a parameter of its name; see `filter_parameters`.
    """

    project: str = ""
    statuses: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()
    """Labels the kit must have, sorted."""
    name_contains: str = ""
    created_after: datetime | None = None
    """Kits created then or later."""
    created_before: datetime | None = None
    """Kits created before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs a list shows. Empty fields do not restrict."""

    kit_ids: tuple[int, ...] = ()
    job_types: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    project: str = ""
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChangeFilter(JobFilter):
    """Which jobs a change is for; `statuses` is never empty: those the change can be made in."""

    kit_labels: tuple[tuple[str, str], ...] = ()
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where the log ends."""

    last_id: int
    """The newest revision; 0 when the log is empty."""
    last_kit_id: int
    epoch: uuid.UUID
    """Names the log; it changes when a backup is restored."""
    commit_id: uuid.UUID
    """Changes with every commit."""
    oldest_id: int
    """The oldest revision kept."""


PROJECT_LABEL = ""
"""Where a kit's project is among what it is filtered by; no label has an empty key."""


def kit_row_id(kit_id: int) -> uuid.UUID:
    """What a kit's own rows hold where others hold the id of their job.

    Its number as a UUID: no job has it, as those are random, and no two kits share one.
    """
    return uuid.UUID(int=kit_id)


def has_labels(labels: Mapping[str, str], required: Sequence[tuple[str, str]]) -> bool:
    """Whether `labels` holds every required pair."""
    return all(labels.get(key) == value for key, value in required)


def count(statuses: Iterable[str]) -> Counts:
    """How many there are of each status."""
    counts = [0] * len(STATUSES)
    for status in statuses:
        counts[STATUS_PLACE[status]] += 1
    return (counts[0], counts[1], counts[2], counts[3], counts[4], counts[5])


def moved(counts: Counts, before: str | None, after: str) -> Counts:
    """`counts` after one child went from `before` (None: it is new) to `after`."""
    changed = list(counts)
    if before is not None:
        changed[STATUS_PLACE[before]] -= 1
    changed[STATUS_PLACE[after]] += 1
    return (changed[0], changed[1], changed[2], changed[3], changed[4], changed[5])


def kit_status(counts: Counts) -> Status:
    """The status of a kit, from its jobs by status.

    FAILED if any job is, else CANCELED if any is, FINISHED if every job is, RUNNING once any
    has left the queue, else QUEUED if any is; INIT when nothing is queued or there is no job.
    """
    init, queued, running, finished, failed, canceled = counts
    if failed:
        return Status.FAILED
    if canceled:
        return Status.CANCELED
    if finished and not (init or queued or running):
        return Status.FINISHED
    if running or finished:
        return Status.RUNNING
    return Status.QUEUED if queued else Status.INIT


def find_cycle(depends_on: Mapping[str, Sequence[str]]) -> list[str]:
    """The names along one cycle of dependencies; empty if there is none.

    Names that are not keys are taken to depend on nothing.
    """
    done: set[str] = set()
    for start in depends_on:
        if start in done:
            continue
        # The names from the start to where the search is, in this order.
        path: dict[str, None] = {start: None}
        stack = [(start, iter(depends_on[start]))]
        while stack:
            name, needs = stack[-1]
            for child in needs:
                if child in done:
                    continue
                if child in path:
                    along = list(path)
                    return [*along[along.index(child) :], child]
                path[child] = None
                stack.append((child, iter(depends_on.get(child, ()))))
                break
            else:
                stack.pop()
                done.add(name)
                del path[name]
    return []
