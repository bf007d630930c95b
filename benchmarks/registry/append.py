r"""How fast the registry appends rows, against its own parts in the same run.

    python benchmarks/registry/append.py [--seconds 2] [--rounds 5]
        [--only unary|queue|wait|streams] [--callers 1,8,64,256] [--realtime]

* unary: one row a call, by the number of callers. Against the same registry with a journal that
  stores nothing (everything except the database, and batches by the same rules), and with 64
  callers against a server with the same interceptors that does nothing else.
* queue: one row a call by 64 callers, against procrastinate, a job queue in PostgreSQL, on the same
  server: one durable insert with its notification. Absent where it is not installed
  (`uv pip install --group bench`).
* wait: one caller. Against an empty call and one commit of one row by a bare connection.
* streams: messages of 100 rows on 4 streams. Against `psql \copy` of a file into a table with the
  log's columns and indexes.

Processes are scheduled as usual, as those of users are. With `--realtime` all of them, PostgreSQL
among them, have real-time priority: batches form by themselves then, and the figures are of a
machine that nobody has. Every title says which it was, and the load.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from bench import Run, Table, arguments, interleave, quantile, run
from job_queue import CONNECTIONS, defer, installed
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
from vistaflow_services.registry.upkeep.programs import program

COPY_ROWS = 20_000
"""Rows of the file: they take about as long as a turn, so that the start of psql does not count."""
STREAM_ROWS = 100
TURNS = 30
"""Turns of the event loop that a commit without a database takes."""
COLUMNS = (
    "id, kit_id, job_type, task_name, job_id, status, current_order, created_at, metadata, batch,"
    " attempt, seq, actor, reason"
)

PARTS = ("unary", "queue", "wait", "streams")

LEAST = {8: 0.65, 64: 0.75}
"""The part of the rate without a database that is required, by the number of callers."""

Count = Callable[[], Awaitable[int]]
Figures = Mapping[str, float]


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
    """A journal without a database. It counts its commits in a file.

    A commit takes some turns of the event loop and no time: what comes meanwhile makes the next
    batch, as it does with a database, by the rules of the same ledger. With one turn, a commit
    would hold one row, and what is done once for a commit would be done for each row.
    """

    connected = True

    def __init__(self, head: Head, counter: Path) -> None:
        super().__init__("", SCHEMA)
        self._begin = head
        self._commit_count = 0
        self._counter = os.open(counter, os.O_CREAT | os.O_WRONLY)

    async def connect(self) -> Outcome:
        return Outcome(head=self._begin, commit_id=None, committed_at=datetime.now(UTC))

    async def write(self, draft: Any, commit_id: uuid.UUID, answers: Any) -> datetime:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self._commit_count += 1
        os.pwrite(self._counter, self._commit_count.to_bytes(8), 0)
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
        journal = Forgetful(head, file.with_suffix(".commits"))
        whole = Registry(make_pool(""), Config(home=file.parent), head, journal=journal)
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


async def unary(
    address: str, callers: int, seconds: float, *, bare: bool, commits: Count | None = None
) -> dict[str, float]:
    """Appends of one row: acknowledged a second, the waits for an answer in ms, rows of a commit.

    Args:
        address: The server.
        callers: How many call at once.
        seconds: For how long.
        bare: Whether it is a server without jobs.
        commits: Counts its commits so far.
    """
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

    before = await commits() if commits else 0
    begin = time.perf_counter()
    end = begin + seconds
    await asyncio.gather(
        *(call(stubs[n % len(stubs)], request) for n, request in enumerate(requests))
    )
    spent = time.perf_counter() - begin
    return {
        "rate": len(waits) / spent,
        "count": len(waits),
        "p50": 1000 * quantile(waits, 0.5),
        "p99": 1000 * quantile(waits, 0.99),
        "rows": len(waits) / (await commits() - before) if commits else 1.0,
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
                f"INSERT INTO bench_commit ({COLUMNS}) VALUES (%s, 1, 'DOE', %s, %s, 'RUNNING',"
                " 1, clock_timestamp(), %s, %s, 1, 0, '', '')",
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


async def copy(dsn: str, home: Path) -> dict[str, float]:
    r"""Rows a second that `psql \copy` brings from a file into a table like the log."""
    file = home / "rows.tsv"
    if not file.exists():
        job_id = str(uuid.uuid4())
        with file.open("w") as sink:
            for number in range(1, COPY_ROWS + 1):
                sink.write(
                    f"{number}\t1\tDOE\ttask-{number % 20}\t{job_id}\tRUNNING\t1\t"
                    f"2026-01-01 00:00:00+00\t{METADATA_TEXT}\t{number}\t1\t0\t\t\n"
                )
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await like_the_log(connection, "bench_copy")
        begin = time.perf_counter()
        psql = await asyncio.create_subprocess_exec(
            program("psql"),
            dsn,
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            f"--command=\\copy {SCHEMA}.bench_copy ({COLUMNS}) FROM '{file}'",
        )
        if await psql.wait():
            raise SystemExit("psql failed")
        spent = time.perf_counter() - begin
        await connection.execute("DROP TABLE bench_copy")
    return {"rate": COPY_ROWS / spent}


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
        "count": len(waits) * STREAM_ROWS,
        "p50": 1000 * quantile(waits, 0.5),
        "p99": 1000 * quantile(waits, 0.99),
    }


async def with_processor(server: Running, work: Awaitable[Figures]) -> Figures:
    """The figures of a turn, with the processor time of the server for a row, in µs.

    Other programs change it less than the time that passes.
    """
    before = server.cpu_seconds()
    figures = await work
    spent = server.cpu_seconds() - before
    return {**figures, "cpu": 1e6 * spent / max(1.0, figures["count"])}


async def batches(dsn: str) -> int:
    """The commits in the log: the rows of one have one time."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        cursor = await connection.execute(
            f"SELECT count(DISTINCT created_at) FROM {SCHEMA}.mlops_totalstate_table"
        )
        ((count,),) = await cursor.fetchall()
    return int(count)


async def unary_table(
    dsn: str, home: Path, server: Running, null: Running, bare: Running, callers: int
) -> None:
    """Appends of one row by so many callers."""
    seconds = options.seconds
    counter = home / "null.commits"

    async def null_commits() -> int:
        return int.from_bytes(counter.read_bytes())

    variants: dict[str, Run] = {
        "registry": lambda: with_processor(
            server,
            unary(server.address, callers, seconds, bare=False, commits=lambda: batches(dsn)),
        ),
        "null": lambda: with_processor(
            null, unary(null.address, callers, seconds, bare=False, commits=null_commits)
        ),
    }
    if callers == 64:
        variants["bare"] = lambda: unary(bare.address, callers, seconds, bare=True)
    table = Table(f"unary appends of one row, {callers} callers{circumstances()}")
    got = await interleave(variants, options.rounds)
    figures, against = got["registry"], got["null"]
    table.add(
        "appends",
        figures["rate"],
        "/s",
        against=against["rate"],
        of="without a database",
        least=LEAST.get(callers),
    )
    if "bare" in got:
        table.add("appends", figures["rate"], "/s", against=got["bare"]["rate"], of="doing nothing")
    table.add("rows of a commit", figures["rows"], against=against["rows"])
    table.add("processor of the registry a call", figures["cpu"], "us", against=against["cpu"])
    table.add("ack p50", figures["p50"], "ms", against=against["p50"])
    table.add("ack p99", figures["p99"], "ms", against=against["p99"])


async def queue_table(dsn: str, server: Running) -> None:
    """Appends of one row by 64 callers, against jobs that as many callers defer."""
    if not await installed(dsn):
        print("\nprocrastinate is not installed: not compared (uv pip install --group bench)")
        return
    seconds = options.seconds
    variants: dict[str, Run] = {
        "registry": lambda: unary(server.address, 64, seconds, bare=False),
    }
    for connections in CONNECTIONS:
        variants[str(connections)] = lambda size=connections: defer(dsn, size, 64, seconds)
    table = Table(f"one row a call and one job a call, 64 callers{circumstances()}")
    got = await interleave(variants, options.rounds)
    figures = got.pop("registry")
    size, against = max(got.items(), key=lambda entry: entry[1]["rate"])
    of = f"procrastinate, {size} connections"
    table.add("appends", figures["rate"], "/s", against=against["rate"], of=of, least=2.5)
    table.add("ack p50", figures["p50"], "ms", against=against["p50"])
    table.add("ack p99", figures["p99"], "ms", against=against["p99"])


def circumstances() -> str:
    """How processes are scheduled, and how busy the machine is, for a title."""
    kind = "plain" if os.sched_getscheduler(0) == os.SCHED_OTHER else "real-time"
    return f", {kind}, load {os.getloadavg()[0]:.0f}"


async def measure(home: Path) -> None:
    if options.realtime:
        # Before anything is started, which inherits it.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    parts = (options.only,) if options.only else PARTS
    seconds, rounds = options.seconds, options.rounds
    with postgres(home) as dsn:
        async with (
            registry(dsn, home) as server,
            keeping_nothing("null", home) as null,
            keeping_nothing("bare", home) as bare,
        ):
            if "unary" in parts:
                for callers in map(int, options.callers.split(",")):
                    await unary_table(dsn, home, server, null, bare, callers)
            if "queue" in parts:
                await queue_table(dsn, server)
            if "wait" in parts:
                table = Table(f"one caller, one row a call{circumstances()}")
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
                table = Table(f"4 streams of messages of {STREAM_ROWS} rows{circumstances()}")
                got = await interleave(
                    {
                        "registry": lambda: with_processor(
                            server, stream(server.address, 4, seconds)
                        ),
                        "null": lambda: with_processor(null, stream(null.address, 4, seconds)),
                        "copy": lambda: copy(dsn, home),
                    },
                    rounds,
                )
                rows = got["registry"]
                table.add(
                    "rows",
                    rows["rate"],
                    "/s",
                    against=got["copy"]["rate"],
                    of="psql \\copy",
                    least=0.35,
                )
                table.add(
                    "rows", rows["rate"], "/s", against=got["null"]["rate"], of="without a database"
                )
                table.add(
                    "processor of the registry a row",
                    rows["cpu"],
                    "us",
                    against=got["null"]["cpu"],
                )
                table.add("ack p50", rows["p50"], "ms")
                table.add("ack p99", rows["p99"], "ms", most=100, absolute=True)


parser = arguments(__doc__)
parser.add_argument("--only", choices=PARTS, help="one table of them")
parser.add_argument("--callers", default="1,8,64,256", help="numbers of callers of unary appends")
parser.add_argument("--realtime", action="store_true", help="with real-time priority (as root)")
if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve(sys.argv[2], Path(sys.argv[3])))
    else:
        options = parser.parse_args()
        run(measure)
