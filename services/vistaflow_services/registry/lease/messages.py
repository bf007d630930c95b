"""The messages of LeaseJobs, to and from domain values."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from google.protobuf.struct_pb2 import Struct

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import Violations
from vistaflow_services.core.message_limits import ENTRY_BYTES, MESSAGE_BYTES
from vistaflow_services.registry.commands import Granted
from vistaflow_services.registry.database.rows import progress_to_json
from vistaflow_services.registry.domain import (
    MAX_CAPACITY,
    MAX_REASON,
    WORKER_PATTERN,
    Progress,
)
from vistaflow_services.registry.lease.store import Sign
from vistaflow_services.registry.messages import translate

MAX_WORKER_NAME = 100
MAX_PROGRESS_WORD = 100
MAX_PROGRESS_MESSAGE = 500


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The first message of a worker."""

    worker: str
    job_types: frozenset[str]
    capacity: int
    running: tuple[tuple[uuid.UUID, int], ...]


def hello_from_proto(hello: pb.WorkerHello) -> Hello:
    """A worker's first message.

    Raises:
        InvalidError: It is malformed.
    """
    violations = Violations()
    if not WORKER_PATTERN.fullmatch(hello.worker) or len(hello.worker) > MAX_WORKER_NAME:
        violations.add(
            "hello.worker",
            f"must match {WORKER_PATTERN.pattern} and have at most {MAX_WORKER_NAME} characters",
        )
    if not hello.job_types:
        violations.add("hello.job_types", "is empty; name the types of job the worker can run")
    job_types = [
        translate.job_type_from_proto(job_type, f"hello.job_types[{place}]", violations)
        for place, job_type in enumerate(hello.job_types)
    ]
    if not 1 <= hello.capacity <= MAX_CAPACITY:
        violations.add("hello.capacity", f"is {hello.capacity}; give 1 to {MAX_CAPACITY}")
    if len(hello.running) > MAX_CAPACITY:
        violations.add("hello.running", f"has {len(hello.running)} entries; at most {MAX_CAPACITY}")
    running = [
        (_job_id(attempt.job_id, f"hello.running[{place}].job_id", violations), attempt.attempt)
        for place, attempt in enumerate(hello.running)
    ]
    violations.check()
    return Hello(
        worker=hello.worker,
        job_types=frozenset(job_types),
        capacity=hello.capacity,
        running=tuple(running),
    )


def signs_from_proto(heartbeat: pb.Heartbeat) -> list[Sign]:
    """The entries of a heartbeat; if several are of one attempt, the last.

    Raises:
        InvalidError: It is malformed.
    """
    violations = Violations()
    if len(heartbeat.attempts) > MAX_CAPACITY:
        violations.add(
            "heartbeat.attempts", f"has {len(heartbeat.attempts)} entries; at most {MAX_CAPACITY}"
        )
    signs: dict[tuple[uuid.UUID, int], Sign] = {}
    for place, attempt in enumerate(heartbeat.attempts):
        job_id = _job_id(attempt.job_id, f"heartbeat.attempts[{place}].job_id", violations)
        sent = attempt.progress
        progress = Progress(
            phase=_printable(sent.phase, MAX_PROGRESS_WORD),
            completed=max(0, sent.completed),
            total=max(0, sent.total),
            unit=_printable(sent.unit, MAX_PROGRESS_WORD),
            message=_printable(sent.message, MAX_PROGRESS_MESSAGE),
        )
        signs[job_id, attempt.attempt] = Sign(
            job_id=job_id,
            attempt=attempt.attempt,
            progress=progress if attempt.HasField("progress") else None,
        )
    violations.check()
    return list(signs.values())


def release_from_proto(release: pb.Release) -> tuple[uuid.UUID, int, str]:
    """The job, attempt and reason of a release.

    Raises:
        InvalidError: It is malformed.
    """
    violations = Violations()
    job_id = _job_id(release.job_id, "release.job_id", violations)
    violations.check()
    return job_id, release.attempt, _printable(release.reason, MAX_REASON)


def grant_to_proto(granted: Granted, lease_seconds: float) -> pb.Grant:
    """An attempt with the results of what it depends on, as many as fit the message."""
    grant = pb.Grant(job=translate.job_to_proto(granted.job))
    grant.lease.FromNanoseconds(round(lease_seconds * 1e9))
    for job in granted.inputs:
        grant.inputs.add(
            name=job.name,
            job_id=str(job.job_id),
            job_type=translate.job_type_to_proto(job.job_type),
            attempt=job.attempt,
        )
    room = MESSAGE_BYTES - grant.ByteSize()
    if room < 0:
        # A log of an earlier version may hold such a job. The inputs have the same names.
        del grant.job.depends_on[:]
        room = MESSAGE_BYTES - grant.ByteSize()
    for job, needed in zip(granted.inputs, grant.inputs, strict=True):
        if job.result_json:
            result = Struct()
            translate.struct_to_proto(job.result_json, result)
            room -= result.ByteSize() + ENTRY_BYTES
            if room > 0:
                needed.result.CopyFrom(result)
            else:
                needed.result_omitted = True
    return grant


def progress_metadata(progress: Progress) -> str:
    """Progress as the metadata of a row of the log."""
    return json.dumps({"progress": progress_to_json(progress)})


def _printable(text: str, limit: int) -> str:
    """A worker's text for people, cut to a limit of characters, control characters replaced.

    It is not refused: an error would end the stream and cost the worker its attempts.
    """
    text = text[:limit]
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


def _job_id(text: str, field: str, violations: Violations) -> uuid.UUID:
    """A job's id; the nil UUID, and a violation, if the text is none."""
    try:
        return uuid.UUID(text)
    except ValueError:
        violations.add(field, "is not a UUID")
        return uuid.UUID(int=0)
