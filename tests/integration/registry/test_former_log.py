"""A log with rows that commit 3a5e1b9 took and could not deliver opens, and everybody reads it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import former_log
import grpc
import psycopg
import pytest
import pytest_asyncio
from former_log import APPEND_ROWS, DEEP, DEPTHS, LARGE_APPEND, LARGE_TREE, TREE_TASKS, job_id
from google.protobuf import json_format
from psycopg.conninfo import make_conninfo

import vistaflow.aio
from vistaflow import Delta, Snapshot, Synced
from vistaflow._rpc import paging
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow_services.core.message_limits import MESSAGE_BYTES, NESTING
from vistaflow_services.registry.__main__ import PACKAGE
from vistaflow_services.registry.database.migrations import migrate

sys.path.insert(0, str(Path(__file__).parent.parent))
from conftest import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


@contextmanager
def former_database(postgres: str) -> Iterator[tuple[str, int]]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE former")
        conninfo = make_conninfo(postgres, dbname="former")
        yield conninfo, former_log.write(conninfo)
        connection.execute("DROP DATABASE former WITH (FORCE)")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def former(postgres: str) -> AsyncIterator[tuple[str, int]]:
    """Address of a registry that opened the former log, and the log's last revision."""
    with former_database(postgres) as (conninfo, last):
        migrate(conninfo, former_log.SCHEMA, PACKAGE)
        async with serving(conninfo) as registry:
            yield registry.address, last


@asynccontextmanager
async def stock(address: str) -> AsyncIterator[Any]:
    """Calls as from any gRPC client that was told nothing: it takes 4 MiB a message."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield RegistryServiceStub(channel)


def watch(kit_id: int, **fields: Any) -> pb.WatchStatesRequest:
    return pb.WatchStatesRequest(filter=pb.StateFilter(kit_ids=[kit_id]), **fields)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


async def test_metadata_that_is_nested_too_deep_comes_cut_and_says_so(
    former: tuple[str, int],
) -> None:
    async with stock(former[0]) as stub:
        kit = (await stub.GetKit(pb.GetKitRequest(kit_id=DEEP))).kit
        listed = await stub.ListStates(pb.ListStatesRequest(filter={"kit_ids": [DEEP]}))
        seen = {
            task.task_name: json_format.MessageToDict(task.metadata) for task in kit.jobs[0].tasks
        }
        rows = {row.task_name: json_format.MessageToDict(row.metadata) for row in listed.states}
        for place, levels in enumerate(DEPTHS):
            told = seen[f"t{place}"]
            assert rows[f"t{place}"] == told
            assert told["beside"] == "kept"
            assert ("_truncated" in told) == (levels > NESTING)
            assert depth(told) == min(levels, NESTING)
        assert "_truncated" in json_format.MessageToDict(kit.spec)
        assert "_truncated" in json_format.MessageToDict(kit.jobs[1].result)
        for request, method in (
            (pb.ListKitsRequest(), stub.ListKits),
            (pb.ListJobsRequest(kit_ids=[DEEP]), stub.ListJobs),
            (pb.GetJobRequest(job_id=job_id(DEEP)), stub.GetJob),
            (pb.DiffKitRequest(kit_id=DEEP), stub.DiffKit),
            (pb.GetKitRequest(kit_id=DEEP, as_of_revision=6), stub.GetKit),
        ):
            assert await method(request)


@pytest.mark.parametrize("kit_id", [DEEP, LARGE_APPEND, LARGE_TREE])
@pytest.mark.parametrize("snapshot", [False, True])
async def test_a_watch_delivers_every_row_in_messages_that_anybody_takes(
    former: tuple[str, int], kit_id: int, snapshot: bool
) -> None:
    async with stock(former[0]) as stub:
        tasks: list[str] = []
        async for message in stub.WatchStates(watch(kit_id, include_snapshot=snapshot), timeout=60):
            assert message.ByteSize() <= MESSAGE_BYTES + 64
            if message.HasField("synced"):
                break
            states = message.snapshot.states if snapshot else message.delta.states
            tasks += [row.task_name for row in states if row.task_name]
        count = {DEEP: len(DEPTHS), LARGE_APPEND: APPEND_ROWS, LARGE_TREE: TREE_TASKS}[kit_id]
        assert tasks == [f"t{n}" for n in range(count)]


async def test_of_a_large_append_only_the_last_message_tells_its_revision(
    former: tuple[str, int],
) -> None:
    async with stock(former[0]) as stub:
        messages = []
        async for message in stub.WatchStates(watch(LARGE_APPEND), timeout=60):
            if message.HasField("synced"):
                break
            messages.append(message)
        parts = [each for each in messages if each.delta.partial]
        assert len(parts) >= 4
        begun = messages[messages.index(parts[0]) - 1].revision
        assert {each.revision for each in parts} == {begun}
        last = messages[messages.index(parts[-1]) + 1]
        end = last.delta.states[-1].revision
        assert begun < end <= last.revision
        assert not any(each.delta.kit_counts for each in parts)
        # Who lost the connection in the midst goes on from before, and gets all of it again.
        again = stub.WatchStates(watch(LARGE_APPEND, after_revision=parts[0].revision), timeout=60)
        rows: list[int] = []
        async for message in again:
            rows += [row.revision for row in message.delta.states]
            if message.revision == last.revision:
                break
        expected = range(end - APPEND_ROWS + 1, end + 1)
        assert rows == list(expected)


async def test_watches_of_one_stream_get_the_large_rows_too(former: tuple[str, int]) -> None:
    async with stock(former[0]) as stub:
        call = stub.WatchMany()
        kits = {"a": LARGE_APPEND, "n" * 100: LARGE_TREE, "deep": DEEP}
        for name, kit_id in kits.items():
            opened = pb.OpenWatch(name=name, watch=watch(kit_id, mode=2))
            await call.write(pb.WatchManyRequest(open=opened))
        rows = dict.fromkeys(kits, 0)
        left = set(kits)
        while left:
            message = await call.read()
            assert message.ByteSize() < 4 * 2**20
            rows[message.name] += len(message.event.delta.states)
            if message.event.HasField("synced"):
                left.remove(message.name)
        call.cancel()
        counts = {"a": APPEND_ROWS, "n" * 100: TREE_TASKS, "deep": len(DEPTHS)}
        # Of the job's own two rows the latest, or both.
        assert all(counts[name] < rows[name] <= counts[name] + 2 for name in kits)


@pytest.mark.parametrize("kit_id", [LARGE_APPEND, LARGE_TREE])
async def test_a_large_kit_is_read_in_pages_and_by_the_client_as_a_whole(
    former: tuple[str, int], kit_id: int
) -> None:
    address, last = former
    count = {LARGE_APPEND: APPEND_ROWS, LARGE_TREE: TREE_TASKS}[kit_id]
    async with stock(address) as stub:
        first = await stub.GetKit(pb.GetKitRequest(kit_id=kit_id))
        assert first.next_page_token
        assert first.kit.jobs[0].task_counts.running_count == count
        for method, request in (
            (stub.GetKit, pb.GetKitRequest(kit_id=kit_id, as_of_revision=last)),
            (stub.GetKit, pb.GetKitRequest(kit_id=kit_id)),
            (stub.GetJob, pb.GetJobRequest(job_id=job_id(kit_id))),
        ):
            answer = await paging.whole(method, request)
            (job,) = answer.kit.jobs if hasattr(answer, "kit") else [answer.job]
            assert [task.task_name for task in job.tasks] == [f"t{n}" for n in range(count)]
        answer = await paging.whole(stub.DiffKit, pb.DiffKitRequest(kit_id=kit_id))
        assert len(answer.changes) == count + 1
    async with vistaflow.aio.connect(address) as client:
        assert len((await client.kit(kit_id)).jobs[0].tasks) == count
        assert len((await client.job(job_id(kit_id))).tasks) == count
        assert len((await client.diff_kit(kit_id)).changes) == count + 1
        assert len([row async for row in client.states(kit_ids=[kit_id])]) == count + 2
        states = []
        async for event in client.watch(kit_ids=[kit_id]):
            if isinstance(event, Synced):
                break
            assert isinstance(event, Delta)
            states += event.states
        assert len(states) == count + 2
        snapshots = 0
        async for event in client.watch(kit_ids=[kit_id], include_snapshot=True):
            if isinstance(event, Synced):
                break
            assert isinstance(event, Snapshot)
            snapshots += len(event.states)
        assert snapshots == count + 1


async def test_a_large_kit_is_canceled_waited_for_and_retried(former: tuple[str, int]) -> None:
    address, _ = former
    async with vistaflow.aio.connect(address) as client:
        canceled = await client.cancel_kit(LARGE_TREE, reason="enough")
        assert (canceled.status, canceled.jobs[0].status) == ("CANCELED", "CANCELED")
        with pytest.raises(vistaflow.KitFailedError, match="enough"):
            await client.wait(LARGE_TREE, timeout=120)
        retried = await client.retry_kit(LARGE_TREE)
        assert retried.job("work").status == "QUEUED"
