"""What the client returns: frozen values, times in UTC, statuses as words.

Each keeps the message it was made from as `pb`, for what is not carried over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import json_format, timestamp_pb2

from vistaflow import _html
from vistaflow._rows import Rows, short_repr
from vistaflow._rpc.structs import whole
from vistaflow.api.common.v1 import access_pb2, common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.errors import invalid

__all__ = [
    "AppendResult",
    "Appended",
    "Bookmark",
    "Counts",
    "Delta",
    "Job",
    "Kit",
    "KitDiff",
    "ManyJobs",
    "Prediction",
    "Progress",
    "Snapshot",
    "State",
    "StateChange",
    "Synced",
    "WatchEvent",
]

if TYPE_CHECKING:
    import pandas

TERMINAL: Final = frozenset({"FINISHED", "FAILED", "CANCELED"})
"""Statuses that only an explicit retry leaves, and FINISHED never."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many children are in each status."""

    init: int = 0
    queued: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    canceled: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(
            (self.init, self.queued, self.running, self.finished, self.failed, self.canceled)
        )


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a running job is."""

    phase: str
    completed: int
    total: int
    """0 when unknown."""
    unit: str
    message: str


@dataclass(frozen=True, kw_only=True)
class State:
    """One row of the log: this task of this job entered this status."""

    revision: int
    kit_id: int
    job_id: str
    job_type: str
    task_name: str
    """Empty: the job's own row."""
    status: str
    current_order: int
    attempt: int
    created_at: datetime | None
    actor: str
    reason: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return short_repr(
            self, "revision", "kit_id", "job_id", "job_type", "task_name", "status", "reason"
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One step of a kit."""

    kit_id: int
    job_id: str
    name: str
    job_type: str
    status: str
    current_order: int
    attempt: int
    max_attempts: int
    depends_on: tuple[str, ...]
    labels: Mapping[str, str]
    progress: Progress | None
    revision: int
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    reason: str
    actor: str
    worker: str
    tasks: tuple[State, ...]
    task_counts: Counts
    result: Mapping[str, Any]
    """The manifest that it published; empty before it is FINISHED."""
    seen_at: datetime | None = field(default=None, compare=False)
    """The time of the past state that this object shows; None for the current state."""
    pb: common_pb2.Job = field(repr=False, compare=False)

    def __repr__(self) -> str:
        return short_repr(self, "job_id", "name", "job_type", "status", "attempt", "reason")

    @property
    def elapsed(self) -> timedelta | None:
        """Duration of the current attempt, until now or the past time that the object shows."""
        if self.started_at is None:
            return None
        return (self.finished_at or self.seen_at or datetime.now(UTC)) - self.started_at


@dataclass(frozen=True, kw_only=True)
class Kit:
    """One device or process kit taken through the pipeline."""

    kit_id: int
    name: str
    project: str
    labels: Mapping[str, str]
    status: str
    jobs: tuple[Job, ...]
    """By `current_order`; empty in lists."""
    job_counts: Counts
    revision: int
    created_at: datetime | None
    updated_at: datetime | None
    actor: str
    spec: Mapping[str, Any]
    paused: bool = False
    """Whether its jobs are not granted to workers now."""
    pb: registry_pb2.Kit = field(repr=False, compare=False)

    @property
    def is_terminal(self) -> bool:
        """Whether nothing of it moves until it is retried."""
        return self.status in TERMINAL and not (self.job_counts.running or self.job_counts.queued)

    def job(self, name: str) -> Job:
        """The job of that name or type, such as `train` or `ML_TRAIN`.

        For a job that was replaced this is its latest successor, unless the name is an exact one
        such as `train@2`.

        Raises:
            KeyError: If there is none.
        """
        own = {job.name: job for job in self.jobs}
        if "@" in name and name in own:
            return own[name]
        for first in self.jobs:
            if name in (first.name, first.job_type):
                return [job for job in self.jobs if job.name.partition("@")[0] == first.name][-1]
        raise KeyError(name)

    def to_pandas(self) -> pandas.DataFrame:
        """Its jobs as a data frame; see `Rows.to_pandas`.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        return Rows(self.jobs).to_pandas()

    def __repr__(self) -> str:
        return short_repr(self, "kit_id", "name", "project", "status", "revision")

    def _repr_html_(self) -> str:
        jobs = [
            (job.current_order, job.name, job.job_type, job.status, job.reason) for job in self.jobs
        ]
        plots = [plot for job in self.jobs for plot in _mappings(job.result.get("plots"))]
        return "".join(
            (
                _html.heading(f"kit {self.kit_id}", f"{self.name}: {self.status}"),
                _html.table(("", "job", "type", "status", ""), jobs),
                self._result_html(),
                _html.pictures(str(plot.get("uri", "")) for plot in plots),
            )
        )

    def _result_html(self) -> str:
        """The best point of its last optimisation, as its manifest has it."""
        for job in reversed(self.jobs):
            best = job.result.get("best")
            if job.job_type != "OPTIMIZE" or not isinstance(best, dict):
                continue
            units = {
                str(column.get("name")): column.get("unit", "")
                for part in ("parameters", "responses")
                for column in _mappings(job.result.get(part))
            }
            rows = [
                (name, _html.number(value), units.get(name, ""))
                for part in ("point", "simulated")
                for values in _mappings([best.get(part)])
                for name, value in values.items()
            ]
            return _html.heading("best point") + _html.table(("name", "value", "unit"), rows)
        return ""


@dataclass(frozen=True, kw_only=True)
class StateChange:
    """One job or task that differs between two revisions."""

    before: State | None
    """How it was; none: it was not there."""
    after: State | None
    """How it is; none: it left the tree with an earlier attempt."""


@dataclass(frozen=True, kw_only=True)
class KitDiff:
    """What differs in a kit between two revisions."""

    from_revision: int
    to_revision: int
    from_status: str
    """Empty: the kit was not there."""
    to_status: str
    from_counts: Counts
    to_counts: Counts
    changes: tuple[StateChange, ...]
    """By the revision of the later row."""


@dataclass(frozen=True, kw_only=True)
class ManyJobs:
    """What a change of many jobs did, or would do."""

    count: int
    jobs: tuple[Job, ...]
    """Some of them, at most 100, without their results."""
    revision: int
    """Of the last row made; 0 if none was."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Current rows; a large snapshot comes in several of these."""

    revision: int
    states: tuple[State, ...]
    kits: tuple[Kit, ...]


@dataclass(frozen=True, kw_only=True)
class Delta:
    """New rows, those of one append never split."""

    revision: int
    states: tuple[State, ...]
    kit_statuses: Mapping[int, str]
    """The status of each kit whose jobs moved."""
    kit_counts: Mapping[int, Counts]
    """Its jobs by status."""
    left: tuple[State, ...] = ()
    """Rows by which a job or task left the statuses watched; with `include_left`."""
    folded_count: int = 0
    """Rows that later ones of the same task took the place of; with the mode "latest"."""


@dataclass(frozen=True, kw_only=True)
class Bookmark:
    """Nothing new: every matching row up to `revision` was delivered."""

    revision: int


@dataclass(frozen=True, kw_only=True)
class Synced:
    """The past is delivered; what follows is live."""

    revision: int


@dataclass(frozen=True, kw_only=True)
class AppendResult:
    """What became of one row."""

    verdict: str
    """ACCEPTED, DUPLICATE, REJECTED or STALE_ATTEMPT."""
    revision: int
    """Of the row, or of the first one of a duplicate; 0 if nothing was recorded."""
    detail: str
    """Why it was not recorded."""
    reason: str = ""
    """The code for `detail`, such as `SEQ_REUSED`, if there is one."""

    @property
    def is_recorded(self) -> bool:
        """Whether the row is in the log."""
        return self.verdict in ("ACCEPTED", "DUPLICATE")


@dataclass(frozen=True, kw_only=True)
class Appended:
    """What became of rows that were appended together."""

    results: tuple[AppendResult, ...]
    """One a row, in order."""
    revision: int
    """The highest of the results; read with `min_revision` set to it to see the rows."""


WatchEvent = Snapshot | Delta | Bookmark | Synced
"""What a watch yields."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One response at one point, in the response's unit."""

    mean: float
    standard_deviation: float
    low95: float
    high95: float
    unit: str


def job_type_word(value: int) -> str:
    """`DOE` of `JOB_TYPE_DOE`; the number of one this client does not know."""
    return _word(common_pb2.JobType, value, "JOB_TYPE_")


def status_word(value: int) -> str:
    """`RUNNING` of `STATUS_RUNNING`; the number of one this client does not know."""
    return _word(common_pb2.Status, value, "STATUS_")


def verdict_word(value: int) -> str:
    """`ACCEPTED` for `VERDICT_ACCEPTED`; the number of a verdict unknown to this client."""
    return _word(registry_pb2.Verdict, value, "VERDICT_")


def status_value(word: str) -> common_pb2.Status.ValueType:
    """The status that a word names.

    Raises:
        InvalidArgumentError: There is none.
    """
    value: common_pb2.Status.ValueType = _value(common_pb2.Status, word, "STATUS_", "status")
    return value


def job_type_value(word: str) -> common_pb2.JobType.ValueType:
    """The job type that a word names.

    Raises:
        InvalidArgumentError: There is none.
    """
    value: common_pb2.JobType.ValueType = _value(common_pb2.JobType, word, "JOB_TYPE_", "job_type")
    return value


def role_value(word: str) -> access_pb2.Role.ValueType:
    """The role that a word names.

    Raises:
        InvalidArgumentError: There is none.
    """
    value: access_pb2.Role.ValueType = _value(access_pb2.Role, word, "ROLE_", "role")
    return value


def _value(enum: Any, word: str, prefix: str, argument: str) -> Any:
    name = f"{prefix}{word.upper().removeprefix(prefix)}" if isinstance(word, str) else ""
    if name not in enum.keys():  # noqa: SIM118
        words = ", ".join(key.removeprefix(prefix) for key, number in enum.items() if number)
        raise invalid(argument, f"{name or repr(word)} is none of {words}")
    return enum.Value(name)


def counts_of(message: common_pb2.StatusCounts) -> Counts:
    """The counts of a message."""
    return Counts(
        init=message.init_count,
        queued=message.queued_count,
        running=message.running_count,
        finished=message.finished_count,
        failed=message.failed_count,
        canceled=message.canceled_count,
    )


def state_of(message: common_pb2.State) -> State:
    """The row of a message."""
    return State(
        revision=message.revision,
        kit_id=message.kit_id,
        job_id=message.job_id,
        job_type=job_type_word(message.job_type),
        task_name=message.task_name,
        status=status_word(message.status),
        current_order=message.current_order,
        attempt=message.attempt,
        created_at=_time(message.created_at) if message.HasField("created_at") else None,
        actor=message.actor,
        reason=message.reason,
        metadata=struct_dict(message.metadata),
    )


def job_of(message: common_pb2.Job) -> Job:
    """The job of a message."""
    progress = message.progress if message.HasField("progress") else None
    return Job(
        kit_id=message.kit_id,
        job_id=message.job_id,
        name=message.name,
        job_type=job_type_word(message.job_type),
        status=status_word(message.status),
        current_order=message.current_order,
        attempt=message.attempt,
        max_attempts=message.max_attempts,
        depends_on=tuple(message.depends_on),
        labels=dict(message.labels),
        progress=progress_of(progress) if progress else None,
        revision=message.revision,
        created_at=_time(message.created_at) if message.HasField("created_at") else None,
        started_at=_time(message.started_at) if message.HasField("started_at") else None,
        finished_at=_time(message.finished_at) if message.HasField("finished_at") else None,
        reason=message.reason,
        actor=message.actor,
        worker=message.worker,
        tasks=tuple(map(state_of, message.tasks)),
        task_counts=counts_of(message.task_counts),
        result=struct_dict(message.result),
        pb=message,
    )


def progress_of(message: common_pb2.Progress) -> Progress:
    """The progress of a message."""
    return Progress(
        phase=message.phase,
        completed=message.completed,
        total=message.total,
        unit=message.unit,
        message=message.message,
    )


def kit_of(message: registry_pb2.Kit) -> Kit:
    """The kit of a message."""
    return Kit(
        kit_id=message.kit_id,
        name=message.name,
        project=message.project,
        labels=dict(message.labels),
        status=status_word(message.status),
        jobs=tuple(map(job_of, message.jobs)),
        job_counts=counts_of(message.job_counts),
        revision=message.revision,
        created_at=_time(message.created_at) if message.HasField("created_at") else None,
        updated_at=_time(message.updated_at) if message.HasField("updated_at") else None,
        actor=message.actor,
        spec=struct_dict(message.spec),
        paused=message.paused,
        pb=message,
    )


def seen_at(kit: Kit, moment: datetime | None) -> Kit:
    """A kit as of a past time: the duration of a job that ran then ends at that time."""
    jobs = tuple(dataclasses.replace(job, seen_at=moment) for job in kit.jobs)
    return dataclasses.replace(kit, jobs=jobs)


def diff_of(message: registry_pb2.DiffKitResponse) -> KitDiff:
    """The difference of a message."""
    return KitDiff(
        from_revision=message.from_revision,
        to_revision=message.to_revision,
        from_status=status_word(message.from_status) if message.from_status else "",
        to_status=status_word(message.to_status),
        from_counts=counts_of(message.from_counts),
        to_counts=counts_of(message.to_counts),
        changes=tuple(
            StateChange(
                before=state_of(change.before) if change.HasField("before") else None,
                after=state_of(change.after) if change.HasField("after") else None,
            )
            for change in message.changes
        ),
    )


def many_of(
    message: registry_pb2.CancelJobsResponse | registry_pb2.RetryJobsResponse,
) -> ManyJobs:
    """The change of a message."""
    count = (
        message.canceled_count
        if isinstance(message, registry_pb2.CancelJobsResponse)
        else message.retried_count
    )
    return ManyJobs(count=count, jobs=tuple(map(job_of, message.jobs)), revision=message.revision)


def appended_of(results: Iterable[registry_pb2.AppendResult], revision: int) -> Appended:
    """The verdicts of a message."""
    return Appended(
        results=tuple(
            AppendResult(
                verdict=verdict_word(result.verdict),
                revision=result.revision,
                detail=result.detail,
                reason=result.reason,
            )
            for result in results
        ),
        revision=revision,
    )


def event_of(message: registry_pb2.WatchStatesResponse) -> WatchEvent | None:
    """The event that a message; None for the end of a stream."""
    kind, revision = message.WhichOneof("event"), message.revision
    if kind == "snapshot":
        states = tuple(map(state_of, message.snapshot.states))
        return Snapshot(
            revision=revision, states=states, kits=tuple(map(kit_of, message.snapshot.kits))
        )
    if kind == "delta":
        counts = message.delta.kit_counts
        return Delta(
            revision=revision,
            states=tuple(map(state_of, message.delta.states)),
            kit_statuses={count.kit_id: status_word(count.status) for count in counts},
            kit_counts={count.kit_id: counts_of(count.job_counts) for count in counts},
            left=tuple(map(state_of, message.delta.left)),
            folded_count=message.delta.folded_count,
        )
    if kind == "synced":
        return Synced(revision=revision)
    return Bookmark(revision=revision) if kind == "bookmark" else None


def struct_dict(message: Any) -> dict[str, Any]:
    """A Struct as Python values: whole numbers as integers, names in order, for it keeps none."""
    if not message.fields:
        return {}
    whole: dict[str, Any] = _whole(json_format.MessageToDict(message))
    return whole


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return whole(value) if isinstance(value, float) else value


def _mappings(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list in a manifest; the owner of an external job may publish anything."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _word(enum: Any, value: int, prefix: str) -> str:
    try:
        return str(enum.Name(value)).removeprefix(prefix)
    except ValueError:
        return str(value)


def _time(message: timestamp_pb2.Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)
