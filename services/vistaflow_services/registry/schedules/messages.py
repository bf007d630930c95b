"""Protos of schedules to values, and back."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.schedules.v1 import schedules_pb2 as pb
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.core.names import (
    DEFAULT_PROJECT,
    MAX_KIT_NAME,
    MAX_LABELS,
    MAX_PROJECT,
    MAX_SCHEDULE_NAME,
)
from vistaflow_services.registry.messages import requests, translate
from vistaflow_services.registry.outbox.events import OCCASIONS

MAX_NOTE = 1_000
MAX_NOTIFY = 20
MAX_CRON = 200
MAX_ZONE = 60
MIN_SPAN: Final = timedelta(minutes=1)
MAX_SPAN: Final = timedelta(days=366)
DAY: Final = timedelta(days=1)
TIME_LENGTH = 21
"""Length of a fire time in the name of a kit, with the blank before it."""

OWN_LABELS: Final = ("schedule", "fire_time")
"""Labels of the kits that a schedule makes."""

Put = pb.AddScheduleRequest | pb.ChangeScheduleRequest


class Fire(NamedTuple):
    """A fire: a row of the query `schedule_fires`."""

    time: datetime
    state: str
    reason: str
    kit_id: int | None
    kit_status: str | None
    manual: bool
    updated_at: datetime


class Schedule(NamedTuple):
    """A schedule: a row of the queries `find_schedules` and `due_schedules`, without their ends."""

    schedule_id: Any
    number: int
    project: str
    name: str
    timing: bytes
    overlap: str
    window: timedelta
    paused: bool
    note: str
    handled_until: datetime
    next_time: datetime | None
    kit_name: str
    created_at: datetime
    updated_at: datetime
    actor: str
    revision: int
    notify: list[dict[str, Any]]


WIDTH = len(Schedule._fields)


class Key(NamedTuple):
    """The project and the name of a schedule."""

    project: str
    name: str


def key(request: requests.ScheduleRequest | pb.FindSchedulesRequest, violations: Violations) -> Key:
    """The schedule that a request names, in the caller's project if it names none."""
    project = request.project or callers.current().project or DEFAULT_PROJECT
    translate.name_from_proto(project, "project", MAX_PROJECT, violations)
    translate.name_from_proto(request.name, "name", MAX_SCHEDULE_NAME, violations)
    return Key(project, request.name)


def columns(request: Put, project: str, violations: Violations) -> dict[str, Any]:
    """What a request sets, by column; None for what it leaves as it is."""
    overlap = None
    if request.overlap and request.overlap in pb.Overlap.values():
        overlap = pb.Overlap.Name(request.overlap).removeprefix("OVERLAP_")
    elif request.overlap:
        violations.add("overlap", "give OVERLAP_SKIP, OVERLAP_BUFFER_ONE or OVERLAP_ALLOW")
    translate.text_from_proto(request.note, "note", MAX_NOTE, violations)
    window = _window(request, violations)
    kit = _kit(request.kit, project, violations) if request.HasField("kit") else None
    is_timed = request.HasField("timing")
    if is_timed:
        _check_timing(request.timing, violations)
    return {
        "timing": request.timing.SerializeToString() if is_timed else None,
        "overlap": overlap,
        "catch_up_window": window,
        "kit": kit.SerializeToString() if kit else None,
        "kit_name": kit.name if kit else None,
        "notify": _notify(request, violations),
    }


def _notify(request: Put, violations: Violations) -> str | None:
    """Whom a schedule notifies, as JSON; None leaves what is there."""
    if isinstance(request, pb.ChangeScheduleRequest) and not request.change_notify:
        if request.notify:
            violations.add("notify", "is given without change_notify, which has it replaced")
        return None
    if len(request.notify) > MAX_NOTIFY:
        violations.add("notify", f"has {len(request.notify)} entries; give at most {MAX_NOTIFY}")
    entries = []
    for place, entry in enumerate(request.notify[:MAX_NOTIFY]):
        translate.name_from_proto(
            entry.webhook, f"notify[{place}].webhook", MAX_SCHEDULE_NAME, violations
        )
        for event in entry.events[: len(OCCASIONS) + 1]:
            if event not in OCCASIONS:
                problem = f"give some of {', '.join(OCCASIONS)}"
                violations.add(f"notify[{place}].events", problem)
        entries.append({"webhook": entry.webhook, "events": list(entry.events[:4])})
    return json.dumps(entries)


def _check_timing(timing: pb.Timing, violations: Violations) -> None:
    """What can be said of a timing without knowing cron expressions and time zones."""
    kind = timing.WhichOneof("kind")
    if kind is None:
        violations.add("timing", "say when: a cron expression such as `0 0 * * 0`, or an interval")
    if kind == "interval":
        interval = span(timing.interval)
        if interval is None or not MIN_SPAN <= interval <= MAX_SPAN:
            violations.add("timing.interval", "give 1 minute to 366 days")
    translate.label_from_proto(timing.cron, "timing.cron", MAX_CRON, violations)
    translate.label_from_proto(timing.time_zone, "timing.time_zone", MAX_ZONE, violations)


def _window(request: Put, violations: Violations) -> timedelta | None:
    if not request.HasField("catch_up_window"):
        return None
    window = span(request.catch_up_window)
    if window is not None and MIN_SPAN <= window <= MAX_SPAN:
        return window
    violations.add("catch_up_window", "give 1 minute to 366 days")
    return None


def span(message: Duration) -> timedelta | None:
    """A duration; None for one that is none or beyond what can be."""
    # Compared as a number: a hostile one fits no timedelta.
    if 0 <= message.seconds <= 2 * MAX_SPAN.total_seconds() and 0 <= message.nanos < 10**9:
        return timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    return None


def _kit(
    kit: registry_pb2.CreateKitRequest, project: str, violations: Violations
) -> registry_pb2.CreateKitRequest:
    """The kit that each fire makes, checked as it will be then."""
    template = registry_pb2.CreateKitRequest()
    template.CopyFrom(kit)
    for field in ("request_id", "project", "actor"):
        if getattr(kit, field):
            violations.add(f"kit.{field}", "must be unset: the schedule sets it")
    template.project = project
    try:
        requests.create_kit(template, lambda _: b"")
    except InvalidError as error:
        violations.extend("kit", error)
    if len(template.name) > MAX_KIT_NAME - TIME_LENGTH:
        violations.add("kit.name", f"give at most {MAX_KIT_NAME - TIME_LENGTH} characters")
    if len(template.labels) > MAX_LABELS - len(OWN_LABELS):
        violations.add("kit.labels", f"give at most {MAX_LABELS - len(OWN_LABELS)}")
    for label in OWN_LABELS:
        if label in template.labels:
            violations.add(f"kit.labels[{label}]", "is set by the schedule; choose another key")
    return template


def kit_of_fire(
    data: bytes, key: Key, time: datetime, request_id: str
) -> registry_pb2.CreateKitRequest:
    """The request for the kit of a fire: the same however often it is made."""
    kit = registry_pb2.CreateKitRequest.FromString(data)
    kit.request_id = request_id
    kit.actor = f"schedule {key.name}"
    kit.name += f" {time:%Y-%m-%dT%H:%M:%SZ}"
    kit.labels["schedule"] = key.name
    kit.labels["fire_time"] = f"{time:%Y-%m-%dT%H:%M:%SZ}"
    return kit


def put_time(stamp: Timestamp, time: datetime | None) -> None:
    """Sets a time, if there is one."""
    if time is not None:
        stamp.FromDatetime(time)


def fire_to_proto(fire: Fire) -> pb.Fire:
    """A fire as a message."""
    message = pb.Fire(
        state=pb.FireState.Value(f"FIRE_STATE_{fire.state}"),
        reason=fire.reason,
        kit_id=fire.kit_id or 0,
        kit_status=translate.status_to_proto(fire.kit_status) if fire.kit_status else 0,  # type: ignore[arg-type]
        manual=fire.manual,
    )
    put_time(message.fire_time, fire.time)
    put_time(message.updated_at, fire.updated_at)
    return message


def schedule_to_proto(schedule: Schedule, last_fire: Fire | None = None) -> pb.Schedule:
    """A schedule as a message."""
    message = pb.Schedule(
        schedule_id=str(schedule.schedule_id),
        name=schedule.name,
        project=schedule.project,
        timing=pb.Timing.FromString(schedule.timing),
        overlap=pb.Overlap.Value(f"OVERLAP_{schedule.overlap}"),
        paused=schedule.paused,
        note=schedule.note,
        kit_name=schedule.kit_name,
        actor=schedule.actor,
        revision=schedule.revision,
        notify=[outbox_pb2.Notify(**entry) for entry in schedule.notify],
    )
    message.catch_up_window.FromTimedelta(schedule.window)
    put_time(message.handled_until, schedule.handled_until)
    put_time(message.next_time, None if schedule.paused else schedule.next_time)
    put_time(message.created_at, schedule.created_at)
    put_time(message.updated_at, schedule.updated_at)
    if last_fire is not None:
        message.last_fire.CopyFrom(fire_to_proto(last_fire))
    return message
