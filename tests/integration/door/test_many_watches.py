"""Several watches on one stream, by a token for one project."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from keys import Keys, id_of, new_kit

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub


async def opened(*watches: pb.WatchStatesRequest) -> AsyncIterator[pb.WatchManyRequest]:
    for number, watch in enumerate(watches):
        yield pb.WatchManyRequest(open=pb.OpenWatch(name=str(number), watch=watch))
    await asyncio.sleep(60)


async def test_each_watch_brings_the_rows_of_the_tokens_project_alone_until_the_token_ends(
    keys: Keys,
) -> None:
    mine, theirs = await keys.stub("EDITOR", "mine"), await keys.stub("EDITOR", "theirs")
    kits = [await new_kit(each) for each in (theirs, mine)]
    token = await keys.make("VIEWER", "mine")
    watches = (
        pb.WatchStatesRequest(),
        pb.WatchStatesRequest(include_snapshot=True),
        pb.WatchStatesRequest(filter=pb.StateFilter(project="theirs")),
    )
    call = RegistryServiceStub(keys.channel(token)).WatchMany(opened(*watches))  # type: ignore[arg-type]

    seen: dict[str, list[int]] = {"0": [], "1": [], "2": []}
    counted: set[int] = set()
    ends: dict[str, pb.EndReason.ValueType] = {}
    synced = 0
    async with asyncio.timeout(60):
        while len(ends) < 3:
            message = await call.read()  # type: ignore[attr-defined]
            if message is grpc.aio.EOF:
                break
            event = message.event
            seen[message.name] += [row.kit_id for row in event.delta.states]
            seen[message.name] += [row.kit_id for row in event.snapshot.states]
            counted |= {each.kit_id for each in event.delta.kit_counts}
            if event.HasField("end"):
                ends[message.name] = event.end.code
            if event.HasField("synced"):
                synced += 1
                if synced == 2:
                    kits += [await new_kit(each) for each in (theirs, mine)]
            if synced == 2 and all(len(seen[name]) == 2 for name in "01"):
                synced = 3
                admin = await keys.stub("ADMIN")
                await admin.RevokeToken(pb.RevokeTokenRequest(token_id=id_of(token)))

    ids = [kits[1].kit_id, kits[3].kit_id]
    assert seen == {"0": ids, "1": ids, "2": []}
    assert counted <= set(ids)
    assert (ends["0"], ends["1"]) == (pb.END_REASON_UNAUTHENTICATED,) * 2
    assert ends["2"] != pb.END_REASON_UNAUTHENTICATED
