"""Reads requests into commands; every mistake is reported under its field before any change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf import json_format, struct_pb2

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.datasets.v1.datasets_pb2 import UpdateDatasetRequest
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow_services.core.door import callers
from vistaflow_services.core.door.callers import Role
from vistaflow_services.core.errors import MAX_VIOLATIONS, Violations
from vistaflow_services.core.message_limits import (
    APPEND_BYTES,
    ENTRY_BYTES,
    JOB_BYTES,
    KIT_BYTES,
    ROW_BYTES,
    size_of,
)
from vistaflow_services.core.names import (
    DEFAULT_PROJECT,
    MAX_ACTOR,
    MAX_ATTEMPTS,
    MAX_JOB_NAME,
    MAX_PROJECT,
    MAX_TASK_NAME,
    kit_name_problems,
)
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.domain import (
    MAX_JOB_SPEC_BYTES,
    MAX_JOBS_A_KIT,
    MAX_JOBS_A_REQUEST,
    MAX_KIT_SPEC_BYTES,
    MAX_METADATA_BYTES,
    MAX_NEEDS_A_REQUEST,
    MAX_REASON,
    MAX_STATES_AN_APPEND,
    find_cycle,
)
from vistaflow_services.registry.messages import filters, translate
from vistaflow_services.registry.messages.encoding import struct_text
from vistaflow_services.registry.messages.quick import quick_item
from vistaflow_services.registry.messages.raw import Rows
from vistaflow_services.registry.messages.varint import varint

MAX_RECORDED_BYTES = 8 * MAX_KIT_SPEC_BYTES
"""Largest Struct, in its binary form, that is copied into `request_info.data`."""

LONG_LIST = 20
"""Most values of a list kept there."""

LONG_BYTES = 4 * 1024
"""Longest bytes field kept as it is in `request_info.data`."""

JOB_FIXED_BYTES = 160
"""What the registry adds to a job beside its actor: ids, counts, times."""

INPUT_BYTES = 64 + ENTRY_BYTES
"""Size of a dependency in a grant to a worker, beside its name and result."""

MAX_TYPE_URL = 500
MAX_PRIORITY = 100
MAX_TIMEOUT_SECONDS = 366 * 86400.0

Encode = Callable[[Any], bytes]

_STATES = varint(pb.AppendStatesRequest.STATES_FIELD_NUMBER << 3 | 2)


class Hash(Protocol):
    """A hash in the making."""

    def update(self, data: bytes, /) -> None:
        """Takes in more."""

    def hexdigest(self) -> str:
        """The hash so far."""


KitRequest = pb.CancelKitRequest | pb.RetryKitRequest | pb.PauseKitRequest | pb.ResumeKitRequest
JobRequest = pb.CancelJobRequest | pb.RetryJobRequest
Appended = (
    pb.AppendStatesRequest
    | pb.StreamStatesRequest
    | Rows[pb.AppendStatesRequest]
    | Rows[pb.StreamStatesRequest]
)
JobsRequest = pb.CancelJobsRequest | pb.RetryJobsRequest
ScheduleRequest = (
    schedules_pb2.AddScheduleRequest
    | schedules_pb2.ChangeScheduleRequest
    | schedules_pb2.RemoveScheduleRequest
    | schedules_pb2.AddFireRequest
)
OutboxRequest = (
    outbox_pb2.SetWebhookRequest
    | outbox_pb2.DeleteWebhookRequest
    | outbox_pb2.TestWebhookRequest
    | outbox_pb2.RetryDeliveryRequest
)
Request = (
    pb.CreateKitRequest
    | pb.CreateJobRequest
    | pb.AppendStatesRequest
    | KitRequest
    | JobRequest
    | JobsRequest
    | UpdateDatasetRequest
    | ScheduleRequest
    | OutboxRequest
)

OfKit = TypeVar("OfKit", bound=c.OfKit)
OfJob = TypeVar("OfJob", bound=c.OfJob)


def create_kit(request: pb.CreateKitRequest, encode: Encode) -> c.CreateKit:
    """A kit with its jobs."""
    violations = Violations()
    _check_kit_size(request, violations)
    behind = kept_request(request, encode, violations)
    for problem in kit_name_problems(request.name):
        violations.add("name", problem)
    if len(request.jobs) > MAX_JOBS_A_REQUEST:
        problem = f"has {len(request.jobs):,} jobs; create at most {MAX_JOBS_A_REQUEST:,} at once"
        violations.add("jobs", problem)
    jobs = tuple(
        _new_job(job, f"jobs[{place}]", violations)
        for place, job in enumerate(request.jobs[:MAX_JOBS_A_REQUEST])
    )
    _check_names(jobs, violations)
    spec = translate.struct_from_proto(
        request.spec,
        "spec",
        MAX_KIT_SPEC_BYTES,
        violations,
        numbers_checked=request.numbers_checked,
    )
    command = c.CreateKit(
        request=behind,
        name=request.name,
        project=_project(request.project, violations),
        labels=translate.labels_from_proto(request.labels, "labels", violations),
        jobs=jobs,
        spec_json=spec,
        actor=actor_of(request.actor, "actor", violations),
    )
    violations.check()
    return command


def create_job(request: pb.CreateJobRequest, encode: Encode) -> c.CreateJob:
    """A job for a kit, or for a new one."""
    violations = Violations()
    _check_job_size(request.job, "job", violations)
    violations.check()
    behind = kept_request(request, encode, violations)
    if request.kit_id < 0:
        violations.add(
            "kit_id", f"is {request.kit_id}; kits are numbered from 1, 0 makes a new one"
        )
    if request.kit_id and request.project:
        violations.add("project", "must be unset when kit_id is given: the kit has its project")
    job = _new_job(request.job, "job", violations)
    if job.name in job.depends_on:
        violations.add(f"job.depends_on[{job.depends_on.index(job.name)}]", "is the job itself")
    command = c.CreateJob(
        request=behind,
        kit_id=request.kit_id,
        job=job,
        project=_project(request.project, violations),
        actor=actor_of(request.actor, "actor", violations),
    )
    violations.check()
    return command


def append(
    request: pb.AppendStatesRequest | Rows[pb.AppendStatesRequest], encode: Encode
) -> c.Append:
    """Rows to append. Of a request without a request_id only the rows are stored."""
    violations = Violations()
    if isinstance(request, Rows) and request.head.request_id:
        return _append_for_record(request, encode, violations)
    size = _check_rows(request, violations)
    behind = None
    if isinstance(request, pb.AppendStatesRequest) and request.request_id:
        behind = kept_request(request, encode, violations)
    return c.Append(request=behind, items=_items(request, _states(request), size, violations))


def _append_for_record(
    request: Rows[pb.AppendStatesRequest], encode: Encode, violations: Violations
) -> c.Append:
    """The rows of a large request with a request_id, of which a record is kept."""
    hashed = _hash("AppendStates", request.head.SerializeToString(deterministic=True))
    texts: list[str] = []

    def states() -> Iterator[common.State]:
        for state in request.states():
            body = state.SerializeToString(deterministic=True)
            hashed.update(_STATES + varint(len(body)) + body)
            # The log holds the metadata; to read it a second time would take the database long.
            texts.append(_text(state, struct_bytes=0))
            yield state

    size = _check_rows(request, violations)
    items = _items(request, states(), size, violations)
    text = _text(request.head)[:-1] + ',"states":[' + ",".join(texts) + "]}"
    behind = _behind("AppendStates", request.head.request_id, hashed, text, encode, violations)
    violations.check()
    return c.Append(request=behind, items=items)


def stream(
    request: pb.StreamStatesRequest | Rows[pb.StreamStatesRequest], expected: int
) -> c.Append:
    """Rows of one message of a stream, whose number is to be `expected`."""
    violations = Violations()
    number = request.head.number if isinstance(request, Rows) else request.number
    if number != expected:
        violations.add("number", f"is {number}; messages are numbered from 1, now {expected}")
    size = _check_rows(request, violations)
    return c.Append(items=_items(request, _states(request), size, violations))


def _states(request: Appended) -> Iterable[common.State]:
    return request.states() if isinstance(request, Rows) else request.states


def _items(
    request: Appended, states: Iterable[common.State], size: int, violations: Violations
) -> tuple[c.Item, ...]:
    """The rows; one error reports their first mistakes and those found before.

    Args:
        request: What holds them.
        states: The rows as they came.
        size: What `_check_rows` returned.
        violations: The mistakes found before.
    """
    items = []
    close = size > APPEND_BYTES // 3
    checked = (request.head if isinstance(request, Rows) else request).numbers_checked
    for place, state in enumerate(states):
        item = quick_item(state, checked) or _item(state, f"states[{place}]", violations, checked)
        items.append(item)
        if close:
            # A row is delivered with its caller's name where it has no actor of its own, and a
            # value of no kind as null, which takes two bytes.
            size += 2 * item.metadata_json.count("null")
            size += 0 if state.actor else len(item.actor.encode())
        if len(violations) >= MAX_VIOLATIONS:
            break
    violations.check()
    _check_delivered(size, violations)
    return tuple(items)


def _check_rows(request: Appended, violations: Violations) -> int:
    """Refuses rows that are too many or too large, before any of them is converted.

    Returns:
        About how large the message is in which watchers get the rows, in bytes.

    Raises:
        InvalidError: They are.
    """
    count = _count(request)
    if not 1 <= count <= MAX_STATES_AN_APPEND:
        problem = f"has {count:,} rows; append 1 to {MAX_STATES_AN_APPEND:,} at once"
        violations.add("states", problem)
        violations.check()
    size = _delivered_bytes(request)
    if size > APPEND_BYTES and not isinstance(request, Rows):
        for place, state in enumerate(request.states):
            if translate.is_too_large(state.metadata, MAX_METADATA_BYTES):
                translate.tell_too_large(
                    f"states[{place}].metadata", MAX_METADATA_BYTES, violations
                )
                violations.check()
    _check_delivered(size, violations)
    return size


def _count(request: Appended) -> int:
    return len(request) if isinstance(request, Rows) else len(request.states)


def _delivered_bytes(request: Appended) -> int:
    """About how large the message is in which watchers get the rows."""
    size = len(request.data) if isinstance(request, Rows) else request.ByteSize()
    return size + _count(request) * ROW_BYTES


def _check_delivered(size: int, violations: Violations) -> None:
    """Refuses rows that one message to watchers cannot hold; rows of one append are not split.

    Raises:
        InvalidError: They are so many bytes.
    """
    if size > APPEND_BYTES:
        violations.add(
            "states",
            f"are {size:,} bytes in the message that watchers get; at most {APPEND_BYTES:,} "
            "are allowed: append them in several calls",
        )
        violations.check()


def of_kit(kind: type[OfKit], request: KitRequest, encode: Encode) -> OfKit:
    """A change of a kit, such as to cancel it."""
    violations = Violations()
    command = kind(
        request=kept_request(request, encode, violations),
        kit_id=kit_id(request.kit_id, violations),
        reason=translate.text_from_proto(request.reason, "reason", MAX_REASON, violations),
        actor=actor_of(request.actor, "actor", violations),
    )
    violations.check()
    return command


def retry_kit(request: pb.RetryKitRequest, encode: Encode) -> c.RetryKit:
    """Jobs of a kit to queue again, and jobs to replace by successors."""
    violations = Violations()
    if len(request.replacements) > MAX_JOBS_A_REQUEST:
        count = len(request.replacements)
        violations.add(
            "replacements", f"has {count:,} jobs; replace at most {MAX_JOBS_A_REQUEST:,} at once"
        )
    replacements = tuple(
        _replacement(replacement, f"replacements[{place}]", violations)
        for place, replacement in enumerate(request.replacements[:MAX_JOBS_A_REQUEST])
    )
    names = [replacement.name for replacement in replacements]
    for place, name in enumerate(names):
        if name in names[:place]:
            violations.add(f"replacements[{place}].name", f"{name!r} is named twice")
    command = c.RetryKit(
        request=kept_request(request, encode, violations),
        kit_id=kit_id(request.kit_id, violations),
        reason=translate.text_from_proto(request.reason, "reason", MAX_REASON, violations),
        actor=actor_of(request.actor, "actor", violations),
        replacements=replacements,
    )
    violations.check()
    return command


def _replacement(message: pb.Replacement, field: str, violations: Violations) -> c.Replacement:
    translate.name_from_proto(message.name, f"{field}.name", MAX_JOB_NAME, violations)
    if len(message.spec.value) > MAX_JOB_SPEC_BYTES:
        size = len(message.spec.value)
        violations.add(f"{field}.spec", f"is {size:,} bytes; at most 2 MiB are allowed")
    if message.HasField("spec") and not message.spec.type_url:
        violations.add(
            f"{field}.spec.type_url", "names no message type; pack the stage's spec with it"
        )
    translate.label_from_proto(
        message.spec.type_url, f"{field}.spec.type_url", MAX_TYPE_URL, violations
    )
    return c.Replacement(
        name=message.name, spec_type=message.spec.type_url, spec=message.spec.value
    )


def of_job(kind: type[OfJob], request: JobRequest, encode: Encode) -> OfJob:
    """A change of a job, such as to cancel it."""
    violations = Violations()
    command = kind(
        request=kept_request(request, encode, violations),
        job_id=translate.uuid_from_proto(request.job_id, "job_id", violations),
        reason=translate.text_from_proto(request.reason, "reason", MAX_REASON, violations),
        actor=actor_of(request.actor, "actor", violations),
    )
    violations.check()
    return command


def change_jobs(request: JobsRequest, encode: Encode) -> c.ManyJobs:
    """Jobs to cancel or to retry by a filter."""
    violations = Violations()
    retry = isinstance(request, pb.RetryJobsRequest)
    command = c.ManyJobs(
        request=kept_request(request, encode, violations),
        filter=filters.changed_jobs(request.filter, retry, violations),
        retry=retry,
        dry_run=request.dry_run,
        reason=translate.text_from_proto(request.reason, "reason", MAX_REASON, violations),
        actor=actor_of(request.actor, "actor", violations),
    )
    violations.check()
    return command


def kit_id(value: int, violations: Violations) -> int:
    """The id of a kit."""
    if value < 1:
        violations.add("kit_id", f"is {value}; kits are numbered from 1")
    return value


def min_revision(value: int, violations: Violations) -> int:
    """The revision that an answer must have reached."""
    if value < 0:
        violations.add("min_revision", f"is {value}; give a revision, or 0 for any")
    return value


def kept_request(request: Request, encode: Encode, violations: Violations) -> c.Request:
    """A request as it is kept, for repeats and for people."""
    method = type(request).__name__.removesuffix("Request")
    hashed = _hash(method, request.SerializeToString(deterministic=True))
    actor = getattr(request, "actor", "")
    return _behind(method, request.request_id, hashed, _text(request), encode, violations, actor)


def _behind(
    method: str,
    request_id: str,
    hashed: Hash,
    text: str,
    encode: Encode,
    violations: Violations,
    actor: str = "",
) -> c.Request:
    request_uuid = (
        translate.uuid_from_proto(request_id, "request_id", violations) if request_id else None
    )
    project = callers.current().project
    if request_uuid is not None and project:
        # Each project has request ids of its own, so that none can find out about another's.
        request_uuid = uuid.uuid5(request_uuid, f"project {project}")
    return c.Request(
        request_id=request_uuid,
        method=method,
        body_sha256=hashed.hexdigest(),
        data_json=text.replace("\\u0000", "\\ufffd"),
        encode=encode,
        actor=_asker(actor),
    )


def _asker(actor: str) -> str:
    """Who asks. The bearer of a token cannot ask under another name, but a worker for others."""
    caller = callers.current()
    is_trusted = caller.role is Role.WORKER or not caller.name
    return (actor.replace("\0", "")[:MAX_ACTOR] if is_trusted else "") or caller.name


def _hash(method: str, body: bytes) -> Hash:
    # The project is hashed, too: a caller that repeats the request of another project exactly
    # must not get its answer.
    return hashlib.sha256(method.encode() + b"\0" + callers.current().project.encode() + body)


def _text(message: Any, struct_bytes: int = MAX_RECORDED_BYTES) -> str:
    """A request as JSON for people to read: long bytes as their SHA-256, specs by their type.

    Args:
        message: The request.
        struct_bytes: Of a larger Struct, in its binary form, only the size.
    """
    parts = []
    for field, value in message.ListFields():
        if hasattr(value, "ListFields"):
            text = _one(field, value, struct_bytes)
        elif hasattr(value, "items"):
            text = _json({str(key): value[key] for key in value})
        elif isinstance(value, str | bytes) or not hasattr(value, "__len__"):
            text = _one(field, value, struct_bytes)
        elif field.message_type is None and field.enum_type is None:
            entries = list(value[:LONG_LIST])
            if len(value) > LONG_LIST:
                entries.append(f"and {len(value) - LONG_LIST:,} more")
            text = _json(entries)
        else:
            text = "[" + ",".join(_one(field, entry, struct_bytes) for entry in value) + "]"
        parts.append(f'"{field.name}":{text}')
    return "{" + ",".join(parts) + "}"


def _one(field: Any, value: Any, struct_bytes: int) -> str:
    if isinstance(value, bytes):
        if len(value) > LONG_BYTES:
            return _json({"sha256": hashlib.sha256(value).hexdigest(), "bytes": len(value)})
        return f'"{value.hex()}"'
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return _json(named.name if named else value)
    if field.message_type is None:
        return _json(value)
    if isinstance(value, struct_pb2.Struct):
        size = value.ByteSize()
        if size > struct_bytes:
            return _json({"bytes": size})
        with contextlib.suppress(ValueError):
            return struct_text(value)
        return "{}"
    if field.message_type.full_name.startswith("google.protobuf.") and (
        field.message_type.name != "Any"
    ):
        with contextlib.suppress(ValueError, json_format.Error):
            return _json(json_format.MessageToDict(value))
        return "{}"
    return _text(value, struct_bytes)


_json: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False).encode


def _check_kit_size(request: pb.CreateKitRequest, violations: Violations) -> None:
    """Refuses a kit that does not fit the answer or one commit, before any of it is converted.

    Raises:
        InvalidError: It does not.
    """
    needs = sum(len(job.depends_on) for job in request.jobs[:MAX_JOBS_A_REQUEST])
    if needs > MAX_NEEDS_A_REQUEST:
        violations.add(
            "jobs",
            f"have {needs:,} dependencies together; at most {MAX_NEEDS_A_REQUEST:,} are allowed at "
            "once: leave out those that another dependency waits for, or add jobs by CreateJob",
        )
        violations.check()
    if translate.is_too_large(request.spec, MAX_KIT_SPEC_BYTES):
        translate.tell_too_large("spec", MAX_KIT_SPEC_BYTES, violations)
    if request.ByteSize() > KIT_BYTES // 2:
        for place, job in enumerate(request.jobs):
            _check_job_size(job, f"jobs[{place}]", violations)
            if violations:
                break
        actor = request.actor or callers.current().name
        size = request.ByteSize() + len(request.jobs) * (JOB_FIXED_BYTES + size_of([actor]))
        if not violations and size > KIT_BYTES:
            violations.add(
                "jobs",
                f"and the rest of the kit are {size:,} bytes; at most {KIT_BYTES:,} are allowed "
                "at once: create the kit with fewer jobs and add the others by CreateJob",
            )
    violations.check()


def _check_job_size(job: pb.NewJob, field: str, violations: Violations) -> None:
    """Adds a violation for a job that does not fit the message that grants it to a worker."""
    if len(job.spec.value) > MAX_JOB_SPEC_BYTES:
        problem = f"is {len(job.spec.value):,} bytes; at most {MAX_JOB_SPEC_BYTES:,} are allowed"
        violations.add(f"{field}.spec", problem)
        return
    size = job.ByteSize() + JOB_FIXED_BYTES
    if JOB_BYTES // 8 < size <= JOB_BYTES:
        # A grant names each dependency twice, with its id and more.
        size += len(job.depends_on) * INPUT_BYTES + size_of(job.depends_on)
    if size > JOB_BYTES:
        violations.add(
            field,
            f"is {size:,} bytes with its spec, labels and dependencies; at most {JOB_BYTES:,} "
            "are allowed",
        )


def job_name(job: pb.NewJob) -> str:
    """The name that a job gets: its own, or its type's."""
    return job.name or translate.JOB_TYPE_WORDS.get(job.job_type, "unknown").lower()


def _new_job(job: pb.NewJob, field: str, violations: Violations) -> c.NewJob:
    job_type = translate.job_type_from_proto(job.job_type, f"{field}.job_type", violations)
    name = job_name(job)
    translate.name_from_proto(name, f"{field}.name", MAX_JOB_NAME, violations)
    if job.current_order < 0:
        violations.add(f"{field}.current_order", f"is {job.current_order}; orders count from 1")
    if not 0 <= job.max_attempts <= MAX_ATTEMPTS:
        violations.add(f"{field}.max_attempts", f"is {job.max_attempts}; give 1 to {MAX_ATTEMPTS}")
    if abs(job.priority) > MAX_PRIORITY:
        violations.add(
            f"{field}.priority", f"is {job.priority}; give -{MAX_PRIORITY} to {MAX_PRIORITY}"
        )
    external = not job.HasField("spec")
    if not external and not job.spec.type_url:
        violations.add(
            f"{field}.spec.type_url", "names no message type; pack the stage's spec with it"
        )
    translate.label_from_proto(
        job.spec.type_url, f"{field}.spec.type_url", MAX_TYPE_URL, violations
    )
    needs = tuple(job.depends_on[:MAX_JOBS_A_KIT])
    if len(job.depends_on) > len(needs):
        violations.add(
            f"{field}.depends_on", f"has {len(job.depends_on):,} names; a kit has fewer jobs"
        )
    if len(set(needs)) < len(needs):
        named: set[str] = set()
        for place, need in enumerate(needs):
            if need in named:
                violations.add(f"{field}.depends_on[{place}]", f"{need!r} is named twice")
            named.add(need)
    return c.NewJob(
        job_id=uuid.uuid4(),
        name=name,
        job_type=job_type,
        current_order=job.current_order,
        depends_on=needs,
        spec_type=job.spec.type_url,
        spec=job.spec.value,
        external=external,
        max_attempts=job.max_attempts or 3,
        timeout_seconds=_timeout(job, field, violations),
        priority=job.priority,
        labels=translate.labels_from_proto(job.labels, f"{field}.labels", violations),
    )


def _timeout(job: pb.NewJob, field: str, violations: Violations) -> float | None:
    if not job.HasField("timeout"):
        return None
    seconds = job.timeout.seconds + job.timeout.nanos / 1e9
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        violations.add(
            f"{field}.timeout", f"is {seconds:g} s; give more than 0 and at most 366 days"
        )
    return seconds


def _check_names(jobs: Sequence[c.NewJob], violations: Violations) -> None:
    """Checks that names are unique, that dependencies exist, and that they form no cycle."""
    first: dict[str, int] = {}
    for place, job in enumerate(jobs):
        if job.name in first:
            other = first[job.name]
            problem = f"{job.name!r} is the name of jobs[{other}] too; names are unique in a kit"
            violations.add(f"jobs[{place}].name", problem)
        first.setdefault(job.name, place)
    if _in_order(jobs):
        return
    names = first.keys()
    for place, job in enumerate(jobs):
        if names >= set(job.depends_on):
            continue
        for index, need in enumerate(job.depends_on):
            if need not in first:
                problem = f"there is no job named {need!r} in this kit; name one of its jobs"
                violations.add(f"jobs[{place}].depends_on[{index}]", problem)
    cycle = find_cycle({job.name: job.depends_on for job in jobs})
    if cycle:
        place = first[cycle[0]]
        index = jobs[place].depends_on.index(cycle[1]) if cycle[1] in jobs[place].depends_on else 0
        problem = f"goes round in a circle: {' -> '.join(cycle)}"
        violations.add(f"jobs[{place}].depends_on[{index}]", problem)


def _in_order(jobs: Sequence[c.NewJob]) -> bool:
    """Whether each job depends on jobs before it alone: then all exist, and none form a cycle.

    Most kits are in this order, and to look for a cycle takes long if there are many dependencies.
    """
    before: set[str] = set()
    for job in jobs:
        if not before.issuperset(job.depends_on):
            return False
        before.add(job.name)
    return True


def _item(
    state: common.State, field: str, violations: Violations, numbers_checked: bool = False
) -> c.Item:
    metadata = translate.struct_from_proto(
        state.metadata,
        f"{field}.metadata",
        MAX_METADATA_BYTES,
        violations,
        numbers_checked=numbers_checked,
    )
    status = translate.status_from_proto(state.status, f"{field}.status", violations)
    job_type = ""
    if state.job_type:
        job_type = translate.job_type_from_proto(state.job_type, f"{field}.job_type", violations)
    for name in ("kit_id", "attempt", "seq"):
        if getattr(state, name) < 0:
            violations.add(f"{field}.{name}", f"is {getattr(state, name)}; it must not be negative")
    result = ""
    if metadata and not state.task_name and "result" in state.metadata.fields:
        value = state.metadata.fields["result"]
        if value.HasField("struct_value"):
            result = struct_text(value.struct_value)
    return c.Item(
        job_id=translate.uuid_from_proto(state.job_id, f"{field}.job_id", violations),
        status=status,
        task_name=translate.label_from_proto(
            state.task_name, f"{field}.task_name", MAX_TASK_NAME, violations
        ),
        attempt=state.attempt,
        seq=state.seq,
        metadata_json=metadata,
        result_json=result,
        actor=actor_of(state.actor, f"{field}.actor", violations),
        reason=translate.text_from_proto(state.reason, f"{field}.reason", MAX_REASON, violations),
        kit_id=state.kit_id,
        job_type=job_type,
        within=callers.current().project,
    )


def _project(text: str, violations: Violations) -> str:
    return (
        translate.name_from_proto(text, "project", MAX_PROJECT, violations)
        if text
        else DEFAULT_PROJECT
    )


def actor_of(text: str, field: str, violations: Violations) -> str:
    """Who asks, as the log has it: the name that the request gives, else that of the token."""
    return translate.label_from_proto(text or callers.current().name, field, MAX_ACTOR, violations)
