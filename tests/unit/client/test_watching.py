"""A watch over connections that break: nothing is missed, nothing is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

import vistaflow
from tests.unit.client.scripted import (  # type: ignore[import-not-found]
    CUT,
    HANG,
    ScriptedRegistry,
    bookmark,
    delta,
    end,
    refuse,
    snapshot,
    synced,
)
from vistaflow._rpc.replicas import ReplicaChannel
from vistaflow.aio import _watch, connect
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.models import Bookmark, Delta, Snapshot, Synced, WatchEvent


async def until(events: AsyncIterator[WatchEvent], revision: int) -> list[WatchEvent]:
    """The events up to the one of that revision."""
    found: list[WatchEvent] = []
    async with asyncio.timeout(60):
        async for each in events:
            found.append(each)
            if each.revision >= revision:
                break
    return found


def revisions(events: list[WatchEvent]) -> list[int]:
    return [row.revision for each in events if isinstance(each, Delta) for row in each.states]


async def test_a_stream_cut_in_the_middle_goes_on_from_the_last_row(
    scripted: ScriptedRegistry,
) -> None:
    scripted.streams = [
        [delta(1, 2), synced(2), delta(3), CUT],
        [delta(4), end(4)],
        [synced(4), delta(5)],
    ]

    async with connect(scripted.address) as client:
        found = await until(aiter(client.watch(kit_ids=[1])), 5)

    assert revisions(found) == [1, 2, 3, 4, 5]
    assert [each.after_revision for each in scripted.watches] == [0, 3, 4]
    assert [list(each.filter.kit_ids) for each in scripted.watches] == [[1]] * 3


async def test_rows_that_come_twice_are_delivered_once(scripted: ScriptedRegistry) -> None:
    scripted.streams = [[delta(1), delta(1), delta(2), delta(1), delta(2), delta(3)]]

    async with connect(scripted.address) as client:
        found = await until(aiter(client.watch()), 3)

    assert revisions(found) == [1, 2, 3]


async def test_rows_up_to_a_bookmark_are_not_asked_for_again(scripted: ScriptedRegistry) -> None:
    scripted.streams = [[delta(1), bookmark(40), CUT], [delta(41)]]

    async with connect(scripted.address) as client:
        watch = client.watch(after_revision=0)
        found = await until(aiter(watch), 41)

    assert isinstance(found[1], Bookmark)
    assert scripted.watches[1].after_revision == 40
    assert watch.revision == 41


async def test_a_snapshot_that_was_cut_off_begins_anew(scripted: ScriptedRegistry) -> None:
    scripted.streams = [
        [snapshot(9, 3), CUT],
        [snapshot(12, 3), snapshot(12, 11), synced(12), delta(13)],
    ]

    async with connect(scripted.address) as client:
        found = await until(aiter(client.watch(include_snapshot=True)), 13)

    assert [each.include_snapshot for each in scripted.watches] == [True, True]
    assert [each.after_revision for each in scripted.watches] == [0, 0]
    assert [type(each) for each in found] == [Snapshot, Snapshot, Snapshot, Synced, Delta]


async def test_after_the_snapshot_a_lost_stream_resumes_in_the_same_log(
    scripted: ScriptedRegistry,
) -> None:
    scripted.streams = [[snapshot(9, 3), synced(9, "epoch-a"), CUT], [delta(10)]]

    async with connect(scripted.address) as client:
        await until(aiter(client.watch(include_snapshot=True)), 10)

    resumed = scripted.watches[1]
    assert not resumed.include_snapshot
    assert (resumed.after_revision, resumed.epoch) == (9, "epoch-a")


async def test_silence_counts_as_a_lost_connection(
    scripted: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "SILENCE_SECONDS", 0.3)
    scripted.streams = [[delta(1), HANG], [delta(2)]]

    async with connect(scripted.address) as client:
        found = await until(aiter(client.watch()), 2)

    assert revisions(found) == [1, 2]
    assert scripted.watches[1].after_revision == 1


async def test_watches_that_hear_nothing_go_on_at_another_replica(
    scripted: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a replica's connections live and what should serve them does not."""
    monkeypatch.setattr(_watch, "SILENCE_SECONDS", 0.5)
    stuck = ScriptedRegistry()
    await stuck.start()
    stuck.streams = [[delta(1), HANG], [delta(1), HANG]]
    scripted.streams = [[delta(2), HANG], [delta(2), HANG]]

    async with connect(f"{stuck.address},{scripted.address}") as client:
        assert isinstance(client._channel, ReplicaChannel)
        client._channel._present = 0
        found = await asyncio.gather(*(until(aiter(client.watch()), 2) for _ in range(2)))

    assert [revisions(each) for each in found] == [[1, 2], [1, 2]]
    assert [each.after_revision for each in scripted.watches] == [1, 1]
    await stuck.stop()


async def test_a_watch_survives_a_registry_that_is_down(scripted: ScriptedRegistry) -> None:
    scripted.streams = [[delta(1), HANG], [delta(2), HANG]]
    async with connect(scripted.address) as client:
        watch = client.watch()
        events = aiter(watch)
        assert revisions([await anext(events)]) == [1]
        assert watch.connected
        following = asyncio.ensure_future(anext(events))
        await scripted.stop()
        async with asyncio.timeout(60):
            while watch.connected:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await scripted.start(scripted.address)

        assert revisions([await asyncio.wait_for(following, 60)]) == [2]


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        (grpc.StatusCode.OUT_OF_RANGE, vistaflow.OutOfRangeError),
        (grpc.StatusCode.FAILED_PRECONDITION, vistaflow.FailedPreconditionError),
        (grpc.StatusCode.INVALID_ARGUMENT, vistaflow.InvalidArgumentError),
    ],
)
async def test_what_trying_again_cannot_mend_is_raised(
    scripted: ScriptedRegistry, code: grpc.StatusCode, raised: type[vistaflow.VistaError]
) -> None:
    scripted.streams = [[delta(1), code]]

    async with connect(scripted.address) as client:
        events = aiter(client.watch())
        await anext(events)
        with pytest.raises(raised):
            await asyncio.wait_for(anext(events), 60)


def test_an_unknown_word_in_a_filter_is_refused_before_the_call() -> None:
    with pytest.raises(ValueError, match="STATUS_DONE"):
        _watch.watch_filter(statuses=["done"])
    with pytest.raises(ValueError, match="JOB_TYPE_DOER"):
        _watch.watch_filter(job_types=["doer"])


async def test_waiting_outlives_a_registry_that_is_down_for_longer_than_a_call(
    scripted: ScriptedRegistry,
) -> None:
    running = pb.Kit(kit_id=1, status=common_pb2.STATUS_RUNNING, revision=1)
    running.job_counts.running_count = 1
    done = pb.Kit(kit_id=1, status=common_pb2.STATUS_FINISHED, revision=2)
    down = refuse(grpc.StatusCode.UNAVAILABLE)
    scripted.answers = [pb.GetKitResponse(kit=running), *[down] * 8, pb.GetKitResponse(kit=done)]
    scripted.streams = [[delta(2), bookmark(2), bookmark(2), bookmark(2), bookmark(2)]] * 3

    async with connect(scripted.address, timeout=0.3) as client:
        kit = await asyncio.wait_for(client.wait(1), 60)

    assert kit.status == "FINISHED"
    assert len(scripted.answers) == 1


def part(*revisions: int, before: int) -> pb.WatchStatesResponse:
    """Rows of an append that goes on in the next message."""
    message = delta(*revisions)
    message.delta.partial, message.revision = True, before
    return message


async def test_an_append_that_comes_in_parts_is_told_as_one_event_and_again_as_a_whole(
    scripted: ScriptedRegistry,
) -> None:
    scripted.streams = [
        [delta(1), part(2, 3, before=1), part(4, before=1), CUT],
        [part(2, 3, before=1), part(4, before=1), delta(5), part(6, before=5), delta(7)],
    ]

    async with connect(scripted.address) as client:
        found = await until(aiter(client.watch()), 7)

    told = [[row.revision for row in each.states] for each in found if isinstance(each, Delta)]
    assert told == [[1], [2, 3, 4, 5], [6, 7]]
    assert [each.after_revision for each in scripted.watches] == [0, 1]
