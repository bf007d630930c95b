"""Rows leave the log by retention only, whoever asks and however."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.__main__ import PACKAGE
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.connect import Connection, connected
from vistaflow_services.registry.database.guard import guard
from vistaflow_services.registry.database.migrations import migrate
from vistaflow_services.registry.upkeep import checks
from vistaflow_services.registry.upkeep.backup import backup
from vistaflow_services.registry.upkeep.restore import restore
from vistaflow_services.registry.upkeep.retention import Policy, apply

sys.path.insert(0, str(Path(__file__).parents[1]))

from traffic import Writer, connect, external_job

SCHEMA = Config.schema
SIZE = 1000
REFUSED = psycopg.errors.RestrictViolation
LOG = "mlops_totalstate_table"
PART = f"{LOG[:16]}_from_1"
AT_ONCE = Policy(finished_days=1e-9, failed_days=1e-9, canceled_days=1e-9)
SIDEWAYS = (
    f"DROP TABLE {PART}",
    f"DROP TABLE {LOG} CASCADE",
    "DROP TABLE kept_states CASCADE",
    "DROP TABLE partitions CASCADE",
    f"ALTER TABLE {LOG} DETACH PARTITION {PART}",
    f"ALTER TABLE {LOG} DETACH PARTITION {PART} CONCURRENTLY",
    f"ALTER TABLE {LOG} RENAME TO away",
    f"ALTER TABLE {PART} RENAME TO away",
    f"ALTER TABLE {PART} SET SCHEMA public",
    f"ALTER TABLE {LOG} DISABLE TRIGGER append_only",
    f"ALTER TABLE {PART} DISABLE TRIGGER ALL",
    "ALTER TABLE kept_states DISABLE TRIGGER USER",
    f"ALTER TABLE {LOG} ENABLE TRIGGER append_only",
    f"DROP TRIGGER append_only ON {LOG}",
    f"DROP TRIGGER append_only_itself ON {PART}",
    "ALTER TRIGGER never_truncated ON kept_states RENAME TO sometimes_truncated",
    "DROP FUNCTION forbid_change() CASCADE",
    "DROP VIEW unguarded",
)  # fmt: skip


@pytest.fixture
async def filled(database: str, serve) -> str:
    """A database with three partitions of rows, all of kits that are over."""
    async with serve(database, Config(partition_size=SIZE)) as registry:
        channel, stub = connect(registry.address)
        async with channel:
            kit_id, job_id = await external_job(stub)
            writer = Writer(stub, job_id)
            for _ in range(3):
                await writer.append(800)
            await stub.CancelKit(pb.CancelKitRequest(kit_id=kit_id))
    return database


def count(connection: Connection) -> int:
    row = connection.execute(f"SELECT count(*) FROM {LOG}").fetchone()
    assert row is not None
    return int(row[0])


def refused(connection: Connection, statement: str, match: str = "append-only") -> None:
    with pytest.raises(REFUSED, match=match):
        connection.execute(statement)


async def test_not_even_its_owner_takes_rows_from_the_log_by_mistake(filled: str) -> None:
    assert guard(filled, SCHEMA)
    assert guard(filled, SCHEMA)
    with connected(filled, SCHEMA, name="test") as connection:
        before = count(connection)
        for table in (LOG, PART, "kept_states"):
            refused(connection, f"TRUNCATE {table}")
        for statement in SIDEWAYS:
            refused(connection, statement)
            assert count(connection) == before, statement
        connection.execute("SET session_replication_role = replica")
        for change in ("DELETE FROM", "TRUNCATE"):
            refused(connection, f"{change} {LOG}")
            refused(connection, f"{change} {PART}")
            refused(connection, f"{change} partitions")
        connection.execute("RESET session_replication_role")
        # Others' tables are nobody's business, and the log's own upkeep goes on.
        connection.execute("CREATE TABLE public.other (n int)")
        connection.execute("ALTER TABLE public.other ADD COLUMN m int")
        connection.execute("DROP TABLE public.other")
        assert connection.execute("SELECT add_partitions(100000)").fetchone() > (before,)
        assert len(apply(filled, SCHEMA, AT_ONCE)) == 2
        assert count(connection) == before - 2 * SIZE
        refused(connection, "DELETE FROM partitions", "where the append-only log is")
        # As a whole, and by its name, it can be removed.
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
        assert connection.execute("SELECT count(*) FROM pg_event_trigger").fetchone() == (0,)


async def test_a_partition_detached_by_hand_is_still_append_only(filled: str) -> None:
    with connected(filled, SCHEMA, name="test") as connection:
        connection.execute(f"ALTER TABLE {LOG} DETACH PARTITION {PART}")
        for change in (f"DELETE FROM {PART}", f"TRUNCATE {PART}", f"UPDATE {PART} SET seq = 1"):
            refused(connection, change)


async def test_what_was_put_aside_by_a_restore_is_guarded_until_it_is_dropped(
    filled: str, tmp_path: Path
) -> None:
    guard(filled, SCHEMA)
    file = tmp_path / "registry.dump"
    backup(filled, SCHEMA, file)
    aside = restore(filled, SCHEMA, file).aside
    assert guard(filled, SCHEMA)
    with connected(filled, SCHEMA, name="test") as connection:
        assert connection.execute("SELECT * FROM unguarded").fetchall() == []
        for schema in (SCHEMA, aside):
            refused(connection, f"DROP TABLE {schema}.{PART}")
        connection.execute(f"DROP SCHEMA {aside} CASCADE")
        refused(connection, f"DROP TABLE {PART}")


STRAY = (
    "INSERT INTO {table} (id, kit_id, job_type, task_name, job_id, status, current_order, "
    "created_at, batch, attempt, seq, actor, reason) SELECT last_id + 1, 1, 'DOE', '', "
    f"gen_random_uuid(), 'RUNNING', 1, now(), last_id + 1, 1, 1, '', '' FROM {SCHEMA}.head"
)
"""A row at the place of the next one, as somebody types it in psql."""


async def test_the_database_takes_rows_of_the_log_from_the_registry_alone(
    database: str, serve
) -> None:
    async with serve(database, Config(partition_size=SIZE)) as registry:
        channel, stub = connect(registry.address)
        async with channel:
            _, job_id = await external_job(stub)
            writer = Writer(stub, job_id)
            with psycopg.connect(database, autocommit=True) as connection:
                for table in (LOG, PART, "kept_states"):
                    stray = STRAY.format(table=f"{SCHEMA}.{table}")
                    with pytest.raises(REFUSED, match="by the registry alone") as refusal:
                        connection.execute(stray)
                    assert "AppendStates" in (refusal.value.diag.message_hint or "")
                    copy = f"COPY {SCHEMA}.{table} FROM STDIN"
                    with pytest.raises(REFUSED), connection.cursor().copy(copy) as rows:
                        rows.write(b"")
            # Also into partitions that were added since.
            for _ in range(3):
                await writer.append(800)
            with connected(database, SCHEMA, name="test") as connection:
                parts = connection.execute("SELECT name FROM partitions").fetchall()
                assert len(parts) > 3
                assert connection.execute("SELECT * FROM unguarded").fetchall() == []
            with psycopg.connect(database, autocommit=True) as connection:
                for (part,) in parts:
                    with pytest.raises(REFUSED, match="by the registry alone"):
                        connection.execute(STRAY.format(table=f"{SCHEMA}.{part}"))
            await writer.append(1)


async def test_a_row_beyond_the_head_is_critical_until_it_is_removed_as_doctor_says(
    database: str, serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(database, Config(partition_size=SIZE)) as registry:
        channel, stub = connect(registry.address)
        async with channel:
            _, job_id = await external_job(stub)
            writer = Writer(stub, job_id)
            await writer.append(1)
            assert await registry.ready()
            with psycopg.connect(database, autocommit=True, application_name="vistaflow x") as mine:
                mine.execute(STRAY.format(table=f"{SCHEMA}.{LOG}"))
            found = {finding.name: finding for finding in await registry.upkeep.look()}
            assert found[checks.LOG_END].state == checks.WRONG
            assert not await registry.ready()
            assert "CRITICAL" in {record.levelname for record in caplog.records}
            with pytest.raises(grpc.aio.AioRpcError, match="vistaflow doctor") as refusal:
                await writer.append(1)
            assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
            fix = found[checks.LOG_END].fix
            delete = fix[fix.index("DELETE") : fix.index(";")].replace(LOG, f"{SCHEMA}.{LOG}")
            with psycopg.connect(database, autocommit=True) as connection:
                # What the log holds stays.
                with pytest.raises(REFUSED):
                    connection.execute(f"DELETE FROM {SCHEMA}.{LOG}")
                assert connection.execute(delete).rowcount == 1  # type: ignore[arg-type]
            found = {finding.name: finding for finding in await registry.upkeep.look()}
            assert found[checks.LOG_END].state == checks.OK
            assert await registry.ready()
            await writer.append(1)


async def test_registries_of_several_schemas_share_a_database(database: str, serve) -> None:
    assert guard(database, SCHEMA)
    with psycopg.connect(database, autocommit=True) as connection:
        # As the first release made it: it looked for words anywhere in the text of the query.
        connection.execute(f"SET search_path TO {SCHEMA}")
        first_release = (
            resources.files(PACKAGE).joinpath("sql/0005_guard.sql").read_text("utf-8")
        ).partition("CREATE FUNCTION guard_log()")[2]
        connection.execute(f"CREATE OR REPLACE FUNCTION guard_log(){first_release}")  # type: ignore[arg-type]
    other = Config(schema="another", partition_size=SIZE)
    assert await asyncio.to_thread(migrate, database, other.schema, PACKAGE) > 0
    assert guard(database, other.schema)
    async with serve(database, Config(partition_size=SIZE)) as one, serve(database, other) as two:
        for registry in (one, two):
            channel, stub = connect(registry.address)
            async with channel:
                _, job_id = await external_job(stub)
                await Writer(stub, job_id).append(800)
            found = {finding.name: finding for finding in await registry.upkeep.look()}
            assert found["append-only"].state == checks.OK
    with connected(database, other.schema, name="test") as connection:
        for statement in SIDEWAYS:
            refused(connection, statement)


async def test_a_third_schema_is_migrated_by_a_role_that_cannot_put_guards_aside(
    postgres: str, of_a_plain_role: str
) -> None:
    await asyncio.to_thread(migrate, of_a_plain_role, SCHEMA, PACKAGE)
    by_superuser = make_conninfo(postgres, dbname="plain")
    assert guard(by_superuser, SCHEMA)
    assert await asyncio.to_thread(migrate, of_a_plain_role, "another", PACKAGE) > 0


@pytest.fixture
def of_a_plain_role(postgres: str) -> Iterator[str]:
    """Connection string of a database that belongs to a role with no privileges beyond it."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE ROLE plain LOGIN")
        connection.execute("CREATE DATABASE plain OWNER plain")
        yield make_conninfo(postgres, dbname="plain", user="plain")
        connection.execute("DROP DATABASE plain WITH (FORCE)")
        connection.execute("DROP ROLE plain")


async def test_a_role_that_is_no_superuser_runs_the_registry_and_doctor_tells_the_difference(
    of_a_plain_role: str, serve
) -> None:
    await asyncio.to_thread(migrate, of_a_plain_role, SCHEMA, PACKAGE)
    assert not guard(of_a_plain_role, SCHEMA)
    async with serve(of_a_plain_role, Config(partition_size=SIZE)) as registry:
        channel, stub = connect(registry.address)
        async with channel:
            _, job_id = await external_job(stub)
            writer = Writer(stub, job_id)
            for _ in range(2):
                await writer.append(800)
        found = {each.name: each for each in await registry.upkeep.look()}
        assert found["append-only"].state == checks.NOTE
        assert "superuser" in found["append-only"].fix
        with connected(of_a_plain_role, SCHEMA, name="test") as connection:
            for change in ("DELETE FROM", "TRUNCATE"):
                refused(connection, f"{change} {LOG}")
            connection.execute(f"ALTER TABLE {LOG} DISABLE TRIGGER append_only")
        found = {each.name: each for each in await registry.upkeep.look()}
        assert found["append-only"].state == checks.WRONG
        assert f"trigger append_only of {LOG}" in found["append-only"].summary


async def test_replicas_that_start_at_once_all_find_the_log_guarded(database: str) -> None:
    for _ in range(5):
        made = await asyncio.gather(*(asyncio.to_thread(guard, database, SCHEMA) for _ in range(6)))
        assert made == [True] * 6
        with psycopg.connect(database, autocommit=True) as connection:
            names = connection.execute("SELECT evtname FROM pg_event_trigger").fetchall()
            assert len(names) == 2
            for (name,) in names:
                connection.execute(f'DROP EVENT TRIGGER "{name}"')  # type: ignore[arg-type]


async def test_one_of_the_two_guards_alone_is_told_and_completed(database: str, serve) -> None:
    await asyncio.to_thread(migrate, database, SCHEMA, PACKAGE)
    assert guard(database, SCHEMA)
    async with serve(database, Config(partition_size=SIZE)) as registry:
        with psycopg.connect(database, autocommit=True) as connection:
            ((name,), _) = connection.execute("SELECT evtname FROM pg_event_trigger").fetchall()
            connection.execute(f'DROP EVENT TRIGGER "{name}"')  # type: ignore[arg-type]
        found = {each.name: each for each in await registry.upkeep.look()}
        assert found["append-only"].state != checks.OK
        assert guard(database, SCHEMA)
        found = {each.name: each for each in await registry.upkeep.look()}
        assert found["append-only"].state == checks.OK
