"""Brings a database schema up to date with plain numbered SQL files.

`sql/0001_log.sql`, `sql/0002_….sql`: each runs once, in its own transaction, under an advisory
lock, so that several replicas may start at once. What has run is recorded in `schema_migrations`
with its checksum; a file that was edited after it ran is refused.

It may run while other replicas serve: a statement that cannot have its lock soon gives up, lets
the statements behind it pass and tries again. So no other statement waits longer than
`LOCK_SECONDS` for it.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import random
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources

import psycopg
from psycopg import sql

from vistaflow_services.registry.database.sessions import session_conninfo

logger = logging.getLogger(__name__)

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_LOCK = 0x7669737461  # "vista"

LOCK_SECONDS = 0.5
"""Seconds for which a migration waits for a lock, and other statements behind it."""

PATIENCE_SECONDS = 60.0
"""Seconds for which a migration that does not get its locks is tried again."""

_BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


class MigrationError(Exception):
    """The schema cannot be brought up to date; the message is for the operator."""


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_migrations(package: str) -> list[Migration]:
    """The migrations in `sql/` of a package, in order.

    Raises:
        MigrationError: A number is used twice.
    """
    migrations = []
    for file in (resources.files(package) / "sql").iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            text = file.read_text("utf-8")
            migrations.append(Migration(number=int(match[1]), name=match[2], text=text))
    migrations.sort(key=lambda migration: migration.number)
    for one, other in itertools.pairwise(migrations):
        if one.number == other.number:
            raise MigrationError(f"{package}: two migrations have number {one.number:04d}")
    return migrations


def migrate(
    conninfo: str, schema: str, package: str, *, patience_seconds: float = PATIENCE_SECONDS
) -> int:
    """Runs the migrations that have not run yet, and returns their number.

    Raises:
        MigrationError: A file was edited after it ran, the schema is newer than the code, or
            tables were in use for so long that a migration could not run.
    """
    migrations = load_migrations(package)
    session = session_conninfo(
        conninfo,
        name="vistaflow migrations",
        schema=schema,
        settings={"client_min_messages": "warning"},
    )
    with psycopg.connect(session, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        name = sql.Identifier(schema)
        if not _exists(connection, schema):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        # The event trigger of another registry's schema in this database may be older than this
        # code. That of the first release refused migrations of other schemas.
        connection.execute(
            "SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'event_triggers' "
            "AND (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (number int PRIMARY KEY, "
            "name text NOT NULL, checksum text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        rows = connection.execute("SELECT number, checksum FROM schema_migrations").fetchall()
        applied = {int(row[0]): str(row[1]) for row in rows}
        _check(applied, migrations, schema)
        missing = [migration for migration in migrations if migration.number not in applied]
        for migration in missing:
            _run(connection, migration, patience_seconds)
            logger.info("migrated schema %s to %04d_%s", schema, migration.number, migration.name)
    return len(missing)


def pending(package: str, applied: Collection[int]) -> list[str]:
    """Names of the migrations that have not run, given the numbers of those that have."""
    return [
        f"{migration.number:04d}_{migration.name}"
        for migration in load_migrations(package)
        if migration.number not in applied
    ]


def _run(connection: psycopg.Connection, migration: Migration, patience: float) -> None:
    """Runs one migration in a transaction; repeats it while its tables are in use."""
    end = time.monotonic() + patience
    pause = 0.2
    while True:
        try:
            with connection.transaction():
                timeout = str(round(LOCK_SECONDS * 1000))
                connection.execute("SELECT set_config('lock_timeout', %s, true)", [timeout])
                # Our own file: as safe as if it were a literal in the code.
                connection.execute(migration.text)
                connection.execute(
                    "INSERT INTO schema_migrations (number, name, checksum) VALUES (%s, %s, %s)",
                    [migration.number, migration.name, migration.checksum],
                )
            return
        except _BUSY as error:
            if time.monotonic() + pause > end:
                raise MigrationError(
                    f"migration {migration.number:04d}_{migration.name} did not get its locks "
                    f"within {patience:g} s: {error.diag.message_primary}; end what holds them "
                    "(`vistaflow doctor` names long transactions) and start again"
                ) from error
            logger.info("migration %04d waits for its locks: %s", migration.number, error)
        # Long enough for the statements behind to pass.
        time.sleep(pause * random.uniform(0.8, 1.2))
        pause = min(pause * 1.5, 2.0)


def _exists(connection: psycopg.Connection, schema: str) -> bool:
    query = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
    return connection.execute(query, [schema]).fetchone() is not None


def _check(applied: dict[int, str], migrations: list[Migration], schema: str) -> None:
    """Raises `MigrationError` if what has run differs from the migrations of this version."""
    by_number = {migration.number: migration for migration in migrations}
    for number, checksum in sorted(applied.items()):
        if number not in by_number:
            raise MigrationError(
                f"schema {schema} is at migration {number}, which this version of vistaflow does "
                "not know; run the version that made it, or a newer one"
            )
        if by_number[number].checksum != checksum:
            raise MigrationError(
                f"migration {number:04d}_{by_number[number].name} was edited after it ran on "
                f"schema {schema}; put it back and write a new one"
            )
