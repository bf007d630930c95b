"""Pauses in what reads kits from memory, and in what is kept of a log that was cut."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from test_retention import AT_ONCE, SCHEMA, SIZE, fill, own
from traffic import connect

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.upkeep.rebuild import rebuild
from vistaflow_services.registry.upkeep.retention import apply


async def test_a_pause_outlives_the_partition_it_is_recorded_in(database: str, serve) -> None:
    async with serve(database, Config(partition_size=SIZE)) as registry:
        kit_id = await fill(registry.ledger, SIZE, end="")
        channel, stub = connect(registry.address)

        async def read(**fields: int) -> pb.Kit:
            return (await stub.GetKit(pb.GetKitRequest(kit_id=kit_id, **fields))).kit

        async with channel:
            assert not (await read()).paused
            paused = await registry.ledger.submit(c.PauseKit(kit_id=kit_id))
            # From memory, as from the database.
            now = await read(min_revision=paused.revision)
            assert now.paused
            assert registry.cache.drop_count == 0
            assert now == await read(as_of_revision=paused.revision)
            (job_id,) = paused.kit.jobs
            await own(registry.ledger, job_id, "FINISHED")
            await fill(registry.ledger, SIZE)
            before = await read()
            assert apply(database, SCHEMA, AT_ONCE)
            assert await read() == before
            head = registry.hub.head
            assert await read(as_of_revision=head) == before
            assert before.paused
    assert not any(rebuild(database, SCHEMA, check=True).values())
