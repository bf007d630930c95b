"""The hub: order, gaps, bounds and who is woken."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from vistaflow_services.registry.domain import StateRow
from vistaflow_services.registry.log import turns
from vistaflow_services.registry.log.hub import STRETCH_ROWS, Entry, Hub, Stretch, Subscription, cut

JOB = uuid.uuid4()


def a_row(revision: int, *, kit: int = 1, batch: int | None = None, metadata: str = "") -> StateRow:
    return StateRow(
        revision=revision,
        batch=revision if batch is None else batch,
        kit_id=kit,
        job_id=JOB,
        job_type="DOE",
        task_name="simulate",
        status="RUNNING",
        current_order=1,
        attempt=1,
        seq=revision,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        metadata_json=metadata,
    )


def rows(first: int, last: int, *, kit: int = 1) -> list[StateRow]:
    return [a_row(revision, kit=kit, batch=first) for revision in range(first, last + 1)]


@contextlib.asynccontextmanager
async def following(hub: Hub, kits: list[list[int] | None]) -> AsyncIterator[tuple[Hub, list[int]]]:
    """Followers of these kits, None for everything, and how often each was woken."""
    wakes = [0] * len(kits)

    async def follow(number: int, place: Subscription) -> None:
        with place:
            await place.wait(0)
            while True:
                await place.wait(60)
                wakes[number] += 1

    places = [hub.subscribe(each) for each in kits]
    tasks = [asyncio.create_task(follow(*each)) for each in enumerate(places)]
    await asyncio.sleep(0)
    yield hub, wakes
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def revisions(stretch: Stretch | None) -> list[int] | None:
    return None if stretch is None else [entry.row.revision for entry in stretch.entries]


async def test_a_follower_reads_what_was_published_after_its_place() -> None:
    hub = Hub(10)
    with hub.subscribe() as place:
        hub.publish(rows(11, 13))
        assert revisions(hub.read(place, 11)) == [12, 13]
        assert hub.read(place, 13) == Stretch([], 13)
        assert hub.head == 13


async def test_rows_that_both_the_ledger_and_the_tail_bring_count_once() -> None:
    hub = Hub(0)
    seen: list[int] = []
    hub.listen(lambda fresh: seen.extend(row.revision for row in fresh))
    hub.publish(rows(1, 3))
    hub.advance_to(rows(1, 5))
    hub.publish(rows(4, 5))
    assert seen == [1, 2, 3, 4, 5]


async def test_rows_after_a_gap_are_not_taken_and_the_tail_is_called() -> None:
    hub = Hub(0)
    hub.publish(rows(4, 5))
    assert hub.head == 0
    assert hub.missing.is_set()
    hub.publish(rows(1, 5))
    assert hub.head == 5


def test_rows_with_a_gap_inside_are_a_fault() -> None:
    hub = Hub(0)
    with pytest.raises(ValueError, match="gaps"):
        hub.publish([a_row(1), a_row(3)])
    assert hub.head == 0


async def test_a_follower_behind_the_ring_is_sent_to_the_database() -> None:
    hub = Hub(0, max_rows=4)
    with hub.subscribe() as place:
        for revision in range(1, 8):
            hub.publish([a_row(revision)])
        assert hub.oldest == 4
        assert hub.read(place, 2) is None
        assert revisions(hub.read(place, 3)) == [4, 5, 6, 7]


async def test_the_ring_is_bounded_by_bytes_too() -> None:
    hub = Hub(0, max_rows=1000, max_bytes=50_000)
    for revision in range(1, 101):
        hub.publish([a_row(revision, metadata="x" * 10_000)])
    assert hub.head - hub.oldest + 1 == 4


async def test_a_commit_larger_than_the_ring_leaves_its_end_in_memory() -> None:
    hub = Hub(0, max_rows=4)
    with hub.subscribe() as place:
        hub.publish(rows(1, 10))
        assert hub.oldest == 7
        assert revisions(hub.read(place, 6)) == [7, 8, 9, 10]


async def test_a_stretch_ends_where_an_append_ends() -> None:
    hub = Hub(0)
    with hub.subscribe() as place:
        hub.publish(rows(1, STRETCH_ROWS - 1) + rows(STRETCH_ROWS, STRETCH_ROWS + 99))
        hub.publish(rows(STRETCH_ROWS + 100, STRETCH_ROWS + 100))
        first = hub.read(place, 0)
        assert first is not None
        assert first.through == STRETCH_ROWS + 99
        assert revisions(hub.read(place, first.through)) == [STRETCH_ROWS + 100]


def test_a_stretch_of_large_rows_is_cut_by_bytes() -> None:
    entries = [Entry(a_row(revision, metadata="x" * 60_000)) for revision in range(1, 41)]
    pieces = cut(entries, 99)
    assert [len(piece.entries) for piece in pieces] == [18, 18, 4]
    assert [piece.through for piece in pieces] == [18, 36, 99]


def test_nothing_to_cut_is_one_empty_stretch() -> None:
    assert cut([], 7) == [Stretch([], 7)]


async def test_a_commit_wakes_only_the_followers_of_its_kits() -> None:
    hub = Hub(0)
    woken: list[int] = []

    async def follow(kit: int, place: Subscription) -> None:
        while True:
            await place.wait(60)
            woken.append(kit)

    with hub.subscribe([1]) as one, hub.subscribe([2]) as two:
        for place in (one, two):
            await place.wait(0)
        tasks = [asyncio.create_task(follow(1, one)), asyncio.create_task(follow(2, two))]
        await asyncio.sleep(0)
        hub.publish([a_row(1, kit=2)])
        await asyncio.sleep(0.01)
        assert woken == [2]
        assert revisions(hub.read(two, 0)) == [1]
        assert hub.read(one, 0) == Stretch([], 1)
        for task in tasks:
            task.cancel()
    assert hub.follower_count == 0


async def test_a_lone_commit_is_told_to_everyone_at_once() -> None:
    async with following(Hub(0), [None] * 200) as (hub, wakes):
        hub.publish([a_row(1)])
        for _ in range(200 // turns.FEW + 3):
            await asyncio.sleep(0)
        assert wakes == [1] * 200


async def test_many_are_told_in_turn_and_no_oftener_than_the_budget_allows() -> None:
    async with following(Hub(0), [None] * 500) as (hub, wakes):
        began = time.monotonic()
        revision = 0
        while sum(wakes) < 4000:
            hub.publish([a_row(revision := revision + 1)])
            await asyncio.sleep(0.0005)
            assert max(wakes) - min(wakes) <= 1, "some are told twice while others wait"
        spent = time.monotonic() - began
        saved = turns.SAVED_SECONDS * turns.MOST_DELIVERIES_A_SECOND
        assert sum(wakes) <= spent * turns.MOST_DELIVERIES_A_SECOND + saved + 2 * turns.FEW


async def test_a_crowd_at_one_kit_is_held_to_the_budget_and_others_go_before() -> None:
    async with following(Hub(0), [[1]] * 500 + [[2]] + [None]) as (hub, wakes):
        began = time.monotonic()
        commits = 0
        while sum(wakes) < 4000:
            hub.publish([a_row(2 * commits + 1), a_row(2 * commits + 2, kit=2)])
            commits += 1
            await asyncio.sleep(0.0005)
        spent = time.monotonic() - began
        saved = turns.SAVED_SECONDS * turns.MOST_DELIVERIES_A_SECOND
        budget = spent * turns.MOST_DELIVERIES_A_SECOND + saved + 2 * turns.FEW
        assert sum(wakes[:501]) <= budget
        assert min(wakes[:501]) > max(wakes[:501]) / 2, "some wait while others go twice"
        assert wakes[501] > commits / 2, "who follows everything has a budget of its own"


async def test_whoever_leaves_before_its_turn_is_not_woken() -> None:
    async with following(Hub(0), [None, None, [1]]) as (hub, wakes):
        places = [hub.subscribe(), hub.subscribe([1])]
        for place in places:
            place.__enter__()
        hub.publish([a_row(1)])
        for place in places:
            place.__exit__(None, None, None)
        await asyncio.sleep(0.01)
        assert wakes == [1, 1, 1]
        assert all(place.horizon == 0 for place in places)


async def test_a_wait_ends_when_its_time_is_over() -> None:
    hub = Hub(0)
    with hub.subscribe() as place:
        await place.wait(0)
        async with asyncio.timeout(120):
            await place.wait(0.01)


async def test_a_slow_follower_of_one_kit_keeps_a_bounded_buffer_and_loses_nothing() -> None:
    hub = Hub(0, max_rows=4 * STRETCH_ROWS)
    with hub.subscribe([1]) as place:
        for revision in range(1, 3 * STRETCH_ROWS + 1):
            hub.publish([a_row(revision, kit=1 + revision % 2)])
        assert place.since > 0
        seen: list[int] = []
        at = 0
        while at < hub.head:
            stretch = hub.read(place, at)
            assert stretch is not None
            seen += [e.row.revision for e in stretch.entries if e.row.kit_id == 1]
            at = stretch.through
        assert seen == list(range(2, 3 * STRETCH_ROWS + 1, 2))


async def test_a_reader_waits_for_the_revision_it_asked_for() -> None:
    hub = Hub(0)
    later = asyncio.create_task(hub.reached(3))
    hub.publish([a_row(1), a_row(2)])
    await asyncio.sleep(0)
    assert not later.done()
    hub.publish([a_row(3)])
    async with asyncio.timeout(120):
        await later
        await hub.reached(2)


async def test_a_reader_that_gives_up_waiting_leaves_nothing_behind() -> None:
    hub = Hub(0)
    for _ in range(10):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await hub.reached(2**62)
    assert hub.awaited_count == 0


@pytest.mark.parametrize("seed", range(20))
async def test_followers_of_any_pace_see_every_row_of_theirs_once_in_order_and_whole(
    seed: int,
) -> None:
    chance = random.Random(seed)
    hub = Hub(0, max_rows=chance.choice([5, 50, 5000]))
    log: list[StateRow] = []
    places = [hub.subscribe(kits) for kits in (None, [1], [2, 3], [9])]
    at = [0] * len(places)
    seen: list[list[int]] = [[] for _ in places]
    for place in places:
        place.__enter__()

    def advance(who: int) -> None:
        place = places[who]
        stretch = hub.read(place, at[who])
        if stretch is None:  # as from the database
            stretch = Stretch([Entry(r) for r in log if r.revision > at[who]], hub.head)
        for entry in stretch.entries:
            if place.kits is None or entry.row.kit_id in place.kits:
                seen[who].append(entry.row.revision)
        at[who] = stretch.through
        assert at[who] == hub.head or log[at[who]].batch == at[who] + 1

    for _ in range(400):
        size = chance.choice([1, 1, 1, 3, 40])
        fresh = [
            a_row(len(log) + n + 1, batch=len(log) + 1, kit=chance.randint(1, 4))
            for n in range(size)
        ]
        log += fresh
        hub.publish(fresh)
        for who in range(len(places)):
            if chance.random() < 0.2:
                advance(who)
    for who, place in enumerate(places):
        while at[who] < hub.head:
            advance(who)
        kits = place.kits
        assert seen[who] == [r.revision for r in log if kits is None or r.kit_id in kits]


async def test_what_comes_after_a_wake_is_for_the_next_one_so_that_bursts_stay_bursts() -> None:
    hub = Hub(0)
    with hub.subscribe() as everything, hub.subscribe([1]) as one_kit:
        hub.publish(rows(1, 3))
        assert (everything.horizon, one_kit.horizon) == (0, 0)
        for place in (everything, one_kit):
            await place.wait(1)  # the first ends at once: something may have come before it
            await place.wait(1)
            assert place.horizon == 3
        hub.publish(rows(4, 5))
        assert everything.horizon == 3
        assert revisions(hub.read(everything, 3)) == [4, 5], "but whoever reads, reads all"
        await everything.wait(1)
        assert everything.horizon == 5


async def test_rows_that_are_gone_are_not_passed_over_by_those_who_follow() -> None:
    hub = Hub()
    skips: list[int] = []
    hub.listen(lambda rows: None, lambda: skips.append(hub.head))
    with hub.subscribe([1]) as of_kit, hub.subscribe() as of_all:
        hub.publish(rows(1, 3))
        waiting = asyncio.create_task(hub.reached(90))
        hub.skip_to(100)
        assert (hub.head, hub.oldest, skips) == (100, 101, [100])
        await waiting
        for place in (of_kit, of_all):
            assert hub.read(place, 0) is None
            assert hub.read(place, 3) is None
            assert hub.read(place, 100) == Stretch([], 100)
        assert hub.rows_after(50) is None
        hub.skip_to(7)
        assert hub.head == 100
