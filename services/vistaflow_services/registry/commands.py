"""Everything that changes the log, as commands to the ledger, and the answers to them.

`await ledger.submit(command)` answers once the command is on disk. A command whose `request`
was answered before gets `Replayed` instead of its own answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vistaflow_services.core.errors import ExistsError
from vistaflow_services.core.names import DEFAULT_PROJECT
from vistaflow_services.registry.domain import Job, JobChangeFilter, Kit, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The request behind a command, kept in `request_info`."""

    request_id: uuid.UUID | None
    method: str
    body_sha256: str
    """Of the whole request, so that another body under the same id is noticed."""
    data_json: str
    """The request as JSON text, for people."""
    encode: Callable[[Any], bytes]
    """The answer's wire form; its pending times are filled in when it is replayed."""
    actor: str = ""
    """Who asks: the name of the token, else the name that the request gives."""
    kit_id: int | None = None
    """The kit that it made or changed."""

    def check_repeated(self, method: str, body_sha256: str) -> None:
        """Raises `ExistsError` if its id was used before for another method or body."""
        if (method, body_sha256) != (self.method, self.body_sha256):
            raise ExistsError(
                f"the request_id was used for another {method}; choose a new one for each request",
                reason="REQUEST_ID_REUSED",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A change of the log."""

    request: Request | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """One job to create. Valid as far as it can be without the kit."""

    job_id: uuid.UUID
    name: str
    job_type: str
    current_order: int
    """0: the place after the kit's last job."""
    depends_on: tuple[str, ...] = ()
    spec_type: str = ""
    spec: bytes = b""
    external: bool = False
    max_attempts: int = 3
    timeout_seconds: float | None = None
    priority: int = 0
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateKit(Command):
    """Creates a kit with its jobs. Answer: `KitChange`."""

    name: str
    project: str = DEFAULT_PROJECT
    labels: Mapping[str, str] | None = None
    jobs: tuple[NewJob, ...] = ()
    spec_json: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateJob(Command):
    """Adds a job to a kit, or to a new one (`kit_id` 0). Answer: `JobChange`."""

    kit_id: int
    job: NewJob
    project: str = DEFAULT_PROJECT
    actor: str = ""


@dataclass(slots=True)
class Item:
    """One row to append. Never changed; not frozen, because a frozen object is slower to make."""

    job_id: uuid.UUID
    status: str
    task_name: str = ""
    attempt: int = 0
    seq: int = 0
    metadata_json: str = ""
    result_json: str = ""
    """`metadata.result` as JSON text; kept as the job's result when it FINISHES."""
    actor: str = ""
    reason: str = ""
    kit_id: int = 0
    """0: that of the job; any other than the job's is refused."""
    job_type: str = ""
    """Empty: that of the job; any other than the job's is refused."""
    within: str = ""
    """The only project that the caller may append to; empty: every project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Append(Command):
    """Appends state rows. Answer: `Appended`."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfKit(Command):
    """Changes a kit."""

    kit_id: int
    reason: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelKit(OfKit):
    """Cancels every job of a kit that is not terminal. Answer: `KitChange`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """A FINISHED job to replace by a successor."""

    name: str
    spec_type: str = ""
    """Empty: the same spec again."""
    spec: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryKit(OfKit):
    """Queues the failed and canceled jobs of a kit again. Answer: `KitChange`."""

    replacements: tuple[Replacement, ...] = ()
    """FINISHED jobs that get a successor, as do the FINISHED ones that depend on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseKit(OfKit):
    """Grants no more jobs of a kit. Answer: `KitChange`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeKit(OfKit):
    """Grants jobs of a paused kit again. Answer: `KitChange`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfJob(Command):
    """Changes a job."""

    job_id: uuid.UUID
    reason: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelJob(OfJob):
    """Cancels one job. Answer: `JobChange`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryJob(OfJob):
    """Queues one failed or canceled job again. Answer: `JobChange`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeJobs(Command):
    """Cancels or retries some jobs of one kit, those that still can be. Answer: `JobsChange`."""

    kit_id: int
    job_ids: tuple[uuid.UUID, ...]
    statuses: frozenset[str]
    """A job that has left these meanwhile is left alone."""
    retry: bool
    """Whether they are queued again; else they are canceled."""
    reason: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyJobs:
    """Jobs of any number of kits to cancel or retry: one `ChangeJobs` a kit, then `Conclude`."""

    request: Request
    filter: JobChangeFilter
    retry: bool
    dry_run: bool
    """Whether to count only."""
    reason: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginJobs(Command):
    """Records a change of jobs of several kits before it is made. Answer: True.

    Any registry of the database continues it until it is concluded.
    """

    many: ManyJobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclude(Command):
    """Stores the answer to a request of several commands, as `request` encodes it. Answer: True."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of many jobs of one kit that is made in pieces, each of them a commit.

    Which jobs it is for is settled with the first piece. Each is looked at once: one that cannot
    be moved any more when its turn comes is left alone.
    """

    change_id: uuid.UUID
    """The request's id; one of its own for a request without."""
    request: Request
    kit_id: int
    job_ids: tuple[uuid.UUID, ...]
    """The jobs, in the order in which they are moved."""
    retry: bool
    """Whether they are queued again; else they are canceled."""
    whole: bool
    """Whether the kit is the answer; else some of the jobs are."""
    reason: str = ""
    actor: str = ""
    done: int = 0
    """How many of the jobs have had their turn."""
    count: int = 0
    """How many of them were moved."""
    revision: int = 0
    """Of the last row made so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoOn(Command):
    """Makes the next piece of a change. Answer: as its first command's, or `Unfinished`."""

    @property
    def change_id(self) -> uuid.UUID:
        """Of the change: the id of its request."""
        assert self.request is not None
        assert self.request.request_id is not None
        return self.request.request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A piece was made, and more is left."""

    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Command):
    """Leases a QUEUED job to a worker: RUNNING, attempt + 1. Answer: `Granted` or None."""

    job_id: uuid.UUID
    worker: str
    lease_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Command):
    """The worker that holds an attempt releases it. Answer: whether it held it."""

    job_id: uuid.UUID
    attempt: int
    worker: str
    reason: str = ""
    counts: bool = False
    """Whether it counts against `max_attempts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lose(Command):
    """A lease expired. Answer: whether the attempt was still the current one."""

    job_id: uuid.UUID
    attempt: int
    worker: str


@dataclass(slots=True, kw_only=True)
class KitChange:
    """A kit after a command."""

    kit: Kit
    revision: int
    """Of the last row the command made; the head's if it made none."""
    count: int = 0
    """How many jobs it moved."""

    def settle(self, now: datetime) -> None:
        """Puts the time of the commit where it was pending."""
        self.kit.settle(now)


@dataclass(slots=True, kw_only=True)
class JobChange:
    """A job after a command."""

    job: Job
    revision: int

    def settle(self, now: datetime) -> None:
        """Puts the time of the commit where it was pending."""
        self.job.settle(now)


@dataclass(slots=True, kw_only=True)
class JobsChange:
    """Jobs after a command."""

    jobs: list[Job]
    """Some of those it moved."""
    revision: int
    """Of the last row the command made; 0 if it made none."""
    count: int
    """How many jobs it moved."""

    def settle(self, now: datetime) -> None:
        """Puts the time of the commit where it was pending."""
        for job in self.jobs:
            job.settle(now)


@dataclass(slots=True)
class Result:
    """What became of one item. Not changed."""

    verdict: Verdict
    revision: int = 0
    detail: str = ""
    reason: str = ""
    """The code for `detail`, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of every item, in order."""

    results: tuple[Result, ...]
    revision: int
    """The highest of the results'."""

    def settle(self, now: datetime) -> None:
        """Holds no times."""


@dataclass(slots=True, kw_only=True)
class Granted:
    """An attempt handed out."""

    job: Job
    inputs: tuple[Job, ...]
    """The finished jobs it depends on, in the order of `depends_on`."""

    def settle(self, now: datetime) -> None:
        """Puts the time of the commit where it was pending."""
        self.job.settle(now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The first answer to a repeated request, in its wire form."""

    response: bytes
    created_at: datetime
    """When the first answer was committed: the time that was pending in it."""
