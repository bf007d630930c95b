"""Between the proto and the domain: values, both ways. `requests.py` has the requests."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import names
from vistaflow_services.core.errors import Violations
from vistaflow_services.core.message_limits import ANSWER_BYTES, fitting
from vistaflow_services.registry.commands import Result
from vistaflow_services.registry.domain import (
    MAX_FILTER_IDS,
    NO_COUNTS,
    PENDING,
    Counts,
    Job,
    JobType,
    Kit,
    Progress,
    StateRow,
    Status,
    same,
)
from vistaflow_services.registry.messages.encoding import readable, struct_bytes, struct_text
from vistaflow_services.registry.messages.numbers import InexactError, tell_rounded
from vistaflow_services.registry.messages.raw import STRUCT_BYTES_A_JSON_BYTE

JOB_TYPES: dict[str, common.JobType.ValueType] = {
    job_type.value: common.JobType.Value(f"JOB_TYPE_{job_type.value}") for job_type in JobType
}
STATUSES: dict[str, common.Status.ValueType] = {
    status.value: common.Status.Value(f"STATUS_{status.value}") for status in Status
}
JOB_TYPE_WORDS: dict[int, str] = {number: word for word, number in JOB_TYPES.items()}
_JOB_TYPE_NAMES = ", ".join(f"JOB_TYPE_{job_type}" for job_type in JobType)
_STATUS_NAMES = ", ".join(f"STATUS_{status}" for status in Status)
_VERDICTS = {word.removeprefix("VERDICT_"): value for word, value in pb.Verdict.items()}
STATUS_WORDS: dict[int, str] = {number: word for word, number in STATUSES.items()}

_CONTROL_BUT_BLANKS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]").search

# A NUL in JSON text; an even number of backslashes before it are backslashes.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000").search


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# From the domain.


def status_to_proto(status: str) -> common.Status.ValueType:
    """The enum value of a status word."""
    return STATUSES[status]


def job_type_to_proto(job_type: str) -> common.JobType.ValueType:
    """The enum value of a job type's word; unspecified for one this version does not know."""
    return JOB_TYPES.get(job_type, common.JOB_TYPE_UNSPECIFIED)


def counts_to_proto(counts: Counts) -> common.StatusCounts:
    """Children by status."""
    return common.StatusCounts(
        init_count=counts[0],
        queued_count=counts[1],
        running_count=counts[2],
        finished_count=counts[3],
        failed_count=counts[4],
        canceled_count=counts[5],
    )


def time_to_proto(time: datetime) -> Timestamp:
    """A moment."""
    stamp = Timestamp()
    put_time(stamp, time)
    return stamp


def put_time(stamp: Timestamp, time: datetime) -> None:
    """Puts in a moment; a faster `FromDatetime`."""
    since = time - _EPOCH
    stamp.seconds = since.days * 86400 + since.seconds
    stamp.nanos = since.microseconds * 1000


def struct_to_proto(text: str, struct: struct_pb2.Struct) -> None:
    """Puts a JSON object into a Struct, cut if it is beyond the limits; see `encoding.readable`."""
    struct.MergeFromString(struct_bytes(readable(text)))


def state_to_proto(row: StateRow) -> common.State:
    """A row of the log."""
    state = common.State(
        revision=row.revision,
        kit_id=row.kit_id,
        job_id=str(row.job_id),
        job_type=job_type_to_proto(row.job_type),
        task_name=row.task_name,
        status=STATUSES[row.status],
        current_order=row.current_order,
        attempt=row.attempt,
        seq=row.seq,
        actor=row.actor,
        reason=row.reason,
    )
    put_time(state.created_at, row.created_at)
    if row.metadata_json:
        struct_to_proto(row.metadata_json, state.metadata)
    return state


def job_to_proto(job: Job, *, task_counts: Counts | None = None) -> common.Job:
    """A job with its tasks, or with their counts alone."""
    message = common.Job()
    put_job(message, job, task_counts=task_counts)
    return message


def put_job(
    message: common.Job, job: Job, *, task_counts: Counts | None = None, asked: bool = True
) -> None:
    """Puts in a job, field by field and only what is set: faster than the constructor.

    Args:
        message: An empty message.
        job: The job.
        task_counts: The counts of its tasks, if it does not hold them.
        asked: Whether to put in the spec and dependencies, which its request holds, too.
    """
    message.kit_id = job.kit_id
    message.job_id = str(job.job_id)
    message.name = job.name
    message.job_type = job_type_to_proto(job.job_type)
    message.status = STATUSES[job.status]
    message.current_order = job.current_order
    message.attempt = job.attempt
    message.max_attempts = job.max_attempts
    message.priority = job.priority
    message.revision = job.revision
    message.external = job.external
    put_time(message.created_at, job.created_at)
    # Fields with their default are left out: to set one costs as much as to set a value.
    if job.depends_on and asked:
        message.depends_on.extend(job.depends_on)
    if job.labels:
        message.labels.update(job.labels)
    if job.reason:
        message.reason = job.reason
    if job.actor:
        message.actor = job.actor
    if job.worker:
        message.worker = job.worker
    if job.spec_type and asked:
        message.spec.type_url, message.spec.value = job.spec_type, job.spec
    if job.timeout_seconds is not None:
        message.timeout.FromNanoseconds(round(job.timeout_seconds * 1e9))
    if job.started_at is not None:
        put_time(message.started_at, job.started_at)
    if job.finished_at is not None:
        put_time(message.finished_at, job.finished_at)
    if job.result_json:
        struct_to_proto(job.result_json, message.result)
    if job.progress is not None:
        message.progress.CopyFrom(progress_to_proto(job.progress))
    if job.tasks:
        # The board holds tasks in the order of their first rows.
        tasks = sorted(job.tasks.values(), key=lambda row: row.revision)
        message.tasks.extend(state_to_proto(row) for row in tasks)
    counts = task_counts or job.task_counts()
    # Present even if all are 0: clients tell "no tasks" from "not counted".
    if counts == NO_COUNTS:
        message.task_counts.SetInParent()
    else:
        message.task_counts.CopyFrom(counts_to_proto(counts))


def progress_to_proto(progress: Progress) -> common.Progress:
    """How far a job is."""
    message = common.Progress(
        phase=progress.phase,
        completed=progress.completed,
        total=progress.total,
        unit=progress.unit,
        message=progress.message,
    )
    if progress.updated_at is not None:
        put_time(message.updated_at, progress.updated_at)
    return message


def kit_to_proto(kit: Kit, *, asked: bool = True) -> pb.Kit:
    """A kit with the jobs it holds; without the specs and dependencies if not `asked`."""
    message = pb.Kit(
        kit_id=kit.kit_id,
        name=kit.name,
        project=kit.project,
        labels=kit.labels,
        status=STATUSES[kit.status],
        job_counts=counts_to_proto(kit.counts),
        revision=kit.revision,
        created_at=time_to_proto(kit.created_at),
        updated_at=time_to_proto(kit.updated_at),
        actor=kit.actor,
        paused=kit.paused,
    )
    if kit.spec_json and asked:
        struct_to_proto(kit.spec_json, message.spec)
    for job in kit.ordered_jobs():
        put_job(message.jobs.add(), job, asked=asked)
    return message


def job_in_short(job: Job, *, task_counts: Counts | None = None) -> common.Job:
    """A job in the answer to a change: without its spec, result and tasks, but with counts."""
    counts = task_counts or job.task_counts()
    short = same(job, spec_type="", spec=b"", result_json="", tasks={})
    return job_to_proto(short, task_counts=counts)


def kit_in_short(kit: Kit) -> pb.Kit:
    """A kit as changes answer it: with its jobs in short, as many as fit, and without its spec."""
    message = kit_to_proto(replace(kit, jobs={}, spec_json=""))
    message.jobs.extend(fitting(kit.ordered_jobs(), job_in_short, ANSWER_BYTES))
    message.omitted_job_count = len(kit.jobs) - len(message.jobs)
    return message


def result_to_proto(result: Result) -> pb.AppendResult:
    """What became of one appended row."""
    if not result.detail:
        # Most are accepted; each field costs time.
        return pb.AppendResult(verdict=_VERDICTS[result.verdict], revision=result.revision)
    return pb.AppendResult(
        verdict=_VERDICTS[result.verdict],
        revision=result.revision,
        detail=result.detail,
        reason=result.reason,
    )


def settle(message: Any, now: datetime) -> None:
    """Puts the time of the commit where it was pending when an answer was stored."""
    pending, settled = time_to_proto(PENDING), time_to_proto(now)

    def visit(part: Any) -> None:
        for field, value in part.ListFields():
            if field.message_type is None or field.message_type.full_name in _TIMELESS:
                continue
            if field.message_type.full_name == "google.protobuf.Timestamp":
                if value == pending:
                    value.CopyFrom(settled)
            elif hasattr(value, "ListFields"):
                visit(value)
            elif not hasattr(value, "items"):
                for part_value in value:
                    visit(part_value)

    visit(message)


_TIMELESS = frozenset({"google.protobuf.Struct", "google.protobuf.Any"})


# To the domain. A mistake is added to the violations; the value returned is valid.


def job_type_from_proto(value: int, field: str, violations: Violations) -> str:
    """The word of a job type."""
    word = JOB_TYPE_WORDS.get(value, "")
    if not word:
        violations.add(field, f"must be one of {_JOB_TYPE_NAMES}")
    return word


def status_from_proto(value: int, field: str, violations: Violations) -> str:
    """The word of a status."""
    word = STATUS_WORDS.get(value, "")
    if not word:
        violations.add(field, f"must be one of {_STATUS_NAMES}")
    return word


def uuid_of(text: str) -> uuid.UUID | None:
    """The UUID that a text is in its 36-character form, if it is one."""
    try:
        return uuid.UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def uuid_from_proto(text: str, field: str, violations: Violations) -> uuid.UUID:
    """A UUID in its 36-character form."""
    value = uuid_of(text)
    if value is not None:
        return value
    what = "is required: " if not text else ""
    violations.add(field, f"{what}must be a UUID, such as {uuid.UUID(int=0x1234 << 112)}")
    return uuid.UUID(int=0)


def text_from_proto(text: str, field: str, limit: int, violations: Violations) -> str:
    """A text for people: no control characters except tabs and line ends."""
    if len(text) > limit:
        violations.add(field, f"is {len(text):,} characters long; at most {limit:,} are kept")
    if _CONTROL_BUT_BLANKS(text, 0, limit):
        violations.add(field, "must not hold control characters")
    return text


def label_from_proto(text: str, field: str, limit: int, violations: Violations) -> str:
    """A name or the like: within a limit and without any control character."""
    for problem in names.text_problems(text, limit):
        violations.add(field, problem)
    return text


def name_from_proto(text: str, field: str, limit: int, violations: Violations) -> str:
    """A name that is part of paths and commands: of a job, of a project."""
    for problem in names.name_problems(text, limit):
        violations.add(field, problem)
    return text


def labels_from_proto(
    labels: Mapping[str, str], field: str, violations: Violations
) -> dict[str, str]:
    """Key and value pairs."""
    for key, problem in names.label_problems(labels):
        violations.add(f"{field}[{key}]" if key else field, problem)
    return dict(labels) if len(labels) <= names.MAX_LABELS else {}


def struct_from_proto(
    struct: struct_pb2.Struct,
    field: str,
    limit: int,
    violations: Violations,
    *,
    numbers_checked: bool,
) -> str:
    """A Struct as JSON text. An empty one is the empty text."""
    if not struct.fields:
        return ""
    if is_too_large(struct, limit):
        tell_too_large(field, limit, violations)
        return ""
    try:
        text = struct_text(struct, numbers_checked=numbers_checked)
    except InexactError:
        tell_rounded(struct, field, violations)
        return ""
    except ValueError as error:
        violations.add(field, str(error))
        return ""
    if len(text) > limit or len(text.encode()) > limit:
        tell_too_large(field, limit, violations)
        return ""
    if _NUL(text):
        violations.add(field, "holds a NUL character, which the database cannot keep")
        return ""
    return text


def is_too_large(struct: struct_pb2.Struct, limit: int) -> bool:
    """Whether a Struct is larger than so many bytes of JSON, whatever it holds."""
    return struct.ByteSize() > limit * STRUCT_BYTES_A_JSON_BYTE


def tell_too_large(field: str, limit: int, violations: Violations) -> None:
    """Notes that a Struct is larger than so many bytes of JSON."""
    violations.add(field, f"is larger than {limit // 1024} KiB as JSON")


def time_from_proto(
    message: Any, name: str, violations: Violations, prefix: str = ""
) -> datetime | None:
    """The moment of a Timestamp field; None if it is unset."""
    if not message.HasField(name):
        return None
    stamp: Timestamp = getattr(message, name)
    try:
        if 0 <= stamp.nanos < 1_000_000_000:
            return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        pass
    violations.add(f"{prefix}{name}", "is not a time of the years 1 to 9999")
    return None


def ids_from_proto(values: Sequence[int], field: str, violations: Violations) -> list[int]:
    """Ids of kits."""
    ids = few_from_proto(values, field, violations)
    for place, value in enumerate(ids):
        if value < 1:
            violations.add(f"{field}[{place}]", f"is {value}; kits are numbered from 1")
    return ids


def job_types_from_proto(
    values: Sequence[int], field: str, violations: Violations
) -> frozenset[str]:
    """Job types' words."""
    return frozenset(
        job_type_from_proto(value, f"{field}[{place}]", violations)
        for place, value in enumerate(few_from_proto(values, field, violations))
    )


def statuses_from_proto(
    values: Sequence[int], field: str, violations: Violations
) -> frozenset[str]:
    """Status words."""
    return frozenset(
        status_from_proto(value, f"{field}[{place}]", violations)
        for place, value in enumerate(few_from_proto(values, field, violations))
    )


def few_from_proto(values: Sequence[Any], field: str, violations: Violations) -> list[Any]:
    """The values of a list in a filter, no more than are allowed."""
    if len(values) > MAX_FILTER_IDS:
        violations.add(
            field, f"has {len(values):,} entries; at most {MAX_FILTER_IDS:,} are allowed"
        )
    return list(values[:MAX_FILTER_IDS])
