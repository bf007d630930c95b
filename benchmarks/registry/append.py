"""How fast the registry appends rows, against its own parts in the same run.

    python benchmarks/registry/append.py [--seconds 2] [--rounds 5] [--only unary|wait|streams]

* unary: one row a call. Against the same registry with a journal that stores nothing (everything
  except the database), and against a server with the same interceptors that does nothing else.
* wait: one caller. Against an empty call and one commit of one row by a bare connection.
* streams: messages of 100 rows on 4 streams. Against COPY by one connection into a table with the
  log's columns and indexes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from bench import Table, arguments, interleave, quantile, run
from servers import (
    METADATA_TEXT,
    SCHEMA,
    Running,
    new_job,
    postgres,
    process,
    registry,
    rows_of,
    stub_of,
)

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc
from vistaflow_services.registry.domain import Head
from vistaflow_services.registry.log.journal import Journal, Outcome

COPY_ROWS = 1000
STREAM_ROWS = 100


# Servers that keep nothing, each in a process of its own.


class BareServicer(rpc.RegistryServiceServicer):
    """Parses an append and answers it."""

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


class Forgetful(Journal):
    """A journal without a database: a commit takes one turn of the event loop."""

    connected = True

    def __init__(self, head: Head) -> None:
        super().__init__("", SCHEMA)
        self._begin = head

    async def connect(self) -> Outcome:
        return Outcome(head=self._begin, commit_id=None, committed_at=datetime.now(UTC))

    async def write(self, draft: Any, commit_id: uuid.UUID, answers: Any) -> datetime:
        # What comes meanwhile makes the next batch, as it does with a database.
        await asyncio.sleep(0)
        return datetime.now(UTC)

    async def nothing(self, *_: Any, **__: Any) -> Any:
        return {}

    close = make_room = unlock = forget_requests = nothing
    kits = kits_of = recorded = answers = nothing


async def serve(what: str, file: Path) -> None:
    from vistaflow_services.core.server.shell import make_server
    from vistaflow_services.registry.__main__ import Registry, settle_memory
    from vistaflow_services.registry.config import Config
    from vistaflow_services.registry.reads.store import make_pool

    if what == "bare":
        server = make_server(pb.DESCRIPTOR.services_by_name["RegistryService"].full_name)
        rpc.add_RegistryServiceServicer_to_server(BareServicer(), server)
    else:
        head = Head(
            last_id=0, last_kit_id=0, epoch=uuid.uuid4(), commit_id=uuid.uuid4(), oldest_id=0
        )
        whole = Registry(make_pool(""), Config(home=file.parent), head, journal=Forgetful(head))
        await whole.ledger.start()
        server = whole.server
    address = server.bind("127.0.0.1:0")
    await server.start()
    settle_memory()
    file.write_text(address)
    await server.wait_for_termination()


@contextlib.asynccontextmanager
async def keeping_nothing(what: str, home: Path) -> AsyncIterator[Running]:
    file = home / f"{what}.address"
    async with process(__file__, "--serve", what, str(file), address_file=file) as running:
        yield running


# What is measured.


async def unary(address: str, callers: int, seconds: float, *, bare: bool) -> dict[str, float]:
    """Appends of one row: acknowledged a second, and the waits for an answer in ms."""
    stubs = [stub_of(address) for _ in range(min(callers, 8))]
    requests = []
    for number in range(callers):
        job_id = str(uuid.uuid4()) if bare else (await new_job(stubs[number % len(stubs)]))[1]
        requests.append(pb.AppendStatesRequest(states=rows_of(job_id, 1)))
    waits: list[float] = []

    async def call(stub: Any, request: pb.AppendStatesRequest) -> None:
        while (began := time.perf_counter()) < end:
            answer = await stub.AppendStates(request)
            waits.append(time.perf_counter() - began)
            assert answer.results[-1].verdict == pb.VERDICT_ACCEPTED

    begin = time.perf_counter()
    end = begin + seconds
    await asyncio.gather(
        *(call(stubs[n % len(stubs)], request) for n, request in enumerate(requests))
    )
    return {
        "rate": len(waits) / (time.perf_counter() - begin),
        "p50": 1000 * quantile(waits, 0.5),
        "p99": 1000 * quantile(waits, 0.99),
    }


async def commits(dsn: str, seconds: float) -> dict[str, float]:
    """The wait of one bare connection for a commit of one row, in ms."""
    waits = []
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, prepare_threshold=0
    ) as connection:
        await like_the_log(connection, "bench_commit")
        end = time.perf_counter() + seconds
        number = 0
        job_id = str(uuid.uuid4())
        while (began := time.perf_counter()) < end:
            number += 1
            await connection.execute(
                "INSERT INTO bench_commit (id, kit_id, job_type, task_name, job_id, status,"
                " current_order, created_at, metadata, batch, attempt, seq, actor, reason)"
                " VALUES (%s, 1, 'DOE', %s, %s, 'RUNNING', 1, clock_timestamp(), %s, %s, 1, 0,"
                " '', '')",
                [number, f"task-{number % 20}", job_id, METADATA_TEXT, number],
            )
            waits.append(time.perf_counter() - began)
        await connection.execute("DROP TABLE bench_commit")
    return {"p50": 1000 * quantile(waits, 0.5)}


async def like_the_log(connection: Any, name: str) -> None:
    """Makes an empty table with the log's columns and indexes."""
    await connection.execute(f"SET search_path TO {SCHEMA}")
    await connection.execute(f"DROP TABLE IF EXISTS {name}")
    await connection.execute(f"CREATE TABLE {name} (LIKE mlops_totalstate_table INCLUDING ALL)")


async def copy(dsn: str, seconds: float) -> dict[str, float]:
    """Rows a second that one connection brings into a table like the log."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await like_the_log(connection, "bench_copy")
        job_id = str(uuid.uuid4())
        begin = time.perf_counter()
        number = 0
        while time.perf_counter() - begin < seconds:
            lines = []
            for _ in range(COPY_ROWS):
                number += 1
                lines.append(
                    f"{number}\t1\tDOE\ttask-{number % 20}\t{job_id}\tRUNNING\t1\t"
                    f"2026-01-01 00:00:00+00\t{METADATA_TEXT}\t{number}\t1\t0\t\t\n"
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
    return {"rate": number / spent}


async def stream(address: str, streams: int, seconds: float) -> dict[str, float]:
    """Rows acknowledged a second on streams that use up their credit, and the waits in ms."""
    waits: list[float] = []
    stubs = [stub_of(address) for _ in range(streams)]
    messages = []
    for stub in stubs:
        states = rows_of((await new_job(stub))[1], STREAM_ROWS)
        messages.append(pb.StreamStatesRequest(states=states))

    async def write(stub: Any, message: pb.StreamStatesRequest) -> None:
        call = stub.StreamStates()
        sent: deque[float] = deque()
        credit = 0
        number = 0
        while True:
            answer = await call.read()
            if answer.HasField("credit"):
                credit += answer.credit.row_count
            else:
                assert len(answer.ack.results) == STREAM_ROWS
                waits.append(time.perf_counter() - sent.popleft())
            while credit >= STREAM_ROWS and time.perf_counter() < end:
                credit -= STREAM_ROWS
                number += 1
                message.number = number
                sent.append(time.perf_counter())
                await call.write(message)
            if not sent and time.perf_counter() >= end:
                break
        call.cancel()

    begin = time.perf_counter()
    end = begin + seconds
    await asyncio.gather(*map(write, stubs, messages))
    return {
        "rate": len(waits) * STREAM_ROWS / (time.perf_counter() - begin),
        "p50": 1000 * quantile(waits, 0.5),
        "p99": 1000 * quantile(waits, 0.99),
    }


async def measure(home: Path) -> None:
    parts = (options.only,) if options.only else ("unary", "wait", "streams")
    seconds, rounds = options.seconds, options.rounds
    with postgres(home) as dsn:
        async with (
            registry(dsn, home) as server,
            keeping_nothing("null", home) as null,
            keeping_nothing("bare", home) as bare,
        ):
            if "unary" in parts:
                table = Table("unary appends of one row, 64 callers")
                got = await interleave(
                    {
                        "registry": lambda: unary(server.address, 64, seconds, bare=False),
                        "null": lambda: unary(null.address, 64, seconds, bare=False),
                        "bare": lambda: unary(bare.address, 64, seconds, bare=True),
                    },
                    rounds,
                )
                rate = got["registry"]["rate"]
                against = got["null"]["rate"]
                table.add(
                    "appends", rate, "/s", against=against, of="without a database", least=0.9
                )
                table.add("appends", rate, "/s", against=got["bare"]["rate"], of="doing nothing")
                table.add("ack p50", got["registry"]["p50"], "ms", against=got["null"]["p50"])
                table.add("ack p99", got["registry"]["p99"], "ms", against=got["null"]["p99"])
            if "wait" in parts:
                table = Table("one caller, one row a call")
                got = await interleave(
                    {
                        "registry": lambda: unary(server.address, 1, seconds, bare=False),
                        "bare": lambda: unary(bare.address, 1, seconds, bare=True),
                        "commit": lambda: commits(dsn, seconds),
                    },
                    rounds,
                )
                both = got["bare"]["p50"] + got["commit"]["p50"]
                table.add(
                    "ack p50",
                    got["registry"]["p50"],
                    "ms",
                    against=both,
                    of="an empty call and a commit",
                    most=1.5,
                )
            if "streams" in parts:
                table = Table(f"4 streams of messages of {STREAM_ROWS} rows")
                got = await interleave(
                    {
                        "registry": lambda: stream(server.address, 4, seconds),
                        "null": lambda: stream(null.address, 4, seconds),
                        "copy": lambda: copy(dsn, seconds),
                    },
                    rounds,
                )
                rows = got["registry"]
                table.add(
                    "rows", rows["rate"], "/s", against=got["copy"]["rate"], of="COPY", least=0.3
                )
                table.add(
                    "rows", rows["rate"], "/s", against=got["null"]["rate"], of="without a database"
                )
                table.add("ack p50", rows["p50"], "ms")
                table.add("ack p99", rows["p99"], "ms", most=100, absolute=True)


parser = arguments(__doc__)
parser.add_argument("--only", choices=("unary", "wait", "streams"), help="one table of them")
if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve(sys.argv[2], Path(sys.argv[3])))
    else:
        options = parser.parse_args()
        run(measure)
