"""What callers are told when the database refuses, is slow, damaged, or asked for too much."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.door.callers import Role
from vistaflow_services.core.errors import DataLossError, TooSlowError, UnavailableError
from vistaflow_services.registry.__main__ import Registry, build
from vistaflow_services.registry.access.store import TokenStore
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.reads.store import SETTINGS, Pool, make_pool

sys.path.insert(0, str(Path(__file__).parents[1]))

from traffic import Writer, connect, external_job, until

SCHEMA = Config.schema
POOL_SIZE = 4
MAX_WAITING = 50


@pytest.fixture
async def patient(
    monkeypatch: pytest.MonkeyPatch, database: str
) -> AsyncIterator[tuple[Registry, Pool]]:
    """A small one in whose database no statement and no lock is given up."""
    for limit in ("statement_timeout", "lock_timeout"):
        monkeypatch.setitem(SETTINGS, limit, "1h")
    async with serving_small(database) as served:
        yield served


@pytest.fixture
async def small(database: str) -> AsyncIterator[tuple[Registry, Pool]]:
    """A registry whose pool has few connections and a short queue."""
    async with serving_small(database) as served:
        yield served


@contextlib.asynccontextmanager
async def serving_small(database: str) -> AsyncIterator[tuple[Registry, Pool]]:
    pool = make_pool(database, schema=SCHEMA, size=POOL_SIZE, max_waiting=MAX_WAITING)
    await pool.open(wait=True, timeout=120)
    registry = await build(pool, Config(lease_seconds=2.0))
    registry.address = registry.server.bind("127.0.0.1:0")
    await registry.open()
    await registry.server.start()
    yield registry, pool
    await registry.drain()
    await registry.server.stop(0.2)
    await registry.close()
    await pool.close(timeout=2)


async def is_whole(pool: Pool) -> None:
    """Waits until every connection of the pool is at rest and usable."""

    def at_rest() -> bool:
        stats = pool.get_stats()
        return stats["pool_available"] == stats["pool_size"] and not stats["requests_waiting"]

    await until(at_rest, seconds=120)
    async with asyncio.timeout(120):
        for _ in range(2 * POOL_SIZE):
            async with pool.connection() as connection:
                await connection.execute("SELECT 1")


def busy_backends(admin: psycopg.Connection[Any]) -> int:
    """Backends that list jobs now."""
    row = admin.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND state = 'active' AND query LIKE '%picked.total%'"
    ).fetchone()
    assert row is not None
    return int(row[0])


@contextlib.asynccontextmanager
async def jobs_locked(database: str) -> AsyncIterator[psycopg.Connection[Any]]:
    """Nobody can read the jobs for as long as the block lasts; yields another connection."""
    # The registry, in this same loop, may have to let go of them first.
    async with await psycopg.AsyncConnection.connect(database) as holder:
        await holder.execute(f"LOCK TABLE {SCHEMA}.jobs IN ACCESS EXCLUSIVE MODE")
        with psycopg.connect(database, autocommit=True) as admin:
            yield admin
        await holder.rollback()


async def ended(call: Awaitable[Any]) -> str:
    """The name of the status a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    except asyncio.CancelledError:
        return "CANCELLED"
    return "OK"


async def test_readers_beyond_the_queue_are_turned_away_at_once_and_none_hangs(
    small: tuple[Registry, Pool], database: str
) -> None:
    registry, pool = small
    channel, stub = connect(registry.address)
    async with channel:
        await external_job(stub)
        refused_count = 0

        async def read() -> str:
            nonlocal refused_count
            status = await ended(stub.ListJobs(pb.ListJobsRequest(), timeout=60))
            refused_count += status == "RESOURCE_EXHAUSTED"
            return status

        async with jobs_locked(database):
            readers = [asyncio.create_task(read()) for _ in range(200)]
            await until(lambda: refused_count >= 200 - POOL_SIZE - MAX_WAITING, seconds=120)
            assert pool.get_stats()["requests_waiting"] <= MAX_WAITING
        async with asyncio.timeout(120):
            statuses = await asyncio.gather(*readers)
        print({each: statuses.count(each) for each in set(statuses)})
        # Who waited in vain, for the lock or a connection, is told to try again.
        assert set(statuses) <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
        await is_whole(pool)
        assert await ended(stub.ListJobs(pb.ListJobsRequest(), timeout=60)) == "OK"


@pytest.mark.parametrize("count", [50, pytest.param(1_000, marks=pytest.mark.slow)])
async def test_a_read_whose_caller_has_gone_ends_in_the_database_too(
    patient: tuple[Registry, Pool], database: str, count: int
) -> None:
    registry, pool = patient
    channel, stub = connect(registry.address)
    async with channel:
        await external_job(stub)
        for _ in range(count // 2):
            async with jobs_locked(database) as admin:
                calls = [stub.ListJobs(pb.ListJobsRequest()) for _ in range(2)]
                reading = [asyncio.create_task(ended(call)) for call in calls]
                await until(lambda: busy_backends(admin) == 2)
                for call in calls:
                    call.cancel()
                assert await asyncio.gather(*reading) == ["CANCELLED"] * 2
                # While the lock is still held.
                await until(lambda: busy_backends(admin) == 0, seconds=120)
        await is_whole(pool)
        assert await ended(stub.ListJobs(pb.ListJobsRequest(), timeout=60)) == "OK"


async def test_a_deadline_ends_the_statement_that_runs_for_it(
    patient: tuple[Registry, Pool], database: str
) -> None:
    registry, pool = patient
    channel, stub = connect(registry.address)
    async with channel:
        await external_job(stub)
        for _ in range(3):
            async with jobs_locked(database) as admin:
                reading = asyncio.create_task(ended(stub.ListJobs(pb.ListJobsRequest(), timeout=2)))
                await until(lambda: busy_backends(admin) > 0)
                # While the lock is still held.
                await until(lambda: busy_backends(admin) == 0, seconds=120)
                assert await reading == "DEADLINE_EXCEEDED"
        await is_whole(pool)


async def test_backends_ended_at_random_cost_the_pool_no_connection(
    small: tuple[Registry, Pool], database: str
) -> None:
    registry, pool = small
    channel, stub = connect(registry.address)
    async with channel:
        _, job_id = await external_job(stub)
        writer = Writer(stub, job_id)
        over = asyncio.Event()
        statuses: list[str] = []

        async def read() -> None:
            while not over.is_set():
                statuses.append(await ended(stub.ListJobs(pb.ListJobsRequest(), timeout=60)))

        tasks = [asyncio.create_task(read()) for _ in range(8)]
        tasks.append(asyncio.create_task(writer.write_until(over.is_set, patience=120)))
        with psycopg.connect(database, autocommit=True) as admin:
            for _ in range(10):
                # So many that most of them are not cut off.
                least = len(statuses) + 40
                await until(lambda least=least: len(statuses) > least)
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                    "datname = current_database() AND pid <> pg_backend_pid() "
                    "ORDER BY random() LIMIT 2"
                )
        over.set()
        async with asyncio.timeout(120):
            await asyncio.gather(*tasks)
        await is_whole(pool)
        assert statuses.count("OK") > len(statuses) / 2
        assert set(statuses) <= {"OK", "UNAVAILABLE"}


async def test_a_token_is_found_though_every_connection_of_the_pool_was_cut(
    database: str,
) -> None:
    async with make_pool(database, schema=SCHEMA, size=POOL_SIZE) as pool:
        store = TokenStore(pool)
        token, *_ = await store.create(
            name="n", project="", role=Role.ADMIN, created_by="test", seconds=None
        )
        async with contextlib.AsyncExitStack() as held:
            for _ in range(POOL_SIZE):
                await held.enter_async_context(pool.connection())
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                "datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert await store.get(token.token_id) == token


Ask = Callable[[psycopg.AsyncConnection[Any]], Awaitable[Any]]


def running(statement: str, *before: str) -> Ask:
    async def ask(connection: psycopg.AsyncConnection[Any]) -> Any:
        for each in before:
            await connection.execute(each)
        return await connection.execute(statement)

    return ask


def failing(state: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'so it is' USING ERRCODE = '{state}'; END $$"


@pytest.mark.parametrize(
    ("ask", "kind", "reason"),
    [
        (
            running("SELECT pg_sleep(30)", "SET LOCAL statement_timeout = '50ms'"),
            TooSlowError,
            "TOO_SLOW",
        ),
        (
            running(f"SELECT * FROM {SCHEMA}.jobs", "SET LOCAL lock_timeout = '50ms'"),
            UnavailableError,
            "LOCKED",
        ),
        (running(failing("40001")), UnavailableError, "UNAVAILABLE"),
        (running(failing("XX001")), DataLossError, "DATA_LOSS"),
        (running(failing("57P01")), UnavailableError, "UNAVAILABLE"),
        (
            running(
                "SELECT 1",
                "SET LOCAL transaction_timeout = '50ms'",
                "SELECT pg_sleep(0.04)",
                "SELECT pg_sleep(0.04)",
            ),
            UnavailableError,
            "UNAVAILABLE",
        ),
    ],
    ids=["statement", "lock", "conflict", "damage", "shutdown", "transaction"],
)
async def test_each_refusal_of_the_database_is_told_as_what_it_is(
    small: tuple[Registry, Pool],
    database: str,
    ask: Ask,
    kind: type[Exception],
    reason: str,
) -> None:
    registry, pool = small
    async with jobs_locked(database):
        with pytest.raises(kind) as caught:
            await registry.store.read(ask)
    assert caught.value.reason == reason  # type: ignore[attr-defined]
    await is_whole(pool)


async def test_a_read_that_conflicts_is_tried_again(small: tuple[Registry, Pool]) -> None:
    registry, _ = small
    tried = 0

    async def ask(connection: psycopg.AsyncConnection[Any]) -> str:
        nonlocal tried
        tried += 1
        if tried < 3:
            await connection.execute(failing("40P01"))  # type: ignore[arg-type]
        return "read"

    assert (await registry.store.read(ask), tried) == ("read", 3)


async def third_row(stub: Any, job_id: str) -> None:
    """Appends a row to a log of two, which it is in once."""
    row = common.State(job_id=job_id, task_name="t", status=common.STATUS_RUNNING)
    answer = await stub.AppendStates(pb.AppendStatesRequest(states=[row]), timeout=60)
    assert answer.results[0].verdict == pb.VERDICT_ACCEPTED
    states = (await stub.ListStates(pb.ListStatesRequest())).states
    assert [each.revision for each in states] == [1, 2, 3]


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_commit_that_conflicts_is_made_again_and_its_rows_once(
    small: tuple[Registry, Pool], database: str, state: str
) -> None:
    registry, _ = small
    channel, stub = connect(registry.address)
    async with channel:
        _, job_id = await external_job(stub)
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute(f"SET search_path TO {SCHEMA}")
            # A sequence remembers what was rolled back.
            admin.execute("CREATE SEQUENCE tries")
            admin.execute(
                "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"IF nextval('{SCHEMA}.tries') < 3 THEN RAISE EXCEPTION 'again' "
                f"USING ERRCODE = '{state}'; END IF; RETURN NULL; END $$"
            )
            admin.execute(
                "CREATE TRIGGER conflict AFTER INSERT ON mlops_totalstate_table "
                "FOR EACH STATEMENT EXECUTE FUNCTION conflict()"
            )
        await third_row(stub, job_id)


async def test_a_commit_that_takes_too_long_is_refused_as_not_made_and_the_next_goes_through(
    small: tuple[Registry, Pool], database: str
) -> None:
    registry, _ = small
    channel, stub = connect(registry.address)
    async with channel:
        _, job_id = await external_job(stub)
        row = common.State(job_id=job_id, task_name="t", status=common.STATUS_RUNNING)
        request = pb.AppendStatesRequest(request_id=str(uuid.uuid4()), states=[row])
        async with await psycopg.AsyncConnection.connect(database) as holder:
            await holder.execute(f"LOCK TABLE {SCHEMA}.mlops_totalstate_table IN SHARE MODE")
            # Its lock timeout is over after 2 s.
            assert await ended(stub.AppendStates(request, timeout=60)) == "UNAVAILABLE"
            await holder.rollback()
        again = await stub.AppendStates(request, timeout=60)
        assert (again.results[0].verdict, again.replayed) == (pb.VERDICT_ACCEPTED, False)
        assert again.revision == 3


async def test_a_writer_frozen_in_its_transaction_finds_it_ended_and_commits_anew(
    small: tuple[Registry, Pool], database: str
) -> None:
    registry, _ = small
    channel, stub = connect(registry.address)
    async with channel:
        _, job_id = await external_job(stub)
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute(f"SET search_path TO {SCHEMA}")
            # Another replica was first: so the next commit holds the head's lock.
            admin.execute("UPDATE head SET commit_id = gen_random_uuid()")
            lock = registry.ledger._journal.lock

            async def lock_and_freeze() -> Any:
                head = await lock()
                connection = registry.ledger._journal._open()
                await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
                await asyncio.sleep(0.5)
                registry.ledger._journal.lock = lock  # type: ignore[method-assign]
                return head

            registry.ledger._journal.lock = lock_and_freeze  # type: ignore[method-assign]
        await third_row(stub, job_id)
