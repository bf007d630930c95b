"""Brings a database schema up to date with plain numbered SQL files.

`sql/0001_log.sql`, `sql/0002_….sql`: each runs once, in its own transaction, under an advisory
lock, so that several replicas may start at once. What has run is recorded in `schema_migrations`
with its checksum; a file that was edited after it ran is refused.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from importlib import resources

import psycopg
from psycopg import sql

logger = logging.getLogger(__name__)

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_LOCK = 0x7669737461  # "vista"


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
        MigrationError: Numbers are missing or used twice.
    """
    found = []
    for file in (resources.files(package) / "sql").iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            text = file.read_text("utf-8")
            found.append(Migration(number=int(match[1]), name=match[2], text=text))
    found.sort(key=lambda each: each.number)
    if [each.number for each in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"{package}: migrations are not numbered 1 to {len(found)}")
    return found


def migrate(conninfo: str, schema: str, package: str) -> int:
    """Runs what has not run yet and returns how many that were.

    Raises:
        MigrationError: A file was edited after it ran, or the schema is newer than the code.
    """
    migrations = load_migrations(package)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        name = sql.Identifier(schema)
        if not _exists(connection, schema):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        connection.execute(sql.SQL("SET search_path TO {}").format(name))
        connection.execute("SET client_min_messages TO warning")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (number int PRIMARY KEY, "
            "name text NOT NULL, checksum text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        rows = connection.execute("SELECT number, checksum FROM schema_migrations").fetchall()
        applied = {int(row[0]): str(row[1]) for row in rows}
        _check(applied, migrations, schema)
        missing = [each for each in migrations if each.number not in applied]
        for each in missing:
            with connection.transaction():
                # Our own file: as safe as if it were a literal in the code.
                connection.execute(each.text)
                connection.execute(
                    "INSERT INTO schema_migrations (number, name, checksum) VALUES (%s, %s, %s)",
                    [each.number, each.name, each.checksum],
                )
            logger.info("migrated schema %s to %04d_%s", schema, each.number, each.name)
    return len(missing)


def _exists(connection: psycopg.Connection, schema: str) -> bool:
    query = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
    return connection.execute(query, [schema]).fetchone() is not None


def _check(applied: dict[int, str], migrations: list[Migration], schema: str) -> None:
    known = {each.number: each for each in migrations}
    for number, checksum in sorted(applied.items()):
        if number not in known:
            raise MigrationError(
                f"schema {schema} is at migration {number}, which this version of vistaflow does "
                "not know; run the version that made it, or a newer one"
            )
        if known[number].checksum != checksum:
            raise MigrationError(
                f"migration {number:04d}_{known[number].name} was edited after it ran on schema "
                f"{schema}; put it back and write a new one"
            )
