"""Has the database refuse to drop or detach parts of the log.

UPDATE, DELETE and TRUNCATE are refused by triggers everywhere. Against DROP, DETACH and DISABLE
TRIGGER by the owner only an event trigger helps, which PostgreSQL lets superusers make. It belongs
to no schema and so is in no backup: the registry makes it when it starts.
"""

from __future__ import annotations

import contextlib
from typing import LiteralString

import psycopg
from psycopg import sql

from vistaflow_services.registry.local import connected

EVENTS: dict[str, tuple[LiteralString, ...]] = {
    "ddl_command_start": ("ALTER TABLE",),
    "ddl_command_end": (
        "ALTER TABLE", "DROP TABLE", "ALTER TRIGGER", "DROP TRIGGER", "DROP FUNCTION", "DROP VIEW"
    ),
}  # fmt: skip

# The second if both looked before either had made it.
_TAKEN = (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation)


def guard(conninfo: str, schema: str) -> bool:
    """Makes the event triggers of a schema, unless they are there; returns whether they are now."""
    with connected(conninfo, schema, name="guard") as connection:
        row = connection.execute(
            "SELECT rolsuper, %s::regnamespace::oid, (SELECT count(*) FROM pg_event_trigger WHERE "
            "evtfoid = 'guard_log'::regproc) FROM pg_roles WHERE rolname = current_user",
            [schema],
        ).fetchone()
        assert row is not None
        superuser, number, made = row
        there: bool = made == len(EVENTS)
        if there or not superuser:
            return there
        for event, tags in EVENTS.items():
            statement = sql.SQL(
                "CREATE EVENT TRIGGER {} ON {} WHEN TAG IN ({}) EXECUTE FUNCTION guard_log()"
            ).format(
                # The schema's number stays its own when a restore gives it another name.
                sql.Identifier(f"vistaflow_{event}_{number}"),
                sql.Identifier(event),
                sql.SQL(", ").join(sql.Literal(each) for each in tags),
            )
            with contextlib.suppress(*_TAKEN):  # another replica was first
                connection.execute(statement)
        return True
