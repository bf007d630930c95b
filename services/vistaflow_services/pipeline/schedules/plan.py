"""What happens at each fire of a schedule. Pure: the state of a schedule in, its fires out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from vistaflow_services.pipeline.schedules.timing import Timing

MAX_FIRES = 100
"""Fires that are planned at once; the others at the next look."""

_MOMENT: Final = timedelta(microseconds=1)


class Overlap(StrEnum):
    """What happens at a fire while the kit of an earlier one is at work."""

    SKIP = "SKIP"
    BUFFER_ONE = "BUFFER_ONE"
    ALLOW = "ALLOW"


class FireState(StrEnum):
    """What is decided about a fire."""

    BUFFERED = "BUFFERED"
    PENDING = "PENDING"
    SKIPPED = "SKIPPED"
    MISSED = "MISSED"


@dataclass(frozen=True, kw_only=True)
class PlannedFire:
    """A fire, and what is decided about it."""

    time: datetime
    state: FireState
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to record."""

    fires: tuple[PlannedFire, ...]
    handled_until: datetime
    next_time: datetime


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A schedule as it is before a plan."""

    timing: Timing
    overlap: Overlap
    window: timedelta
    """How late a fire may be made."""
    handled_until: datetime
    live: bool
    """Whether a kit of an earlier fire is at work, or about to be made."""
    buffered: datetime | None = None
    """The fire that waits."""


def plan(standing: Standing, now: datetime) -> Plan:
    """Decides about every fire until now, at most `MAX_FIRES`.

    A clock that goes back changes nothing until it passes `handled_until` again. A clock that
    jumps ahead is like an outage: fires before the catch-up window are MISSED, which one entry
    says for all of them.
    """
    fires: list[PlannedFire] = []
    live, buffered, handled = standing.live, standing.buffered, standing.handled_until
    if buffered is not None and not live:
        fires.append(PlannedFire(time=buffered, state=FireState.PENDING))
        live, buffered = True, None
    oldest = now - standing.window
    time = standing.timing.after(handled)
    if time < oldest:
        fires.append(_missed(time, oldest, standing.window))
        handled = oldest - _MOMENT
    for time in itertools.islice(standing.timing.upcoming(handled), MAX_FIRES):
        if time > now:
            handled = max(handled, now)
            break
        handled = time
        if not live or standing.overlap is Overlap.ALLOW:
            fires.append(PlannedFire(time=time, state=FireState.PENDING))
            live = True
        elif standing.overlap is Overlap.BUFFER_ONE and buffered is None:
            fires.append(PlannedFire(time=time, state=FireState.BUFFERED))
            buffered = time
        else:
            reason = "the kit of an earlier fire was at work"
            if buffered is not None:
                reason += ", and another fire waited"
            fires.append(PlannedFire(time=time, state=FireState.SKIPPED, reason=reason))
    return Plan(fires=tuple(fires), handled_until=handled, next_time=standing.timing.after(handled))


def _missed(time: datetime, oldest: datetime, window: timedelta) -> PlannedFire:
    reason = (
        f"no pipeline service planned the fires from here to {oldest:%Y-%m-%d %H:%M:%S} UTC "
        f"within the catch-up window of {window}"
    )
    return PlannedFire(time=time, state=FireState.MISSED, reason=reason)
