"""The disk of the embedded PostgreSQL runs full, and everything goes on once there is room."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.disks import small_disk
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.database.space import StorageGuard

sys.path.insert(0, str(Path(__file__).parents[1]))

from process import RegistryProcess
from traffic import connect, external_job

SIZE_MIB = 160
LEAST_MIB = 48


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 160 MiB."""
    with small_disk(tmp_path / "disk", SIZE_MIB) as folder:
        yield folder


def fill(folder: Path) -> Path:
    """Fills the disk to the last byte, as somebody else's program would."""
    file = folder / "ballast"
    with file.open("ab", buffering=0) as written:
        for piece in (1 << 20, 4096):
            try:
                while True:
                    written.write(b"x" * piece)
            except OSError:
                continue
    return file


async def healthy(channel: grpc.aio.Channel) -> bool:
    response = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


async def reached(what, wanted: object, seconds: float) -> float:
    began = time.monotonic()
    end = began + seconds
    while True:
        try:
            if await what() == wanted:
                return time.monotonic() - began
        except grpc.aio.AioRpcError:
            pass
        assert time.monotonic() < end, f"not within {seconds} s"
        await asyncio.sleep(0.1)


async def test_writes_are_refused_while_the_disk_is_full_and_taken_again_unattended(
    disk: Path, tmp_path: Path
) -> None:
    # The logs lie on another disk, as they should.
    registry = RegistryProcess(
        dsn="", home=tmp_path, settings={"HOME": str(disk), "MIN_FREE_MIB": str(LEAST_MIB)}
    )
    await registry.start()
    channel, stub = connect(registry.address)
    acked: list[int] = []
    refused: list[tuple[float, str]] = []
    stop = asyncio.Event()

    async def append(number: int) -> None:
        state = common.State(
            job_id=job_id, task_name=f"t{number % 50}", status=common.STATUS_RUNNING
        )
        state.metadata["note"] = uuid.uuid4().hex * 30
        begun = time.monotonic()
        try:
            request = pb.AppendStatesRequest(request_id=str(uuid.uuid4()), states=[state])
            answer = await stub.AppendStates(request, timeout=30)
            acked.append(answer.revision)
        except grpc.aio.AioRpcError as error:
            refused.append((begun, error.code().name))
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                trailing = dict(error.trailing_metadata() or ())
                assert b"STORAGE_FULL" in trailing["grpc-status-details-bin"]
            await asyncio.sleep(0.05)

    async def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await append(number)

    try:
        await reached(lambda: healthy(channel), True, 120)
        _, job_id = await external_job(stub)
        writers = [asyncio.create_task(write()) for _ in range(8)]
        await reached(lambda: asyncio.sleep(0, len(acked) > 50), True, 120)
        before = len(acked)
        ballast = await asyncio.to_thread(fill, disk)
        await reached(lambda: healthy(channel), False, 120)
        settled = time.monotonic() + 3

        def late() -> list[str]:
            return [name for begun, name in refused if begun > settled]

        await reached(lambda: asyncio.sleep(0, len(late()) > 50), True, 120)
        assert set(late()) == {"RESOURCE_EXHAUSTED"}

        ballast.unlink()
        back = await reached(lambda: healthy(channel), True, 120)
        resumed = len(acked)
        await reached(lambda: asyncio.sleep(0, len(acked) > resumed + 50), True, 120)
        print(f"{before} acked before, serving again {back:.1f} s after the disk had room")
        stop.set()
        await asyncio.gather(*writers)
        states = []
        token = ""
        while True:
            page = await stub.ListStates(pb.ListStatesRequest(page_token=token, page_size=1000))
            states += [state.revision for state in page.states]
            token = page.next_page_token
            if not token:
                break
        assert set(acked) <= set(states)
        assert states == list(range(1, len(states) + 1))
        assert len(set(acked)) == len(acked)
    finally:
        stop.set()
        await channel.close()
        await registry.stop()


def test_the_guard_refuses_before_the_disk_is_full_and_does_not_flap(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    guard = StorageGuard(tmp_path, free // 2)
    guard.look()
    assert not guard.full
    guard = StorageGuard(tmp_path, free * 2)
    guard.look()
    assert guard.full
    # There is a little more now, but not so much more that it would last.
    guard._least_free = int(free * 0.9)
    guard.look()
    assert guard.full
    guard._least_free = free // 2
    guard.look()
    assert not guard.full


async def test_a_database_elsewhere_whose_disk_is_full_says_so_itself(database: str, serve) -> None:
    async with serve(database) as registry:
        channel, stub = connect(registry.address)
        async with channel:
            _, job_id = await external_job(stub)
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute(
                    "CREATE FUNCTION vistadb_test.full_disk() RETURNS trigger LANGUAGE plpgsql "
                    "AS $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$"
                )
                connection.execute(
                    "CREATE TRIGGER full_disk BEFORE INSERT ON vistadb_test.mlops_totalstate_table "
                    "FOR EACH ROW EXECUTE FUNCTION vistadb_test.full_disk()"
                )
                state = common.State(job_id=job_id, task_name="t", status=common.STATUS_RUNNING)
                for _ in range(2):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await stub.AppendStates(pb.AppendStatesRequest(states=[state]))
                    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert not registry.ledger.ready
                connection.execute("DROP TRIGGER full_disk ON vistadb_test.mlops_totalstate_table")
            await reached(lambda: asyncio.sleep(0, registry.ledger.ready), True, 120)
            answer = await stub.AppendStates(pb.AppendStatesRequest(states=[state]))
            assert answer.results[0].verdict == pb.VERDICT_ACCEPTED
