"""A schema is brought up to date while others read and write it."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
import time
import uuid
from pathlib import Path

import psycopg
import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.__main__ import PACKAGE
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.migrations import (
    MigrationError,
    load_migrations,
    migrate,
    pending,
)
from vistaflow_services.registry.upkeep.rebuild import rebuild

sys.path.insert(0, str(Path(__file__).parents[2] / "registry"))

from traffic import Writer, connect, external_job, until

SCHEMA = Config.schema
NEXT = """
ALTER TABLE jobs ADD COLUMN note text NOT NULL DEFAULT '';
ALTER TABLE mlops_totalstate_table ADD COLUMN note text;
ALTER TABLE current_state ALTER COLUMN reason SET DEFAULT '';
CREATE INDEX jobs_note ON jobs (note);
"""


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with the registry's migrations and one more."""
    # A name of its own, as Python keeps what was once imported.
    package = tmp_path / f"newer_registry_{uuid.uuid4().hex}"
    (package / "sql").mkdir(parents=True)
    (package / "__init__.py").touch()
    import vistaflow_services.registry as registry

    for file in (Path(registry.__file__).parent / "sql").glob("0*.sql"):
        shutil.copy(file, package / "sql")
    (package / "sql" / "0999_note.sql").write_text(NEXT)
    monkeypatch.syspath_prepend(tmp_path)
    return package.name


async def test_appends_go_on_while_the_schema_migrates(database: str, serve, newer: str) -> None:
    async with serve(database) as registry:
        channel, stub = connect(registry.address)
        async with channel:
            jobs = [await external_job(stub) for _ in range(4)]
            writers = [Writer(stub, job_id, seed=n) for n, (_, job_id) in enumerate(jobs)]
            stop = asyncio.Event()
            failures: list[str] = []

            async def write(writer: Writer) -> None:
                while not stop.is_set():
                    states = writer.next_rows(1)
                    answer = await stub.AppendStates(
                        pb.AppendStatesRequest(states=states), timeout=60
                    )
                    if answer.results[0].verdict != pb.VERDICT_ACCEPTED:
                        failures.append(answer.results[0].detail)
                    await asyncio.sleep(0.015)

            writing = [asyncio.create_task(write(writer)) for writer in writers]
            # Somebody reads for long what the migration changes.
            reader = psycopg.connect(database)
            reader.execute(f"SELECT count(*) FROM {SCHEMA}.jobs")
            begun = registry.hub.head
            migrating = asyncio.create_task(asyncio.to_thread(migrate, database, SCHEMA, newer))
            await asyncio.sleep(1.5)
            # Appends go on while the migration waits for the reader.
            await until(lambda: registry.hub.head - begun > 50)
            waited = not migrating.done()
            reader.close()
            done = await migrating
            at_migration = registry.hub.head
            await until(lambda: registry.hub.head > at_migration)
            stop.set()
            await asyncio.gather(*writing)
            head = registry.hub.head
    assert waited
    assert done == 1
    assert failures == []
    assert head > at_migration > begun + 50
    assert not any(rebuild(database, SCHEMA, check=True).values())
    with psycopg.connect(database) as connection:
        rows = connection.execute(f"SELECT number FROM {SCHEMA}.schema_migrations").fetchall()
    assert (999,) in rows


def test_a_migration_that_never_gets_its_locks_says_so_and_leaves_nothing(
    database: str, newer: str
) -> None:
    with psycopg.connect(database) as reader:
        reader.execute(f"SELECT count(*) FROM {SCHEMA}.jobs")
        with pytest.raises(MigrationError, match=r"0999_note did not get its locks within 1\.5 s"):
            migrate(database, SCHEMA, newer, patience_seconds=1.5)
        columns = reader.execute(
            "SELECT count(*) FROM information_schema.columns "
            "WHERE table_name = 'jobs' AND column_name = 'note'"
        ).fetchone()
        assert columns == (0,)
    assert migrate(database, SCHEMA, newer) == 1
    assert migrate(database, SCHEMA, newer) == 0


def test_two_that_migrate_at_once_do_it_once(database: str, newer: str) -> None:
    done: list[int] = []
    threads = [
        threading.Thread(target=lambda: done.append(migrate(database, SCHEMA, newer)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(done) == [0, 0, 1]


def test_what_is_pending_is_named(newer: str) -> None:
    numbers = [each.number for each in load_migrations(PACKAGE)]
    assert pending(newer, numbers) == ["0999_note"]
    assert pending(PACKAGE, numbers) == []


def test_two_migrations_of_one_number_are_refused(newer: str, tmp_path: Path) -> None:
    (tmp_path / newer / "sql" / "0999_other.sql").write_text("SELECT 1;")
    with pytest.raises(MigrationError, match="two migrations have number 0999"):
        load_migrations(newer)


def test_a_waiting_migration_lets_others_pass(database: str, newer: str) -> None:
    """Nobody waits behind it for longer than its own lock timeout."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    with (
        psycopg.connect(database) as reader,
        psycopg.connect(database, autocommit=True, options="-c statement_timeout=60s") as other,
    ):
        reader.execute(f"SELECT count(*) FROM {SCHEMA}.jobs")
        thread = threading.Thread(target=migrate, args=(database, SCHEMA, newer))
        thread.start()
        for _ in range(3):
            end = time.monotonic() + 120
            while other.execute(waiting, [f"{SCHEMA}.jobs"]).fetchone() == (0,):
                assert time.monotonic() < end, "the migration never waited"
            # It is answered while the reader still holds up the migration.
            other.execute(f"SELECT count(*) FROM {SCHEMA}.jobs")
        assert thread.is_alive()
        reader.rollback()
        thread.join(120)
