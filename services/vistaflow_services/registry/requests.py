"""Requests as commands: every mistake is found here, under its field, before anything happens."""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf import json_format, struct_pb2

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import callers
from vistaflow_services.core.errors import MAX_VIOLATIONS, Violations
from vistaflow_services.core.message_limits import (
    APPEND_BYTES,
    ENTRY_BYTES,
    JOB_BYTES,
    KIT_BYTES,
    ROW_BYTES,
    size_of,
)
from vistaflow_services.registry import commands as c
from vistaflow_services.registry import selecting, translate
from vistaflow_services.registry.domain import (
    MAX_ACTOR,
    MAX_JOB_NAME,
    MAX_JOB_SPEC_BYTES,
    MAX_JOBS_A_KIT,
    MAX_JOBS_A_REQUEST,
    MAX_KIT_NAME,
    MAX_KIT_SPEC_BYTES,
    MAX_METADATA_BYTES,
    MAX_PROJECT,
    MAX_REASON,
    MAX_STATES_AN_APPEND,
    MAX_TASK_NAME,
    find_cycle,
)
from vistaflow_services.registry.quick import quick_item
from vistaflow_services.registry.raw_requests import Rows
from vistaflow_services.registry.structs import struct_text
from vistaflow_services.registry.varint import varint

MAX_TOLD_BYTES = 8 * MAX_KIT_SPEC_BYTES
"""Largest Struct, in its binary form, that is looked into for `request_info.data`."""

LONG_LIST = 20
"""Most values of a list kept there."""

LONG_BYTES = 4 * 1024
"""Longest bytes field kept as it is in `request_info.data`."""

JOB_FIXED_BYTES = 160
"""What the registry adds to a job beside its actor: ids, counts, times."""

INPUT_BYTES = 64 + ENTRY_BYTES
"""Size of a dependency in a grant to a worker, beside its name and result."""

MAX_TYPE_URL = 500
MAX_ATTEMPTS = 100
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
Request = (
    pb.CreateKitRequest
    | pb.CreateJobRequest
    | pb.AppendStatesRequest
    | KitRequest
    | JobRequest
    | JobsRequest
)

OfKit = TypeVar("OfKit", bound=c.OfKit)
OfJob = TypeVar("OfJob", bound=c.OfJob)


def create_kit(request: pb.CreateKitRequest, encode: Encode) -> c.CreateKit:
    """A kit with its jobs."""
    found = Violations()
    _check_kit_size(request, found)
    behind = _request(request, encode, found)
    if not request.name.strip():
        found.add("name", "is required: 1 to 200 characters")
    if len(request.jobs) > MAX_JOBS_A_REQUEST:
        told = f"has {len(request.jobs):,} jobs; create at most {MAX_JOBS_A_REQUEST:,} at once"
        found.add("jobs", told)
    jobs = tuple(
        _new_job(job, f"jobs[{place}]", found)
        for place, job in enumerate(request.jobs[:MAX_JOBS_A_REQUEST])
    )
    _check_names(jobs, found)
    spec = translate.struct_from_proto(
        request.spec,
        "spec",
        MAX_KIT_SPEC_BYTES,
        found,
        numbers_checked=request.numbers_checked,
    )
    command = c.CreateKit(
        request=behind,
        name=translate.label_from_proto(request.name, "name", MAX_KIT_NAME, found),
        project=_project(request.project, found),
        labels=translate.labels_from_proto(request.labels, "labels", found),
        jobs=jobs,
        spec_json=spec,
        actor=_actor(request.actor, "actor", found),
    )
    found.check()
    return command


def create_job(request: pb.CreateJobRequest, encode: Encode) -> c.CreateJob:
    """A job for a kit, or for a new one."""
    found = Violations()
    _check_job_size(request.job, "job", found)
    found.check()
    behind = _request(request, encode, found)
    if request.kit_id < 0:
        found.add("kit_id", f"is {request.kit_id}; kits are numbered from 1, 0 makes a new one")
    if request.kit_id and request.project:
        found.add("project", "must be unset when kit_id is given: the kit has its project")
    job = _new_job(request.job, "job", found)
    if job.name in job.depends_on:
        found.add(f"job.depends_on[{job.depends_on.index(job.name)}]", "is the job itself")
    command = c.CreateJob(
        request=behind,
        kit_id=request.kit_id,
        job=job,
        project=_project(request.project, found),
        actor=_actor(request.actor, "actor", found),
    )
    found.check()
    return command


def append(
    request: pb.AppendStatesRequest | Rows[pb.AppendStatesRequest], encode: Encode
) -> c.Append:
    """Rows to append. Without a request_id nothing of it is kept but the rows."""
    found = Violations()
    if isinstance(request, Rows) and request.head.request_id:
        return _append_for_record(request, encode, found)
    _check_rows(request, found)
    behind = None
    if isinstance(request, pb.AppendStatesRequest) and request.request_id:
        behind = _request(request, encode, found)
    return c.Append(request=behind, items=_items(request, _states(request), found))


def _append_for_record(
    request: Rows[pb.AppendStatesRequest], encode: Encode, found: Violations
) -> c.Append:
    """The rows of a large request with a request_id, of which a record is kept."""
    hashed = _hash("AppendStates", request.head.SerializeToString(deterministic=True))
    texts: list[str] = []

    def states() -> Iterator[common.State]:
        for state in request.states():
            body = state.SerializeToString(deterministic=True)
            hashed.update(_STATES + varint(len(body)) + body)
            texts.append(_text(state))
            yield state

    _check_rows(request, found)
    items = _items(request, states(), found)
    text = _text(request.head)[:-1] + ',"states":[' + ",".join(texts) + "]}"
    behind = _behind("AppendStates", request.head.request_id, hashed, text, encode, found)
    found.check()
    return c.Append(request=behind, items=items)


def stream(
    request: pb.StreamStatesRequest | Rows[pb.StreamStatesRequest], expected: int
) -> c.Append:
    """Rows of one message of a stream, whose number is to be `expected`."""
    found = Violations()
    number = request.head.number if isinstance(request, Rows) else request.number
    if number != expected:
        found.add("number", f"is {number}; messages are numbered from 1, now {expected}")
    _check_rows(request, found)
    return c.Append(items=_items(request, _states(request), found))


def _states(request: Appended) -> Iterable[common.State]:
    return request.states() if isinstance(request, Rows) else request.states


def _items(
    request: Appended, states: Iterable[common.State], found: Violations
) -> tuple[c.Item, ...]:
    """The rows; one error reports their first mistakes and those found before."""
    items = []
    size = _delivered_bytes(request)
    close = size > APPEND_BYTES // 3
    checked = (request.head if isinstance(request, Rows) else request).numbers_checked
    for place, state in enumerate(states):
        item = quick_item(state, checked) or _item(state, f"states[{place}]", found, checked)
        items.append(item)
        if close:
            # A row is delivered with its caller's name where it has no actor of its own, and a
            # value of no kind as null, which takes two bytes.
            size += 2 * item.metadata_json.count("null")
            size += 0 if state.actor else len(item.actor.encode())
        if len(found) >= MAX_VIOLATIONS:
            break
    found.check()
    _check_delivered(size, found)
    return tuple(items)


def _check_rows(request: Appended, found: Violations) -> None:
    """Refuses rows that are too many or too large, before anything of them is converted.

    Raises:
        InvalidError: They are.
    """
    count = _count(request)
    if not 1 <= count <= MAX_STATES_AN_APPEND:
        told = f"has {count:,} rows; append 1 to {MAX_STATES_AN_APPEND:,} at once"
        found.add("states", told)
        found.check()
    size = _delivered_bytes(request)
    if size > APPEND_BYTES and not isinstance(request, Rows):
        for place, state in enumerate(request.states):
            if translate.is_too_large(state.metadata, MAX_METADATA_BYTES):
                translate.tell_too_large(f"states[{place}].metadata", MAX_METADATA_BYTES, found)
                found.check()
    _check_delivered(size, found)


def _count(request: Appended) -> int:
    return len(request) if isinstance(request, Rows) else len(request.states)


def _delivered_bytes(request: Appended) -> int:
    """About how large the message is in which watchers get the rows."""
    size = len(request.data) if isinstance(request, Rows) else request.ByteSize()
    return size + _count(request) * ROW_BYTES


def _check_delivered(size: int, found: Violations) -> None:
    """Refuses rows that one message to watchers cannot hold; rows of one append are not split.

    Raises:
        InvalidError: They are so many bytes.
    """
    if size > APPEND_BYTES:
        found.add(
            "states",
            f"are {size:,} bytes in the message that watchers get; at most {APPEND_BYTES:,} "
            "are allowed: append them in several calls",
        )
        found.check()


def of_kit(kind: type[OfKit], request: KitRequest, encode: Encode) -> OfKit:
    """A change of a kit, such as to cancel it."""
    found = Violations()
    command = kind(
        request=_request(request, encode, found),
        kit_id=kit_id(request.kit_id, found),
        reason=translate.text_from_proto(request.reason, "reason", MAX_REASON, found),
        actor=_actor(request.actor, "actor", found),
    )
    found.check()
    return command


def retry_kit(request: pb.RetryKitRequest, encode: Encode) -> c.RetryKit:
    """Jobs of a kit to queue again, and jobs to replace by successors."""
    found = Violations()
    if len(request.replacements) > MAX_JOBS_A_REQUEST:
        count = len(request.replacements)
        found.add(
            "replacements", f"has {count:,} jobs; replace at most {MAX_JOBS_A_REQUEST:,} at once"
        )
    replacements = tuple(
        _replacement(each, f"replacements[{place}]", found)
        for place, each in enumerate(request.replacements[:MAX_JOBS_A_REQUEST])
    )
    names = [each.name for each in replacements]
    for place, name in enumerate(names):
        if name in names[:place]:
            found.add(f"replacements[{place}].name", f"{name!r} is named twice")
    command = c.RetryKit(
        request=_request(request, encode, found),
        kit_id=kit_id(request.kit_id, found),
        reason=translate.text_from_proto(request.reason, "reason", MAX_REASON, found),
        actor=_actor(request.actor, "actor", found),
        replacements=replacements,
    )
    found.check()
    return command


def _replacement(message: pb.Replacement, field: str, found: Violations) -> c.Replacement:
    translate.name_from_proto(message.name, f"{field}.name", MAX_JOB_NAME, found)
    if len(message.spec.value) > MAX_JOB_SPEC_BYTES:
        size = len(message.spec.value)
        found.add(f"{field}.spec", f"is {size:,} bytes; at most 2 MiB are allowed")
    if message.HasField("spec") and not message.spec.type_url:
        found.add(f"{field}.spec.type_url", "names no message type; pack the stage's spec with it")
    translate.label_from_proto(message.spec.type_url, f"{field}.spec.type_url", MAX_TYPE_URL, found)
    return c.Replacement(
        name=message.name, spec_type=message.spec.type_url, spec=message.spec.value
    )


def of_job(kind: type[OfJob], request: JobRequest, encode: Encode) -> OfJob:
    """A change of a job, such as to cancel it."""
    found = Violations()
    command = kind(
        request=_request(request, encode, found),
        job_id=translate.uuid_from_proto(request.job_id, "job_id", found),
        reason=translate.text_from_proto(request.reason, "reason", MAX_REASON, found),
        actor=_actor(request.actor, "actor", found),
    )
    found.check()
    return command


def change_jobs(request: JobsRequest, encode: Encode) -> c.ManyJobs:
    """Jobs to cancel or to retry by a filter."""
    found = Violations()
    retry = isinstance(request, pb.RetryJobsRequest)
    wanted = c.ManyJobs(
        request=_request(request, encode, found),
        filter=selecting.jobs(request.filter, retry, found),
        retry=retry,
        dry_run=request.dry_run,
        reason=translate.text_from_proto(request.reason, "reason", MAX_REASON, found),
        actor=_actor(request.actor, "actor", found),
    )
    found.check()
    return wanted


def kit_id(value: int, violations: Violations) -> int:
    """The id of a kit."""
    if value < 1:
        violations.add("kit_id", f"is {value}; kits are numbered from 1")
    return value


def min_revision(value: int, violations: Violations) -> int:
    """The revision that an answer must not be older than."""
    if value < 0:
        violations.add("min_revision", f"is {value}; give a revision, or 0 for any")
    return value


def _request(request: Request, encode: Encode, found: Violations) -> c.Request:
    method = type(request).__name__.removesuffix("Request")
    hashed = _hash(method, request.SerializeToString(deterministic=True))
    return _behind(method, request.request_id, hashed, _text(request), encode, found)


def _behind(
    method: str, request_id: str, hashed: Hash, text: str, encode: Encode, found: Violations
) -> c.Request:
    known = translate.uuid_from_proto(request_id, "request_id", found) if request_id else None
    project = callers.current().project
    if known is not None and project:
        # Nor is it whether another project has used the id: each project has ids of its own.
        known = uuid.uuid5(known, f"project {project}")
    return c.Request(
        request_id=known,
        method=method,
        body_sha256=hashed.hexdigest(),
        data_json=text.replace("\\u0000", "\\ufffd"),
        encode=encode,
    )


def _hash(method: str, body: bytes) -> Hash:
    # Another project's answer is none of the caller's business, whatever it knows of the request.
    return hashlib.sha256(method.encode() + b"\0" + callers.current().project.encode() + body)


def _text(message: Any) -> str:
    """A request as JSON for people to read: long bytes as their SHA-256, specs by their type."""
    parts = []
    for field, value in message.ListFields():
        if hasattr(value, "ListFields"):
            text = _one(field, value)
        elif hasattr(value, "items"):
            text = _json({str(key): value[key] for key in value})
        elif isinstance(value, str | bytes) or not hasattr(value, "__len__"):
            text = _one(field, value)
        elif field.message_type is None and field.enum_type is None:
            kept = list(value[:LONG_LIST])
            text = _json(
                [*kept, f"and {len(value) - LONG_LIST:,} more"] if value[LONG_LIST:] else kept
            )
        else:
            text = "[" + ",".join(_one(field, each) for each in value) + "]"
        parts.append(f'"{field.name}":{text}')
    return "{" + ",".join(parts) + "}"


def _one(field: Any, value: Any) -> str:
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
        if size > MAX_TOLD_BYTES:
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
    return _text(value)


_json: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False).encode


def _check_kit_size(request: pb.CreateKitRequest, found: Violations) -> None:
    """Refuses a kit that does not fit the answer, before anything of it is converted.

    Raises:
        InvalidError: It does not.
    """
    if translate.is_too_large(request.spec, MAX_KIT_SPEC_BYTES):
        translate.tell_too_large("spec", MAX_KIT_SPEC_BYTES, found)
    if request.ByteSize() > KIT_BYTES // 2:
        for place, job in enumerate(request.jobs):
            _check_job_size(job, f"jobs[{place}]", found)
            if found:
                break
        actor = request.actor or callers.current().name
        size = request.ByteSize() + len(request.jobs) * (JOB_FIXED_BYTES + size_of([actor]))
        if not found and size > KIT_BYTES:
            found.add(
                "jobs",
                f"and the rest of the kit are {size:,} bytes; at most {KIT_BYTES:,} are allowed "
                "at once: create the kit with fewer jobs and add the others by CreateJob",
            )
    found.check()


def _check_job_size(job: pb.NewJob, field: str, found: Violations) -> None:
    """Adds a violation for a job that does not fit the message that grants it to a worker."""
    if len(job.spec.value) > MAX_JOB_SPEC_BYTES:
        told = f"is {len(job.spec.value):,} bytes; at most {MAX_JOB_SPEC_BYTES:,} are allowed"
        found.add(f"{field}.spec", told)
        return
    size = job.ByteSize() + JOB_FIXED_BYTES
    if JOB_BYTES // 8 < size <= JOB_BYTES:
        # A grant names each dependency twice, with its id and more.
        size += len(job.depends_on) * INPUT_BYTES + size_of(job.depends_on)
    if size > JOB_BYTES:
        found.add(
            field,
            f"is {size:,} bytes with its spec, labels and dependencies; at most {JOB_BYTES:,} "
            "are allowed",
        )


def job_name(job: pb.NewJob) -> str:
    """The name that a job gets: its own, or its type's."""
    return job.name or translate.JOB_TYPE_WORDS.get(job.job_type, "unknown").lower()


def _new_job(job: pb.NewJob, field: str, found: Violations) -> c.NewJob:
    job_type = translate.job_type_from_proto(job.job_type, f"{field}.job_type", found)
    name = job_name(job)
    translate.name_from_proto(name, f"{field}.name", MAX_JOB_NAME, found)
    if job.current_order < 0:
        found.add(f"{field}.current_order", f"is {job.current_order}; orders count from 1")
    if not 0 <= job.max_attempts <= MAX_ATTEMPTS:
        found.add(f"{field}.max_attempts", f"is {job.max_attempts}; give 1 to {MAX_ATTEMPTS}")
    if abs(job.priority) > MAX_PRIORITY:
        found.add(f"{field}.priority", f"is {job.priority}; give -{MAX_PRIORITY} to {MAX_PRIORITY}")
    external = not job.HasField("spec")
    if not external and not job.spec.type_url:
        found.add(f"{field}.spec.type_url", "names no message type; pack the stage's spec with it")
    translate.label_from_proto(job.spec.type_url, f"{field}.spec.type_url", MAX_TYPE_URL, found)
    needs = tuple(job.depends_on[:MAX_JOBS_A_KIT])
    if len(job.depends_on) > len(needs):
        found.add(f"{field}.depends_on", f"has {len(job.depends_on):,} names; a kit has fewer jobs")
    if len(set(needs)) < len(needs):
        named: set[str] = set()
        for place, need in enumerate(needs):
            if need in named:
                found.add(f"{field}.depends_on[{place}]", f"{need!r} is named twice")
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
        timeout_seconds=_timeout(job, field, found),
        priority=job.priority,
        labels=translate.labels_from_proto(job.labels, f"{field}.labels", found),
    )


def _timeout(job: pb.NewJob, field: str, found: Violations) -> float | None:
    if not job.HasField("timeout"):
        return None
    seconds = job.timeout.seconds + job.timeout.nanos / 1e9
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        found.add(f"{field}.timeout", f"is {seconds:g} s; give more than 0 and at most 366 days")
    return seconds


def _check_names(jobs: Sequence[c.NewJob], found: Violations) -> None:
    """Names are unique, dependencies exist and go round in no circle."""
    first: dict[str, int] = {}
    for place, job in enumerate(jobs):
        if job.name in first:
            other = first[job.name]
            told = f"{job.name!r} is the name of jobs[{other}] too; names are unique in a kit"
            found.add(f"jobs[{place}].name", told)
        first.setdefault(job.name, place)
    names = first.keys()
    for place, job in enumerate(jobs):
        if names >= set(job.depends_on):
            continue
        for at, need in enumerate(job.depends_on):
            if need not in first:
                told = f"there is no job named {need!r} in this kit; name one of its jobs"
                found.add(f"jobs[{place}].depends_on[{at}]", told)
    cycle = find_cycle({job.name: job.depends_on for job in jobs})
    if cycle:
        place = first[cycle[0]]
        at = jobs[place].depends_on.index(cycle[1]) if cycle[1] in jobs[place].depends_on else 0
        told = f"goes round in a circle: {' -> '.join(cycle)}"
        found.add(f"jobs[{place}].depends_on[{at}]", told)


def _item(
    state: common.State, field: str, found: Violations, numbers_checked: bool = False
) -> c.Item:
    metadata = translate.struct_from_proto(
        state.metadata,
        f"{field}.metadata",
        MAX_METADATA_BYTES,
        found,
        numbers_checked=numbers_checked,
    )
    status = translate.status_from_proto(state.status, f"{field}.status", found)
    job_type = ""
    if state.job_type:
        job_type = translate.job_type_from_proto(state.job_type, f"{field}.job_type", found)
    for name in ("kit_id", "attempt", "seq"):
        if getattr(state, name) < 0:
            found.add(f"{field}.{name}", f"is {getattr(state, name)}; it must not be negative")
    result = ""
    if metadata and not state.task_name and "result" in state.metadata.fields:
        value = state.metadata.fields["result"]
        if value.HasField("struct_value"):
            result = struct_text(value.struct_value)
    return c.Item(
        job_id=translate.uuid_from_proto(state.job_id, f"{field}.job_id", found),
        status=status,
        task_name=translate.label_from_proto(
            state.task_name, f"{field}.task_name", MAX_TASK_NAME, found
        ),
        attempt=state.attempt,
        seq=state.seq,
        metadata_json=metadata,
        result_json=result,
        actor=_actor(state.actor, f"{field}.actor", found),
        reason=translate.text_from_proto(state.reason, f"{field}.reason", MAX_REASON, found),
        kit_id=state.kit_id,
        job_type=job_type,
        within=callers.current().project,
    )


def _project(text: str, found: Violations) -> str:
    return translate.name_from_proto(text, "project", MAX_PROJECT, found) if text else "default"


def _actor(text: str, field: str, found: Violations) -> str:
    return translate.label_from_proto(text or callers.current().name, field, MAX_ACTOR, found)
