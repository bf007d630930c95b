"""The drill: a backup while rows are written, put back elsewhere, and everybody goes on."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import grpc
import psycopg
import pytest

from tests.processes import reaped  # type: ignore[import-not-found]
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.door.callers import Role
from vistaflow_services.registry.__main__ import PACKAGE
from vistaflow_services.registry.access.store import TokenStore
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
from vistaflow_services.registry.database.migrations import load_migrations, migrate
from vistaflow_services.registry.reads.store import make_pool
from vistaflow_services.registry.upkeep.backup import backup
from vistaflow_services.registry.upkeep.programs import DumpError
from vistaflow_services.registry.upkeep.rebuild import rebuild
from vistaflow_services.registry.upkeep.restore import KITS_SKIPPED, REVISIONS_SKIPPED, restore

sys.path.insert(0, str(Path(__file__).parents[1]))

from traffic import Writer, connect, external_job, until

SCHEMA = Config.schema


@pytest.fixture
def fresh() -> Iterator[str]:
    """Connection string of a cluster that knows nothing yet."""
    home = Path(tempfile.mkdtemp(prefix="vistaflow-test-"))
    server = EmbeddedPostgres(home)
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


async def listed(stub, wanted: pb.ListStatesRequest) -> list[common.State]:
    states: list[common.State] = []
    while True:
        page = await stub.ListStates(wanted)
        states += page.states
        wanted.page_token = page.next_page_token
        if not page.next_page_token:
            return states


async def test_a_backup_made_under_load_is_restored_and_clients_go_on(
    database: str, fresh: str, serve, tmp_path: Path
) -> None:
    file = tmp_path / "registry.dump"
    async with serve(database) as registry:
        channel, stub = connect(registry.address)
        async with channel:
            _, job_id = await external_job(stub)
            writer = Writer(stub, job_id)
            stop = asyncio.Event()

            async def write() -> None:
                while not stop.is_set():
                    await writer.append(5)

            writing = asyncio.create_task(write())
            await until(lambda: writer.row_count >= 50)
            made = await asyncio.to_thread(backup, database, SCHEMA, file)
            after_backup = registry.hub.head
            await until(lambda: registry.hub.head > after_backup)
            stop.set()
            await writing
            old_epoch = (await stub.GetServerInfo(pb.GetServerInfoRequest())).epoch
            states = await listed(stub, pb.ListStatesRequest())
            lost_head = registry.hub.head
    assert 2 < made.revision <= after_backup < lost_head
    assert made.epoch == old_epoch

    # The machine is gone; all there is, is the file.
    began = time.monotonic()
    restored = await asyncio.to_thread(restore, fresh, SCHEMA, file)
    await asyncio.to_thread(migrate, fresh, SCHEMA, PACKAGE)
    async with serve(fresh, Config(partition_size=100_000, lease_seconds=2)) as registry:
        channel, stub = connect(registry.address)
        async with channel:
            info = await stub.GetServerInfo(pb.GetServerInfoRequest())
            print(f"restored and serving after {time.monotonic() - began:.1f} s")
            assert restored.revision == made.revision
            assert info.epoch == restored.epoch != old_epoch
            assert info.revision == made.revision + REVISIONS_SKIPPED > lost_head
            # Every row that the backup holds, and not one more or other.
            again = await listed(stub, pb.ListStatesRequest())
            assert again == [state for state in states if state.revision <= made.revision]
            # A watcher that knows the old log is told; it begins anew and goes on.
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.WatchStates(
                    pb.WatchStatesRequest(after_revision=lost_head, epoch=old_epoch)
                ):
                    pass
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert restored.epoch in (caught.value.details() or "")
            # Even one that does not say which log it knew misses nothing of the new one.
            careless = stub.WatchStates(pb.WatchStatesRequest(after_revision=lost_head))
            states_of_new = [
                common.State(job_id=job_id, task_name="after", status=common.STATUS_RUNNING)
            ]
            appended = await stub.AppendStates(
                pb.AppendStatesRequest(request_id=str(uuid.uuid4()), states=states_of_new)
            )
            assert appended.revision == restored.next_revision
            async with asyncio.timeout(120):
                async for message in careless:
                    if message.HasField("delta"):
                        break
            assert [state.task_name for state in message.delta.states] == ["after"]
            await registry.upkeep.look()
            assert registry.limits["log.rows"] == str(made.revision + 1)
            kit_id, _ = await external_job(stub)
            assert kit_id == 1 + KITS_SKIPPED + 1
    assert not any(rebuild(fresh, SCHEMA, check=True).values())


async def test_what_was_there_is_put_aside_and_its_revisions_are_not_used_again(
    database: str, serve, tmp_path: Path
) -> None:
    file = tmp_path / "registry.dump"
    async with serve(database) as registry:
        channel, stub = connect(registry.address)
        async with channel:
            _, job_id = await external_job(stub)
            made = await asyncio.to_thread(backup, database, SCHEMA, file)
            with pytest.raises(DumpError, match="there already"):
                await asyncio.to_thread(backup, database, SCHEMA, file)
            await Writer(stub, job_id).append(20)
            with pytest.raises(DumpError, match="stop it first"):
                await asyncio.to_thread(restore, database, SCHEMA, file)
            head = registry.hub.head
    restored = await asyncio.to_thread(restore, database, SCHEMA, file)
    assert (restored.revision, restored.next_revision) == (made.revision, head + 1)
    with psycopg.connect(database) as connection:
        query = f"SELECT last_id FROM {restored.aside}.head"  # type: ignore[attr-defined]
        assert connection.execute(query).fetchone() == (head,)
        query = f"SELECT last_id, next_id FROM {SCHEMA}.restores"
        assert connection.execute(query).fetchone() == (made.revision, head + 1)


async def test_a_log_that_was_begun_anew_does_not_tell_how_far_the_lost_one_went(
    database: str, fresh: str, tmp_path: Path
) -> None:
    file = tmp_path / "registry.dump"
    made = await asyncio.to_thread(backup, database, SCHEMA, file)
    # Somebody started the registry on the new machine before thinking of the backup.
    await asyncio.to_thread(migrate, fresh, SCHEMA, PACKAGE)
    restored = await asyncio.to_thread(restore, fresh, SCHEMA, file)
    assert restored.next_revision == made.revision + REVISIONS_SKIPPED + 1
    # From here on the log that is there does tell, though its name is another.
    again = await asyncio.to_thread(restore, fresh, SCHEMA, file)
    assert again.next_revision == restored.next_revision
    with psycopg.connect(fresh) as connection:
        query = f"SELECT last_kit_id FROM {SCHEMA}.head"
        assert connection.execute(query).fetchone() == (KITS_SKIPPED,)


async def test_a_token_that_the_backup_knows_as_revoked_stays_revoked(
    database: str, tmp_path: Path
) -> None:
    older, newer = tmp_path / "older.dump", tmp_path / "newer.dump"
    pool = make_pool(database, schema=SCHEMA, size=1)
    await pool.open(wait=True, timeout=60)
    store = TokenStore(pool)
    token, *_ = await store.create(
        name="lost", project="", role=Role.ADMIN, created_by="test", seconds=None
    )
    await asyncio.to_thread(backup, database, SCHEMA, older)
    await store.revoke(token.token_id)
    await pool.close()
    await asyncio.to_thread(backup, database, SCHEMA, newer)
    with psycopg.connect(database) as connection:
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    await asyncio.to_thread(restore, database, SCHEMA, older, keep_tokens=True)
    await asyncio.to_thread(restore, database, SCHEMA, newer)
    with psycopg.connect(database) as connection:
        query = f"SELECT count(*) FROM {SCHEMA}.tokens WHERE revoked_at IS NULL"
        assert connection.execute(query).fetchone() == (0,)


def test_a_file_that_is_no_backup_changes_nothing(database: str, tmp_path: Path) -> None:
    file = tmp_path / "nothing.dump"
    file.write_bytes(b"PGDMP and then nothing")
    with pytest.raises(DumpError, match="pg_restore failed"):
        restore(database, SCHEMA, file)
    with psycopg.connect(database) as connection:
        assert connection.execute(f"SELECT last_id FROM {SCHEMA}.head").fetchone() == (0,)


def test_a_backup_of_which_one_bit_is_changed_or_the_end_is_missing_touches_nothing(
    database: str, tmp_path: Path
) -> None:
    file, damaged = tmp_path / "registry.dump", tmp_path / "damaged.dump"
    backup(database, SCHEMA, file)
    whole = file.read_bytes()
    chance = random.Random(7)
    bits = [chance.randrange(8 * len(whole)) for _ in range(40)]
    # The checksum itself can be damaged, too.
    bits += [8 * len(whole) - 1 - each for each in range(0, 8 * 90, 37)]
    cases = []
    for bit in bits:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        cases.append(bytes(content))
    cases += [whole[:-1], whole[:-90], whole[:-91], whole[: len(whole) // 2], whole[:100], b""]
    cases += [whole + b"\n", whole[:1000] + whole[1001:]]
    for content in cases:
        damaged.write_bytes(content)
        with pytest.raises(DumpError):
            restore("host=/nowhere", SCHEMA, damaged)
    assert restore(database, SCHEMA, file).checked


@pytest.fixture
def of_first_release(fresh: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database whose schema is that of the release whose backups had no checksum."""
    every = load_migrations(PACKAGE)
    with monkeypatch.context() as patch:
        patch.setattr(
            "vistaflow_services.registry.database.migrations.load_migrations",
            lambda package: every[:6],
        )
        migrate(fresh, SCHEMA, PACKAGE)
    return fresh


def test_a_backup_of_the_first_release_is_restored_with_a_warning(
    of_first_release: str, tmp_path: Path
) -> None:
    file = tmp_path / "registry.dump"
    with psycopg.connect(of_first_release) as connection:
        # What an operator added is no damage.
        connection.execute(f"CREATE INDEX by_actor ON {SCHEMA}.kits (actor)")
        connection.execute(f"CREATE VIEW {SCHEMA}.busy AS SELECT 1 AS jobs")
    backup(of_first_release, SCHEMA, file)
    file.write_bytes(file.read_bytes()[:-90])
    command = [sys.executable, "-m", "vistaflow_services.registry.restore", str(file)]
    done = subprocess.run(
        command,
        env={**os.environ, "VISTAFLOW_REGISTRY_DATABASE": of_first_release},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "restored everything up to revision 0" in done.stdout
    assert "have no checksum" in done.stderr
    migrate(of_first_release, SCHEMA, PACKAGE)


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        ("DROP INDEX kits_name", "index CREATE INDEX kits_name"),
        ("ALTER TABLE jobs RENAME COLUMN worker TO w_rker", "column jobs.worker"),
        ("ALTER TABLE kits ALTER paused SET DEFAULT true", "column kits.paused"),
        ("ALTER TABLE kept_states DISABLE TRIGGER append_only", "trigger"),
        ("DROP FUNCTION keep_states", "function keep_states"),
    ],
)
def test_a_restored_schema_that_no_migration_makes_is_taken_back(
    of_first_release: str, tmp_path: Path, damage: LiteralString, part: str
) -> None:
    file = tmp_path / "registry.dump"
    with psycopg.connect(of_first_release, autocommit=True) as connection:
        connection.execute(f"SET search_path TO {SCHEMA}")
        connection.execute("UPDATE head SET last_id = 7")
        connection.execute(damage)
        backup(of_first_release, SCHEMA, file)
        connection.execute("UPDATE head SET last_id = 9")
        with pytest.raises(DumpError, match=f"damaged: .*{part}"):
            restore(of_first_release, SCHEMA, file)
        assert connection.execute("SELECT last_id FROM head").fetchone() == (9,)
        query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'vista%'"
        assert connection.execute(query).fetchall() == [(SCHEMA,)]


def test_a_restore_that_is_interrupted_changes_nothing(database: str, tmp_path: Path) -> None:
    file = tmp_path / "registry.dump"
    backup(database, SCHEMA, file)
    # Slow enough to be interrupted, whatever the machine.
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION public.wait() RETURNS event_trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_sleep(60); END'"
        )
        connection.execute(
            "CREATE EVENT TRIGGER slow ON ddl_command_start WHEN TAG IN ('CREATE SCHEMA') "
            "EXECUTE FUNCTION public.wait()"
        )
        command = [sys.executable, "-m", "vistaflow_services.registry.restore", str(file)]
        restoring = subprocess.Popen(
            command,
            env={**os.environ, "VISTAFLOW_REGISTRY_DATABASE": database},
            stderr=subprocess.DEVNULL,
        )
        query = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE SCHEMA%'"
        with reaped(restoring):
            deadline = time.monotonic() + 120
            while not (waiting := connection.execute(query).fetchall()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            restoring.send_signal(signal.SIGINT)
            assert restoring.wait(120) != 0
        connection.execute("SELECT pg_terminate_backend(%s)", waiting[0])
        query = f"SELECT last_id FROM {SCHEMA}.head"
        assert connection.execute(query).fetchone() == (0,)


async def test_tokens_revoked_after_the_backup_are_not_valid_again(
    database: str, fresh: str, tmp_path: Path
) -> None:
    file = tmp_path / "registry.dump"
    pool = make_pool(database, schema=SCHEMA, size=1)
    await pool.open(wait=True, timeout=60)
    store = TokenStore(pool)

    async def made(name: str) -> uuid.UUID:
        token, *_ = await store.create(
            name=name, project="", role=Role.ADMIN, created_by="test", seconds=None
        )
        return token.token_id

    stays, goes = await made("stays"), await made("goes")
    await asyncio.to_thread(backup, database, SCHEMA, file)
    await store.revoke(goes)
    later = await made("later")
    await pool.close()

    def valid(conninfo: str) -> set[uuid.UUID]:
        with psycopg.connect(conninfo) as connection:
            query = f"SELECT token_id FROM {SCHEMA}.tokens WHERE revoked_at IS NULL"
            return {row[0] for row in connection.execute(query)}

    # What is put aside knows; elsewhere nobody does, and nobody is trusted unless so told.
    assert (await asyncio.to_thread(restore, database, SCHEMA, file)).revoked == ()
    assert valid(database) == {stays, later}
    again = await asyncio.to_thread(restore, database, SCHEMA, file, keep_tokens=True)
    assert (again.revoked, valid(database)) == ((), {stays, later})
    restored = await asyncio.to_thread(restore, fresh, SCHEMA, file)
    assert restored.revoked == ("goes", "stays")
    assert valid(fresh) == set()
    with psycopg.connect(fresh) as connection:
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    await asyncio.to_thread(restore, fresh, SCHEMA, file, keep_tokens=True)
    assert valid(fresh) == {stays, goes}
