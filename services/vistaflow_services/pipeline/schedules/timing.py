"""When a schedule fires. Pure: moments in, moments out, all of them in UTC.

croniter works on times without a zone, which are then placed in the zone. So the rules for clocks
that change are those below, not a library's:

=====================  =========================  ================================
the hour of the cron   a time that clocks skip    a time that comes twice
=====================  =========================  ================================
names hours (`2`)      fires, by the clock        fires the first time
                       before: 02:30 at 03:30
begins with `*`        does not fire              fires both times
=====================  =========================  ================================
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from croniter import croniter
from croniter.croniter import CroniterError

from vistaflow_services.core.errors import Violations, cut

MAX_CRON = 200
MIN_INTERVAL: Final = timedelta(minutes=1)
MAX_INTERVAL: Final = timedelta(days=366)

LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)
"""No fire is looked for after it."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
_ZERO: Final = timedelta(0)

_ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# Letters in names of days and months, and `L` for the last; croniter also takes random fields.
_PART = r"(?:\*|\?|[0-9]+|[a-z]{3}|l[0-9]?)"
_ENTRY = rf"{_PART}(?:-{_PART})?(?:/[0-9]+)?(?:#[1-5])?"
_FIELD: Final = re.compile(rf"{_ENTRY}(?:,{_ENTRY})*")


class NeverError(ValueError):
    """A timing that fires at no time."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a schedule fires."""

    cron: str = ""
    """Five fields; empty for an interval."""
    zone: str = "UTC"
    interval: timedelta = _ZERO

    def after(self, moment: datetime) -> datetime:
        """The first fire after a moment.

        Raises:
            NeverError: There is none.
        """
        if self.interval:
            elapsed = (moment - _EPOCH) // self.interval + 1
            return _EPOCH + elapsed * self.interval
        zone = ZoneInfo(self.zone)
        shift = _shift(moment, zone)
        local = moment.astimezone(zone).replace(tzinfo=None)
        first: datetime | None = None
        for wall in self._walls(local - shift):
            # A change of the clocks by `shift` swaps times that are no further apart.
            if first is not None and wall > first.astimezone(zone).replace(tzinfo=None) + shift:
                break
            for fire in self._placed(wall, zone):
                if fire > moment and (first is None or fire < first):
                    first = fire
            if first is not None and not shift and not _shift(first, zone):
                break
        if first is None or first > LAST:
            raise NeverError("fires at no time")
        return first

    def upcoming(self, moment: datetime) -> Iterator[datetime]:
        """The fires after a moment, in order, without end."""
        while True:
            moment = self.after(moment)
            yield moment

    def _walls(self, start: datetime) -> Iterator[datetime]:
        """The times on the clock after a start, without their zone."""
        times = croniter(self.cron, start)
        while True:
            try:
                yield times.get_next(datetime)
            except (CroniterError, OverflowError):
                return

    def _placed(self, wall: datetime, zone: ZoneInfo) -> list[datetime]:
        """The moments at which a clock of the zone shows a time, by the rules above."""
        one, other = (wall.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
        if one.utcoffset() == other.utcoffset():
            return [one.astimezone(UTC)]
        first, second = one.astimezone(UTC), other.astimezone(UTC)
        if not self.cron.split()[1].startswith("*"):
            return [first]
        is_skipped = first > second
        return [] if is_skipped else [first, second]


def _shift(moment: datetime, zone: ZoneInfo) -> timedelta:
    """By how much the clocks change within a day of a moment."""
    before, after = ((moment + days).astimezone(zone).utcoffset() for days in (-_DAY, _DAY))
    return abs((after or _ZERO) - (before or _ZERO))


def read_timing(
    *, cron: str, zone: str, interval: timedelta | None, now: datetime, violations: Violations
) -> Timing:
    """A timing that a caller gives; what is wrong with it is added under its field.

    Args:
        cron: Five fields or an alias; empty if there is an interval.
        zone: Name of a time zone; empty for UTC.
        interval: None if there is a cron expression.
        now: From when on it has to fire.
        violations: Where mistakes are added.
    """
    before = len(violations)
    zone = zone.strip() or "UTC"
    if interval is not None:
        if not MIN_INTERVAL <= interval <= MAX_INTERVAL:
            violations.add("timing.interval", "give 1 minute to 366 days")
        return Timing(interval=max(interval, MIN_INTERVAL))
    if not is_zone(zone):
        violations.add(
            "timing.time_zone",
            f"there is no time zone `{cut(zone, 60)}`; give one such as Asia/Seoul or UTC",
        )
    fields = _ALIASES.get(cron.strip().lower(), cron).lower().split()
    if not fields:
        violations.add("timing", "say when: a cron expression such as `0 0 * * 0`, or an interval")
    elif len(cron) > MAX_CRON or len(fields) != 5 or not all(map(_FIELD.fullmatch, fields)):
        violations.add(
            "timing.cron",
            f"`{cut(cron, 60)}` is no cron expression; give five fields: minute, hour, day of the "
            f"month, month, day of the week (0 is Sunday), such as `30 2 * * mon-fri`, or one of "
            f"{', '.join(_ALIASES)}",
        )
    if len(violations) > before:
        return Timing(interval=MIN_INTERVAL)
    timing = Timing(cron=" ".join(fields), zone=zone)
    try:
        croniter(timing.cron, now.replace(tzinfo=None))
        timing.after(now)
    except NeverError:
        violations.add("timing.cron", f"`{cut(cron, 60)}` never fires: no date is like that")
    except (CroniterError, ValueError) as error:
        # croniter says which field is beyond its range.
        violations.add("timing.cron", cut(str(error), 200))
    return timing


def is_zone(name: str) -> bool:
    """Whether there is a time zone of a name."""
    if len(name) > 60:
        return False
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return False
    return True
