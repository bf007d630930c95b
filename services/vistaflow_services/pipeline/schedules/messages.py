"""Protos of schedules, from and to the domain."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from vistaflow.api.schedules.v1 import schedules_pb2 as pb
from vistaflow_services.core.errors import Violations
from vistaflow_services.pipeline.schedules.plan import Overlap, Plan, Standing
from vistaflow_services.pipeline.schedules.timing import Timing, read_timing


def moment_of(stamp: Timestamp) -> datetime:
    """A time in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)


def timing_of(message: pb.Timing, now: datetime, violations: Violations) -> Timing:
    """A timing that a caller gives; what is wrong with it is added under its field."""
    return read_timing(
        cron=message.cron,
        zone=message.time_zone,
        interval=_interval(message) if message.HasField("interval") else None,
        now=now,
        violations=violations,
    )


def stored_timing(schedule: pb.Schedule) -> Timing:
    """The timing of a schedule.

    Raises:
        InvalidError: It can no longer be read.
    """
    violations = Violations()
    timing = timing_of(schedule.timing, moment_of(schedule.handled_until), violations)
    violations.check()
    return timing


def _interval(message: pb.Timing) -> timedelta:
    """The interval; 0 for one that is none."""
    try:
        return message.interval.ToTimedelta()
    except (ValueError, OverflowError):
        return timedelta()


def standing_of(due: pb.DueSchedule) -> Standing:
    """A schedule as a plan begins with it.

    Raises:
        InvalidError: Its timing can no longer be read.
    """
    schedule = due.schedule
    return Standing(
        timing=stored_timing(schedule),
        overlap=Overlap(pb.Overlap.Name(schedule.overlap).removeprefix("OVERLAP_")),
        window=schedule.catch_up_window.ToTimedelta(),
        handled_until=moment_of(schedule.handled_until),
        live=due.live,
        buffered=moment_of(due.buffered_time) if due.HasField("buffered_time") else None,
    )


def request_of(plan: Plan, schedule: pb.Schedule) -> pb.PlanFiresRequest:
    """What records a plan."""
    request = pb.PlanFiresRequest(schedule_id=schedule.schedule_id, revision=schedule.revision)
    request.handled_until.FromDatetime(plan.handled_until)
    request.next_time.FromDatetime(plan.next_time)
    for fire in plan.fires:
        state = pb.FireState.Value(f"FIRE_STATE_{fire.state}")
        request.fires.add(state=state, reason=fire.reason).fire_time.FromDatetime(fire.time)
    return request


def with_next(schedule: pb.Schedule) -> pb.Schedule:
    """A schedule with its next time, which the registry does not know before it is planned."""
    if not schedule.paused and not schedule.HasField("next_time"):
        for time in next_times(schedule, 1):
            schedule.next_time.CopyFrom(time)
    return schedule


def next_times(schedule: pb.Schedule, count: int) -> list[Timestamp]:
    """The next times of a schedule; none while it is paused."""
    if schedule.paused or not count:
        return []
    upcoming = stored_timing(schedule).upcoming(moment_of(schedule.handled_until))
    stamps = []
    for time in itertools.islice(upcoming, count):
        stamp = Timestamp()
        stamp.FromDatetime(time)
        stamps.append(stamp)
    return stamps
