"""When schedules fire: days of the week, clocks that change, expressions that cannot be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistaflow_services.core.errors import Violations
from vistaflow_services.pipeline.schedules.timing import Timing, read_timing

NEW_YORK = "America/New_York"
"""Clocks skip 2026-03-08 02:00 to 03:00, and show 2026-11-01 01:00 to 02:00 twice."""

CHANGES = {
    "a skipped time fires by the clock before": (
        "30 2 * * *", NEW_YORK, "2026-03-07", ["07 02:30-0500", "08 03:30-0400", "09 02:30-0400"],
    ),
    "two that fall together fire once": (
        "30 2,3 * * *", NEW_YORK, "2026-03-08", ["08 03:30-0400", "09 02:30-0400"],
    ),
    "skipped times keep the order of moments": (
        "0,30 2,3 * * *", NEW_YORK, "2026-03-08",
        ["08 03:00-0400", "08 03:30-0400", "09 02:00-0400"],
    ),
    "a repeated time fires the first time": (
        "30 1 * * *", NEW_YORK, "2026-11-01", ["01 01:30-0400", "02 01:30-0500"],
    ),
    "every hour fires in both": (
        "30 * * * *", NEW_YORK, "2026-11-01",
        ["01 00:30-0400", "01 01:30-0400", "01 01:30-0500", "01 02:30-0500"],
    ),
    "every hour leaves out the one that is skipped": (
        "30 * * * *", NEW_YORK, "2026-03-08", ["08 00:30-0500", "08 01:30-0500", "08 03:30-0400"],
    ),
    "0 is Sunday": ("0 0 * * 0", "Asia/Seoul", "2026-11-21", ["22 00:00+0900", "29 00:00+0900"]),
    "7 is Sunday": ("0 0 * * 7", "Asia/Seoul", "2026-11-21", ["22 00:00+0900", "29 00:00+0900"]),
    "@weekly is Sunday": ("@weekly", "Asia/Seoul", "2026-11-21", ["22 00:00+0900"]),
    "leap days are found": ("0 0 29 2 *", "UTC", "2096-03-01", ["29 00:00+0000"]),
}  # fmt: skip


def read(cron: str, zone: str = "UTC") -> tuple[Timing, dict[str, str]]:
    violations = Violations()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    timing = read_timing(cron=cron, zone=zone, interval=None, now=now, violations=violations)
    return timing, {violation.field: violation.description for violation in violations}


@pytest.mark.parametrize(("cron", "zone", "day", "fires"), CHANGES.values(), ids=CHANGES.keys())
def test_a_cron_expression_fires_when_the_clock_of_its_zone_says(
    cron: str, zone: str, day: str, fires: list[str]
) -> None:
    timing, mistakes = read(cron, zone)
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)) - timedelta(seconds=1)
    upcoming = islice(timing.upcoming(start.astimezone(UTC)), len(fires))

    assert mistakes == {}
    assert [f"{fire.astimezone(ZoneInfo(zone)):%d %H:%M%z}" for fire in upcoming] == fires


@given(
    cron=st.sampled_from(["*/20 * * * *", "10,50 0-3 * * *", "30 1,2 * * *", "0 0 1 * *"]),
    zone=st.sampled_from([NEW_YORK, "Australia/Lord_Howe", "Asia/Seoul", "Antarctica/Troll"]),
    moment=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
)
def test_each_fire_follows_from_any_moment_before_it(
    cron: str, zone: str, moment: datetime
) -> None:
    fires = list(islice(Timing(cron=cron, zone=zone).upcoming(moment), 8))

    assert all(one < other for one, other in pairwise([moment, *fires]))
    for one, other in pairwise([moment, *fires]):
        middle = one + (other - one) / 2
        assert Timing(cron=cron, zone=zone).after(middle) == other


def test_an_interval_fires_at_its_multiples() -> None:
    timing = Timing(interval=timedelta(hours=6))
    start = datetime(2026, 11, 21, 7, tzinfo=UTC)
    assert [fire.hour for fire in islice(timing.upcoming(start), 4)] == [12, 18, 0, 6]


@pytest.mark.parametrize(
    ("cron", "zone", "field", "words"),
    [
        ("0 0 30 2 *", "", "timing.cron", "never fires"),
        ("0 0 31 4,6 *", "", "timing.cron", "never fires"),
        ("61 * * * *", "", "timing.cron", "out of range"),
        ("R * * * *", "", "timing.cron", "is no cron expression"),
        ("* * * * * *", "", "timing.cron", "give five fields"),
        ("@reboot", "", "timing.cron", "@hourly"),
        ("0 0 * * " + "1," * 200 + "1", "", "timing.cron", "is no cron expression"),
        ("", "", "timing", "say when"),
        ("@daily", "Mars/Base", "timing.time_zone", "no time zone `Mars/Base`"),
        ("@daily", "../../etc/passwd", "timing.time_zone", "such as Asia/Seoul"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_under_its_field(
    cron: str, zone: str, field: str, words: str
) -> None:
    _, mistakes = read(cron, zone)
    assert list(mistakes) == [field]
    assert words in mistakes[field]
