"""A replica that was frozen until rows it never saw were dropped goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import grpc

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.upkeep.retention import Policy, apply

sys.path.insert(0, str(Path(__file__).parents[1]))

from process import RegistryProcess
from traffic import connect, external_job, until

SCHEMA = Config.schema
SIZE = 2000
AT_ONCE = Policy(finished_days=1e-9, failed_days=1e-9, canceled_days=1e-9)


async def last_word(stub, began: list[int], **wanted: object) -> pb.WatchStatesResponse:
    """What a watch ends with, or its status as one; notes that it began."""
    try:
        async for message in stub.WatchStates(pb.WatchStatesRequest(**wanted)):
            began.append(message.revision)
            if message.HasField("end"):
                return message
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.OUT_OF_RANGE:
            return pb.WatchStatesResponse(end=pb.End(code=pb.END_REASON_EXPIRED))
        raise
    raise AssertionError("the watch ended without a reason")


async def append(stub, job_id: str, count: int, status: int, name: str = "t") -> int:
    states = [
        common.State(job_id=job_id, task_name=name and f"{name}{n % 9}", status=status)
        for n in range(count)
    ]
    return int((await stub.AppendStates(pb.AppendStatesRequest(states=states))).revision)


async def test_a_replica_frozen_past_retention_recovers_by_itself(
    database: str, serve, tmp_path: Path
) -> None:
    frozen = RegistryProcess(
        dsn=database, home=tmp_path, settings={"PARTITION_SIZE": str(SIZE), "LEASE_SECONDS": "2"}
    )
    await frozen.start()
    channel, stub = connect(frozen.address)
    async with channel, serve(database, Config(partition_size=SIZE, lease_seconds=2)) as other:
        there, awake = connect(other.address)
        kit_id, job_id = await external_job(stub)
        # In its cache, and on its ledger's board.
        await stub.GetKit(pb.GetKitRequest(kit_id=kit_id))
        at = await append(stub, job_id, 1, common.STATUS_RUNNING, "first")
        began: list[int] = []
        of_kit = pb.StateFilter(kit_ids=[kit_id])
        watches = [
            asyncio.create_task(last_word(stub, began, after_revision=at)),
            asyncio.create_task(last_word(stub, began, after_revision=at, filter=of_kit)),
        ]
        await until(lambda: len(began) >= len(watches))
        frozen.freeze()
        try:
            for _ in range(5):
                await append(awake, job_id, 1000, common.STATUS_RUNNING)
            await append(awake, job_id, 1, common.STATUS_FINISHED, "")
            _, second = await external_job(awake)
            newest = await append(awake, second, 1, common.STATUS_RUNNING)
            assert len(await asyncio.to_thread(apply, database, SCHEMA, AT_ONCE)) == 2
        finally:
            frozen.thaw()

        for ended in await asyncio.wait_for(asyncio.gather(*watches), 120):
            assert ended.end.code == pb.END_REASON_EXPIRED
        # What it answers is what is there now.
        kit = (await stub.GetKit(pb.GetKitRequest(kit_id=kit_id, min_revision=newest))).kit
        assert (kit.status, len(kit.jobs[0].tasks)) == (common.STATUS_FINISHED, 10)
        # It appends, as much to what others changed meanwhile as to new kits.
        assert await append(stub, second, 3, common.STATUS_RUNNING, "again") == newest + 3
        # Watchers begin anew where something is kept, and follow.
        info = await stub.GetServerInfo(pb.GetServerInfoRequest())
        assert info.oldest_revision == 2 * SIZE + 1
        watch = stub.WatchStates(pb.WatchStatesRequest(after_revision=info.oldest_revision - 1))
        seen = []
        async with asyncio.timeout(120):
            while len(seen) < newest + 3 - 2 * SIZE:
                seen += [state.revision for state in (await watch.read()).delta.states]
        assert seen == list(range(2 * SIZE + 1, newest + 4))
        watch.cancel()
        await there.close()
    with contextlib.suppress(ProcessLookupError):
        assert await frozen.stop() == 0
    told = (tmp_path / "registry.err").read_text()
    assert "were dropped before this process saw them" in told
    assert "Traceback" not in told
