"""Whether a restored schema is one that the migrations make."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import sql

from vistaflow_services.registry.database.connect import Connection
from vistaflow_services.registry.database.migrations import load_migrations
from vistaflow_services.registry.database.queries import QUERIES
from vistaflow_services.registry.upkeep.programs import DumpError

_PACKAGE: Final = "vistaflow_services.registry"
_SCRATCH: Final = "vistaflow_schema_check"


def check_schema(connection: Connection, schema: str) -> None:
    """Compares a schema with what its migrations make in an empty one, which is then rolled back.

    Args:
        connection: Its search path is the schema.
        schema: The name of the schema.

    Raises:
        DumpError: Something is missing or differs, or the schema is of a newer version.
    """
    restored = _objects(connection, schema)
    rows = connection.execute("SELECT number, checksum FROM schema_migrations").fetchall()
    applied: dict[int, str] = dict(rows)
    migrations = [
        migration for migration in load_migrations(_PACKAGE) if migration.number in applied
    ]
    if {migration.number: migration.checksum for migration in migrations} != applied or not applied:
        raise DumpError(
            "the backup is of a newer version of vistaflow, or the list of its migrations is "
            "damaged; restore it with the version that made it"
        )
    with connection.transaction(force_rollback=True):
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(_SCRATCH)))
        connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(_SCRATCH)))
        connection.execute("SET LOCAL client_min_messages TO warning")
        # The guard of another schema does not apply; that of the first release refuses the changes.
        connection.execute(
            "SELECT set_config(name, 'off', true) FROM pg_settings WHERE name = 'event_triggers' "
            "AND (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
        )
        connection.execute(
            "CREATE TABLE schema_migrations (number int PRIMARY KEY, name text NOT NULL, "
            "checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        for migration in migrations:
            connection.execute(migration.text)
        expected = _objects(connection, _SCRATCH)
    # Additions of operators, such as an index or a view, do no harm.
    if missing := sorted(expected - restored):
        shown = "; ".join(part[:200] for part in missing[:3])
        raise DumpError(
            f"the backup is damaged: its schema lacks {len(missing)} parts as vistaflow makes them "
            f"({shown}); restore another backup"
        )


def _objects(connection: psycopg.Connection[tuple[object, ...]], schema: str) -> set[str]:
    rows = connection.execute(QUERIES["schema_objects"], {"schema": schema}).fetchall()
    return {str(text) for (text,) in rows}
