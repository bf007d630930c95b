"""Timings and times as text, and the spans of options."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp

from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow.cli.output import USAGE, stop

_SPAN: Final = re.compile(r"([0-9]+)([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def span_of(option: str, text: str) -> timedelta:
    """A span such as `90m`; none if the text is empty."""
    if not text:
        return timedelta()
    match = _SPAN.fullmatch(text)
    if match is None or len(match[1]) > 9:
        stop(f"{option}: {text!r} is no span; give one such as 30m, 6h or 7d", USAGE)
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def timing_text(timing: schedules_pb2.Timing) -> str:
    """When a schedule fires."""
    if timing.WhichOneof("kind") == "interval":
        return f"every {timing.interval.ToTimedelta()}"
    return f"{timing.cron} {timing.time_zone or 'UTC'}"


def time_text(stamp: Timestamp, timing: schedules_pb2.Timing) -> str:
    """A time in the zone of a timing."""
    zone: tzinfo
    try:
        zone = ZoneInfo(timing.time_zone or "UTC")
    except (OSError, ValueError, KeyError):
        # This machine may know fewer zones than the service.
        zone = UTC
    time: datetime = stamp.ToDatetime(UTC).astimezone(zone)
    return f"{time:%a %Y-%m-%d %H:%M:%S %Z}"


def next_text(schedule: schedules_pb2.Schedule) -> str:
    """When a schedule fires next."""
    if schedule.paused:
        return "paused"
    return time_text(schedule.next_time, schedule.timing)
