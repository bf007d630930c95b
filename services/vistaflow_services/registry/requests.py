"""Requests as commands: every mistake is found here, under its field, before anything happens."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google.protobuf import json_format

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import callers
from vistaflow_services.core.errors import Violations
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

MAX_TOLD_BYTES = 8 * MAX_KIT_SPEC_BYTES
"""Largest Struct, in its binary form, that is looked into for `request_info.data`."""

LONG_BYTES = 4 * 1024
"""Longest bytes field kept as it is in `request_info.data`."""

MAX_TYPE_URL = 500
MAX_ATTEMPTS = 100
MAX_PRIORITY = 100
MAX_TIMEOUT_SECONDS = 366 * 86400.0

Encode = Callable[[Any], bytes]

KitRequest = pb.CancelKitRequest | pb.RetryKitRequest | pb.PauseKitRequest | pb.ResumeKitRequest
JobRequest = pb.CancelJobRequest | pb.RetryJobRequest
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
    spec, _ = translate.struct_from_proto(request.spec, "spec", MAX_KIT_SPEC_BYTES, found)
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


def append(request: pb.AppendStatesRequest, encode: Encode) -> c.Append:
    """Rows to append. Without a request_id nothing of it is kept but the rows."""
    found = Violations()
    behind = _request(request, encode, found) if request.request_id else None
    return c.Append(request=behind, items=_items(request.states, found))


def stream(request: pb.StreamStatesRequest, expected: int) -> c.Append:
    """Rows of one message of a stream, whose number is to be `expected`."""
    found = Violations()
    if request.number != expected:
        found.add("number", f"is {request.number}; messages are numbered from 1, now {expected}")
    return c.Append(items=_items(request.states, found))


def _items(states: Sequence[common.State], found: Violations) -> tuple[c.Item, ...]:
    """The rows; every mistake of theirs, and what was found before, is told at once."""
    if not 1 <= len(states) <= MAX_STATES_AN_APPEND:
        told = f"has {len(states):,} rows; append 1 to {MAX_STATES_AN_APPEND:,} at once"
        found.add("states", told)
        found.check()
    items = tuple(
        quick_item(state) or _item(state, f"states[{place}]", found)
        for place, state in enumerate(states)
    )
    found.check()
    return items


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
    """Jobs of a kit to queue again, and some to be done otherwise."""
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
    text = request.request_id
    method = type(request).__name__.removesuffix("Request")
    # Another project's answer is none of the caller's business, whatever it knows of the request.
    body = callers.current().project.encode() + request.SerializeToString(deterministic=True)
    return c.Request(
        request_id=translate.uuid_from_proto(text, "request_id", found) if text else None,
        method=method,
        body_sha256=hashlib.sha256(method.encode() + b"\0" + body).hexdigest(),
        data_json=json.dumps(_told(request), ensure_ascii=False).replace("\\u0000", "\\ufffd"),
        encode=encode,
    )


def _told(message: Any) -> Any:
    """A request for people to read: long bytes as their SHA-256, specs by their type."""
    told: dict[str, Any] = {}
    for field, value in message.ListFields():
        if hasattr(value, "ListFields"):
            told[field.name] = _one(field, value)
        elif hasattr(value, "items"):
            told[field.name] = {str(key): value[key] for key in value}
        elif not isinstance(value, str | bytes) and hasattr(value, "__len__"):
            told[field.name] = [_one(field, each) for each in value]
        else:
            told[field.name] = _one(field, value)
    return told


def _one(field: Any, value: Any) -> Any:
    if isinstance(value, bytes):
        if len(value) > LONG_BYTES:
            return {"sha256": hashlib.sha256(value).hexdigest(), "bytes": len(value)}
        return value.hex()
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return named.name if named else value
    if field.message_type is None:
        return value
    if field.message_type.full_name.startswith("google.protobuf.") and (
        field.message_type.name != "Any"
    ):
        if value.ByteSize() > MAX_TOLD_BYTES:
            return {"bytes": value.ByteSize()}
        try:
            return json_format.MessageToDict(value)
        except (ValueError, json_format.Error):
            return {}
    return _told(value)


def _new_job(job: pb.NewJob, field: str, found: Violations) -> c.NewJob:
    job_type = translate.job_type_from_proto(job.job_type, f"{field}.job_type", found)
    name = job.name or job_type.lower() or "unknown"
    translate.name_from_proto(name, f"{field}.name", MAX_JOB_NAME, found)
    if job.current_order < 0:
        found.add(f"{field}.current_order", f"is {job.current_order}; orders count from 1")
    if not 0 <= job.max_attempts <= MAX_ATTEMPTS:
        found.add(f"{field}.max_attempts", f"is {job.max_attempts}; give 1 to {MAX_ATTEMPTS}")
    if abs(job.priority) > MAX_PRIORITY:
        found.add(f"{field}.priority", f"is {job.priority}; give -{MAX_PRIORITY} to {MAX_PRIORITY}")
    if len(job.spec.value) > MAX_JOB_SPEC_BYTES:
        found.add(f"{field}.spec", f"is {len(job.spec.value):,} bytes; at most 2 MiB are allowed")
    external = not job.HasField("spec")
    if not external and not job.spec.type_url:
        found.add(f"{field}.spec.type_url", "names no message type; pack the stage's spec with it")
    translate.label_from_proto(job.spec.type_url, f"{field}.spec.type_url", MAX_TYPE_URL, found)
    needs = tuple(job.depends_on[:MAX_JOBS_A_KIT])
    if len(job.depends_on) > len(needs):
        found.add(f"{field}.depends_on", f"has {len(job.depends_on):,} names; a kit has fewer jobs")
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
    for place, job in enumerate(jobs):
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


def _item(state: common.State, field: str, found: Violations) -> c.Item:
    metadata, value = translate.struct_from_proto(
        state.metadata, f"{field}.metadata", MAX_METADATA_BYTES, found
    )
    status = translate.status_from_proto(state.status, f"{field}.status", found)
    job_type = ""
    if state.job_type:
        job_type = translate.job_type_from_proto(state.job_type, f"{field}.job_type", found)
    for name in ("kit_id", "attempt", "seq"):
        if getattr(state, name) < 0:
            found.add(f"{field}.{name}", f"is {getattr(state, name)}; it must not be negative")
    result = ""
    if not state.task_name and isinstance(value.get("result"), dict):
        result = json.dumps(value["result"], ensure_ascii=False)
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
