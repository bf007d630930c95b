"""What happens at each fire: overlap, outages, clocks that jump."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from vistaflow_services.pipeline.schedules.plan import MAX_FIRES, Overlap, Plan, Standing, plan
from vistaflow_services.pipeline.schedules.timing import Timing

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
STANDING = Standing(
    timing=Timing(cron="0 * * * *"),
    overlap=Overlap.SKIP,
    window=24 * HOUR,
    handled_until=NOON,
    live=False,
)


def states(decided: Plan) -> list[str]:
    return [f"{fire.time:%H} {fire.state}" for fire in decided.fires]


@pytest.mark.parametrize(
    ("overlap", "live", "expected"),
    [
        (Overlap.SKIP, False, ["13 PENDING", "14 SKIPPED", "15 SKIPPED"]),
        (Overlap.SKIP, True, ["13 SKIPPED", "14 SKIPPED", "15 SKIPPED"]),
        (Overlap.BUFFER_ONE, False, ["13 PENDING", "14 BUFFERED", "15 SKIPPED"]),
        (Overlap.BUFFER_ONE, True, ["13 BUFFERED", "14 SKIPPED", "15 SKIPPED"]),
        (Overlap.ALLOW, True, ["13 PENDING", "14 PENDING", "15 PENDING"]),
    ],
)
def test_three_fires_at_once_go_by_the_overlap_policy(
    overlap: Overlap, live: bool, expected: list[str]
) -> None:
    decided = plan(replace(STANDING, overlap=overlap, live=live), NOON + 3 * HOUR)

    assert states(decided) == expected
    assert (decided.handled_until, decided.next_time) == (NOON + 3 * HOUR, NOON + 4 * HOUR)
    assert all(fire.reason for fire in decided.fires if fire.state == "SKIPPED")


def test_a_fire_that_waited_starts_once_nothing_is_at_work() -> None:
    waiting = replace(STANDING, overlap=Overlap.BUFFER_ONE, buffered=NOON)

    assert states(plan(waiting, NOON)) == ["12 PENDING"]
    assert states(plan(waiting, NOON + HOUR)) == ["12 PENDING", "13 BUFFERED"]
    assert states(plan(replace(waiting, live=True), NOON + HOUR)) == ["13 SKIPPED"]


def test_fires_before_the_window_are_missed_and_the_others_are_made() -> None:
    decided = plan(replace(STANDING, window=2 * HOUR, overlap=Overlap.ALLOW), NOON + 9 * HOUR)

    assert states(decided) == ["13 MISSED", "19 PENDING", "20 PENDING", "21 PENDING"]
    assert "to 2026-11-21 19:00:00 UTC" in decided.fires[0].reason


def test_a_clock_that_goes_back_fires_nothing_twice() -> None:
    decided = plan(STANDING, NOON - 5 * HOUR)

    assert (decided.fires, decided.handled_until) == ((), NOON)
    assert decided.next_time == NOON + HOUR


def test_very_many_fires_are_planned_in_pieces_without_a_gap() -> None:
    standing = replace(STANDING, timing=Timing(cron="* * * * *"), window=timedelta(days=30))
    now, times = NOON + 5 * HOUR, []
    for _ in range(4):
        decided = plan(standing, now)
        times += [fire.time for fire in decided.fires]
        assert len(decided.fires) <= MAX_FIRES
        standing = replace(standing, handled_until=decided.handled_until)

    assert times == [NOON + timedelta(minutes=minute) for minute in range(1, 301)]
    assert decided.next_time > now
