"""What a watch asks for, and what it does when its place or its log is gone."""

from __future__ import annotations

import asyncio

import grpc
import pytest

import vistaflow
from tests.unit.client.scripted import (  # type: ignore[import-not-found]
    CUT,
    ScriptedRegistry,
    delta,
    info,
    refuse,
    row,
    snapshot,
    synced,
)
from vistaflow.aio import connect
from vistaflow.aio._watch import Watch
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.models import Delta, Snapshot, WatchEvent


class Replaced(ScriptedRegistry):  # type: ignore[misc]
    """Refuses a place that is of another log."""

    async def WatchStates(self, request, context):  # type: ignore[no-untyped-def]
        if request.epoch == "old":
            self.watches.append(request)
            code = grpc.StatusCode.FAILED_PRECONDITION
            await refuse(code, details=[info("EPOCH_CHANGED")])(context)
        async for step in super().WatchStates(request, context):
            yield step


def ended(code: pb.EndReason.ValueType, revision: int) -> pb.WatchStatesResponse:
    return pb.WatchStatesResponse(end=pb.End(reason="x", code=code), revision=revision)


async def take(watch: Watch, count: int) -> list[WatchEvent]:
    found: list[WatchEvent] = []
    async with asyncio.timeout(60):
        async for each in watch:
            found.append(each)
            if len(found) == count:
                break
    return found


async def test_what_was_asked_for_is_asked_again_after_a_lost_connection(
    scripted: ScriptedRegistry,
) -> None:
    scripted.streams = [[delta(1), CUT], [delta(2)]]
    async with connect(scripted.address) as client:
        watch = client.watch(
            mode="latest", include_left=True, snapshot_if_expired=True, statuses=["RUNNING"]
        )
        await take(watch, 2)
    for request in scripted.watches:
        assert request.mode == pb.WATCH_MODE_LATEST_PER_TASK
        assert request.include_left
        assert request.snapshot_if_expired
    assert [each.after_revision for each in scripted.watches] == [0, 1]


async def test_left_rows_and_the_folded_count_are_in_the_delta(scripted: ScriptedRegistry) -> None:
    message = pb.WatchStatesResponse(
        revision=9,
        delta=pb.Delta(states=[row(8)], left=[row(9, status="FINISHED")], folded_count=5),
    )
    scripted.streams = [[message]]
    async with connect(scripted.address) as client:
        (event,) = await take(client.watch(), 1)
    assert isinstance(event, Delta)
    assert [each.revision for each in event.states] == [8]
    assert [(each.revision, each.status) for each in event.left] == [(9, "FINISHED")]
    assert event.folded_count == 5


async def test_a_place_that_expired_goes_on_with_the_snapshot_the_registry_sends(
    scripted: ScriptedRegistry,
) -> None:
    scripted.streams = [
        [delta(1), synced(1, "e"), ended(pb.END_REASON_EXPIRED, 1)],
        [snapshot(50, 3, 50), synced(50, "e"), delta(51)],
    ]
    async with connect(scripted.address) as client:
        watch = client.watch(snapshot_if_expired=True)
        found = await take(watch, 5)
    assert [type(each).__name__ for each in found] == [
        "Delta",
        "Synced",
        "Snapshot",
        "Synced",
        "Delta",
    ]
    assert [each.after_revision for each in scripted.watches] == [0, 1]
    assert watch.revision == 51


@pytest.mark.parametrize("wanted", [True, False])
async def test_after_a_restore_a_watch_begins_anew_when_asked_to_and_else_raises(
    wanted: bool,
) -> None:
    scripted = Replaced()
    await scripted.start()
    scripted.streams = [
        [delta(70), synced(70, "old"), ended(pb.END_REASON_EPOCH_CHANGED, 70)],
        [snapshot(40, 3, 40), synced(40, "new"), delta(41)],
    ]
    async with connect(scripted.address) as client:
        watch = client.watch(snapshot_if_expired=wanted)
        if wanted:
            found = await take(watch, 5)
            assert isinstance(found[2], Snapshot)
            assert [each.revision for each in found] == [70, 70, 40, 40, 41]
            last = scripted.watches[-1]
            assert (last.include_snapshot, last.after_revision, last.epoch) == (True, 0, "")
        else:
            with pytest.raises(vistaflow.FailedPreconditionError) as refused:
                await take(watch, 3)
            assert refused.value.reason == "EPOCH_CHANGED"
    await scripted.stop()
