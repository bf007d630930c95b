"""Makes the database refuse to drop or detach parts of the log.

Triggers of the tables refuse UPDATE, DELETE and TRUNCATE. Only an event trigger prevents DROP,
DETACH and DISABLE TRIGGER by the owner, and only superusers may create one. It belongs to no
schema, so no backup contains it: the registry creates it when it starts.
"""

from __future__ import annotations

import contextlib
from typing import LiteralString

import psycopg
from psycopg import sql

from vistaflow_services.registry.database.connect import connected

EVENTS: dict[str, tuple[LiteralString, ...]] = {
    "ddl_command_start": ("ALTER TABLE",),
    "ddl_command_end": (
        "ALTER TABLE", "DROP TABLE", "ALTER TRIGGER", "DROP TRIGGER", "DROP FUNCTION", "DROP VIEW"
    ),
}  # fmt: skip

# UniqueViolation if two replicas create it at the same moment.
_TAKEN = (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation)


def guard(conninfo: str, schema: str) -> bool:
    """Creates the event triggers of a schema if necessary; returns whether they exist now."""
    with connected(conninfo, schema, name="guard") as connection:
        row = connection.execute(
            "SELECT rolsuper, %s::regnamespace::oid, (SELECT count(*) FROM pg_event_trigger WHERE "
            "evtfoid = 'guard_log'::regproc) FROM pg_roles WHERE rolname = current_user",
            [schema],
        ).fetchone()
        assert row is not None
        superuser, number, trigger_count = row
        complete: bool = trigger_count == len(EVENTS)
        if complete or not superuser:
            return complete
        for event, tags in EVENTS.items():
            statement = sql.SQL(
                "CREATE EVENT TRIGGER {} ON {} WHEN TAG IN ({}) EXECUTE FUNCTION guard_log()"
            ).format(
                # The number of the schema stays when a restore changes the name.
                sql.Identifier(f"vistaflow_{event}_{number}"),
                sql.Identifier(event),
                sql.SQL(", ").join(sql.Literal(tag) for tag in tags),
            )
            with contextlib.suppress(*_TAKEN):  # another replica was first
                connection.execute(statement)
        return True
