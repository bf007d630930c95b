"""The query service against DuckDB in the same process, and its queue and history.

    python benchmarks/queries.py [--rows 1000000 10000000] [--history 100000] [--only PART …]

Downloads of stored results as Arrow, both sides' processor time against DuckDB that reads the same
Parquet files as Arrow; the memory of the service meanwhile; small queries from submission to their
rows; a caller that comes when another has a hundred queries waiting; pages of a long history.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import duckdb
import grpc
import psycopg
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent / "registry"))
from bench import Table, quantile
from servers import SCHEMA, Running, postgres, process, registry, stub_of

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.query.v1 import query_pb2 as pb
from vistaflow.api.query.v1 import query_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2

ROUNDS = 3
SMALL = 60
QUEUED = 100
LISTS = 20

ROWS = """
COPY (SELECT i AS id, i % 5 + 1 AS stars, i * 1.37 % 1000 AS price, '리뷰 ' || i % 1000 AS review,
             TIMESTAMP '2026-01-01' + to_seconds(i) AS at
      FROM range({count}) AS t (i))
TO '{path}' (FORMAT parquet)
"""
COPIES = """
INSERT INTO {table}
SELECT (jsonb_populate_record(former, jsonb_build_object(
            'kit_id', former.kit_id + n, 'first_revision', former.first_revision + n,
            'name', 'select ' || n || ' from "리뷰"', 'job_id', md5(n::text)::uuid,
            'created_at', former.created_at + n * interval '1 ms'))).*
  FROM {table} AS former, generate_series(1, {count}) AS n
 WHERE kit_id = {kit_id}
"""


async def submitted(stub: Any, sql: str, wait: int = 600, **fields: Any) -> pb.SubmitQueryResponse:
    """A query, and what it answered at its end."""
    request = pb.SubmitQueryRequest(user_query=sql, reuse=pb.REUSE_POLICY_NEVER, **fields)
    request.wait.FromSeconds(min(wait, 60))
    # Without a deadline the service sets one, which a busy machine may miss.
    answer = await stub.SubmitQuery(request, timeout=600)
    while wait and answer.query.status in (common_pb2.STATUS_QUEUED, common_pb2.STATUS_RUNNING):
        await asyncio.sleep(0.1)
        answer.query.CopyFrom(
            (await stub.GetQuery(pb.GetQueryRequest(query_id=answer.query.query_id))).query
        )
    if wait and answer.query.status != common_pb2.STATUS_FINISHED:
        raise SystemExit(f"{sql}: {answer.query.error}")
    return answer


async def downloaded(stub: Any, query_id: str) -> int:
    """The number of rows of a result, each batch of which was decoded."""

    class Stream:
        """What a reader of Arrow reads: the messages of a call, joined."""

        closed = False

        def __init__(self) -> None:
            self._rest = b""

        def read(self, size: int) -> bytes:
            while len(self._rest) < size:
                message = asyncio.run_coroutine_threadsafe(call.read(), loop).result()
                if message is grpc.aio.EOF:
                    break
                self._rest = self._rest + message.data if self._rest else message.data
            data, self._rest = self._rest[:size], self._rest[size:]
            return data

    def decoded() -> int:
        with pa.ipc.open_stream(pa.PythonFile(Stream(), mode="r")) as reader:
            return sum(batch.num_rows for batch in reader)

    loop = asyncio.get_running_loop()
    call = stub.FetchResult(pb.FetchResultRequest(query_id=query_id))
    return await asyncio.to_thread(decoded)


def direct(files: list[str]) -> int:
    """The same rows from DuckDB as batches of Arrow."""
    with duckdb.connect(config={"threads": 2}) as db:
        rows = db.sql("SELECT * FROM read_parquet($files)", params={"files": files})
        return sum(batch.num_rows for batch in rows.to_arrow_reader(100_000))


async def measure_downloads(stub: Any, server: Running, home: Path, counts: list[int]) -> None:
    table = Table("downloads as Arrow")
    for count in counts:
        path = home / "data" / f"{count}.parquet"
        duckdb.execute(ROWS.format(count=count, path=path))
        query = (await submitted(stub, f'select * from files."raw/{path.name}"')).query
        folder = next((home / "artifacts" / "jobs" / query.query_id).glob("*/result"))
        files = sorted(map(str, folder.glob("*.parquet")))
        memory, clients, servers, bare, walls = [server.memory_mib()], [], [], [], []

        async def watch(memory: list[float] = memory) -> None:
            while True:
                memory.append(server.memory_mib())
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        for _ in range(ROUNDS):
            begun, wall, there = time.process_time(), time.perf_counter(), server.cpu_seconds()
            assert await downloaded(stub, query.query_id) == count
            clients.append(time.process_time() - begun)
            walls.append(time.perf_counter() - wall)
            servers.append(server.cpu_seconds() - there)
            begun = time.process_time()
            assert await asyncio.to_thread(direct, files) == count
            bare.append(time.process_time() - begun)
        watching.cancel()
        client, serve, base = map(statistics.median, (clients, servers, bare))
        name = f"{count:,} rows"
        both = client + serve
        what = f"{name}: processor time of both sides"
        table.add(what, both, "s", against=base, of="s, DuckDB", most=2.5)
        table.add(f"{name}: of the service", serve, "s", against=base, of="s, DuckDB")
        table.add(f"{name}: of the client", client, "s", against=base, of="s, DuckDB")
        table.add(f"{name}: wall time", statistics.median(walls), "s")
        table.add(f"{name}: RSS of the service", max(memory), "MiB", most=300, absolute=True)


async def measure_small(stub: Any, server: Running) -> None:
    table = Table("small queries: from submission to their rows")
    seconds = []
    used = server.cpu_seconds()
    for number in range(SMALL):
        begun = time.perf_counter()
        answer = await submitted(
            stub, f"select {number} + x as y from unnest(sequence(1, 100)) t(x)"
        )
        assert answer.page_row_count == 100
        seconds.append(time.perf_counter() - begun)
    table.add("median", quantile(seconds, 0.5) * 1000, "ms", most=100, absolute=True)
    table.add("p95", quantile(seconds, 0.95) * 1000, "ms")
    used = (server.cpu_seconds() - used) / SMALL
    table.add("processor time of the service, the engine's left out", used * 1000, "ms")


async def measure_queue(stub: Any, jobs: Any) -> None:
    """A caller's only query, submitted when another's hundred wait."""
    table = Table(f"{QUEUED} queries of one caller wait, then one of another comes")
    sql = "select count(*) as n from unnest(sequence(1, 100000)) t(x)"
    begun = time.perf_counter()
    answers = await asyncio.gather(
        *(submitted(stub, f"{sql} where x <> {number}", wait=0) for number in range(QUEUED))
    )
    table.add("time to submit them", time.perf_counter() - begun, "s")
    mine = [answer.query.query_id for answer in answers]
    # What a second caller's token would make: the same job under another label.
    spec = (await jobs.GetJob(registry_pb2.GetJobRequest(job_id=mine[-1]))).job.spec
    job = registry_pb2.NewJob(
        job_type=common_pb2.JOB_TYPE_QUERY, spec=spec, labels={"query.caller": "another"}
    )
    other = (await jobs.CreateJob(registry_pb2.CreateJobRequest(job=job))).job
    ended: dict[str, int] = {}
    while len(ended) < QUEUED + 1:
        for query_id in (*mine, other.job_id):
            if query_id not in ended:
                now = (await jobs.GetJob(registry_pb2.GetJobRequest(job_id=query_id))).job
                if now.status == common_pb2.STATUS_FINISHED:
                    ended[query_id] = now.finished_at.ToNanoseconds()
        await asyncio.sleep(0.1)
    after = sum(ended[query_id] > other.created_at.ToNanoseconds() for query_id in mine)
    before = sum(
        other.created_at.ToNanoseconds() < ended[query_id] < ended[other.job_id]
        for query_id in mine
    )
    table.add("those that waited when it came", after)
    table.add("of these, ended before it", before, most=4, absolute=True)
    table.add("time until all had ended", time.perf_counter() - begun, "s")


async def measure_history(stub: Any, dsn: str, count: int) -> None:
    kit_id = (await submitted(stub, "select 1 as one", labels={"team": "shop"})).query.kit_id
    with psycopg.connect(dsn, options=f"-csearch_path={SCHEMA}", autocommit=True) as db:
        for name in ("kits", "jobs"):
            db.execute(COPIES.format(table=name, count=count, kit_id=kit_id).encode())
        # Where the newest kits are, which lists look through first.
        db.execute("UPDATE head SET last_kit_id = last_kit_id + %s", [count])
        db.execute("ANALYZE")
    table = Table(f"pages of 100 of a history of {count:,} queries")
    for what, fields in (
        ("newest", {}),
        ("by a label", {"labels": {"team": "shop"}}),
        ("by a status that none has", {"statuses": [common_pb2.STATUS_FAILED]}),
        ("by a text that many have", {"text_contains": "from"}),
        ("by a text that one has", {"text_contains": f"select {count // 3} "}),
        ("by a text of a tenth, none of them new", {"text_contains": "select 1"}),
        ("by a text that none has", {"text_contains": "nowhere"}),
        ("by two letters that all have", {"text_contains": "리뷰"}),
        ("by two letters that none has", {"text_contains": "zq"}),
    ):
        seconds = []
        for _ in range(LISTS):
            begun = time.perf_counter()
            await stub.ListQueries(pb.ListQueriesRequest(page_size=100, **fields))
            seconds.append(time.perf_counter() - begun)
        table.add(what, quantile(seconds, 0.5) * 1000, "ms", most=50, absolute=True)


async def measure(home: Path, rows: list[int], history: int, only: list[str]) -> None:
    (home / "data").mkdir()
    with postgres(home) as dsn:
        async with registry(dsn, home) as recorded:
            file = home / "query.address"
            env = {
                "VISTAFLOW_HOME": str(home),
                "VISTAFLOW_REGISTRY": recorded.address,
                "VISTAFLOW_DATA_ROOTS": f"raw={home / 'data'}",
                "VISTAFLOW_QUERY_LISTEN": "127.0.0.1:0",
                "VISTAFLOW_QUERY_ADDRESS_FILE": str(file),
            }
            async with (
                process("-m", "vistaflow_services.query", address_file=file, env=env) as server,
                grpc.aio.insecure_channel(server.address) as channel,
            ):
                stub = rpc.QueryServiceStub(channel)
                await submitted(stub, "select 1 as one")
                parts: dict[str, Callable[[], Awaitable[None]]] = {
                    "small": lambda: measure_small(stub, server),
                    "queue": lambda: measure_queue(stub, stub_of(recorded.address)),
                    "downloads": lambda: measure_downloads(stub, server, home, rows),
                    "history": lambda: measure_history(stub, dsn, history),
                }
                for name in only or parts:
                    await parts[name]()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, nargs="*", default=[1_000_000, 10_000_000])
    options.add_argument("--history", type=int, default=100_000)
    options.add_argument("--only", nargs="*", default=[], help="small queue downloads history")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), chosen.rows, chosen.history, chosen.only))


if __name__ == "__main__":
    main()
