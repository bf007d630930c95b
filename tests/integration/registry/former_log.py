"""A log as commit 3a5e1b9 wrote it, with rows that it took and that nobody could read then.

Its schema is that of the first six migrations; the statements are those of its tables, written by
hand, so that what writes here does not change with the code.
"""

from __future__ import annotations

import json
import uuid
from typing import Any
from unittest.mock import patch

import psycopg

from vistaflow_services.registry.__main__ import PACKAGE
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database import migrations

SCHEMA = Config.schema
FORMER_MIGRATIONS = 6

DEEP, LARGE_APPEND, LARGE_TREE = 1, 2, 3
"""The kits."""

DEPTHS = (29, 31, 33, 45)
APPEND_ROWS, APPEND_TEXT = 1000, 16_000
TREE_TASKS, TREE_TEXT = 400, 60 * 1024


def job_id(kit_id: int) -> str:
    return str(uuid.UUID(int=0xA0 + kit_id))


def nested(levels: int) -> dict[str, Any]:
    """Objects and lists in turn, so many levels deep."""
    value: Any = 1
    for level in range(levels - 1):
        value = [value] if level % 2 else {"a": value}
    return {"beside": "kept", "deep": value}


def migrate_as_then(conninfo: str) -> None:
    """Makes the tables that there were then."""
    every = migrations.load_migrations(PACKAGE)
    former = [each for each in every if each.number <= FORMER_MIGRATIONS]
    with patch.object(migrations, "load_migrations", lambda _: former):
        migrations.migrate(conninfo, SCHEMA, PACKAGE)


def write(conninfo: str) -> int:
    """Fills a database that has no schema yet; the last revision."""
    migrate_as_then(conninfo)
    with psycopg.connect(conninfo, options=f"-c search_path={SCHEMA}") as connection:
        connection.execute("SELECT add_partitions(50000000)")
        last = 0
        for kit_id in (DEEP, LARGE_APPEND, LARGE_TREE):
            last = _begin(connection, kit_id, last)
            if kit_id == DEEP:
                last = _append(connection, kit_id, last, [nested(each) for each in DEPTHS])
            elif kit_id == LARGE_APPEND:
                rows = [{"text": f"{n:05}" + "x" * APPEND_TEXT} for n in range(APPEND_ROWS)]
                last = _append(connection, kit_id, last, rows)
            else:
                for start in range(0, TREE_TASKS, 10):
                    rows = [{"text": f"{n:05}" + "x" * TREE_TEXT} for n in range(start, start + 10)]
                    last = _append(connection, kit_id, last, rows, start)
        connection.execute("UPDATE head SET last_id = %s, last_kit_id = 3", [last])
        connection.execute(
            "INSERT INTO current_state SELECT kit_id, job_id, task_name, id, "
            "job_type, status, current_order, attempt, seq, created_at, actor, reason, metadata "
            "FROM (SELECT DISTINCT ON (kit_id, job_id, task_name) * FROM mlops_totalstate_table "
            "ORDER BY kit_id, job_id, task_name, id DESC) AS latest"
        )
        connection.execute(
            "UPDATE kits SET revision = (SELECT max(id) FROM mlops_totalstate_table "
            "AS l WHERE l.kit_id = kits.kit_id)"
        )
        # A job that is done published what nobody could read either.
        result = json.dumps(nested(40))
        connection.execute(
            "INSERT INTO jobs SELECT gen_random_uuid(), kit_id, 'done', job_type, 2, '{}', '', '', "
            "true, 3, NULL, 0, '{}', 1000000, created_at, 'FINISHED', 0, 0, 0, revision, NULL, "
            "NULL, '', '', '', %s FROM jobs WHERE kit_id = %s",
            [result, DEEP],
        )
        connection.execute(
            "UPDATE kits SET spec = %s, counts = '{0,0,1,1,0,0}' WHERE kit_id = %s", [result, DEEP]
        )
    return last


def _begin(connection: psycopg.Connection, kit_id: int, last: int) -> int:
    """A kit with one external job, which runs."""
    connection.execute(
        "INSERT INTO kits (kit_id, name, project, labels, actor, created_at, status, counts, "
        "revision, updated_at, first_revision) VALUES (%s, 'former', 'default', '{}', '', now(), "
        "'RUNNING', '{0,0,1,0,0,0}', %s, now(), %s)",
        [kit_id, last + 2, last + 1],
    )
    connection.execute(
        "INSERT INTO jobs (job_id, kit_id, name, job_type, current_order, depends_on, spec_type, "
        "spec, external, max_attempts, priority, labels, first_revision, created_at, status, "
        "attempt, last_seq, failures, revision, started_at, worker, reason, actor) VALUES "
        "(%s, %s, 'work', 'DOE', 1, '{}', '', '', true, 3, 0, '{}', %s, now(), 'RUNNING', 1, 0, 0, "
        "%s, now(), '', '', '')",
        [job_id(kit_id), kit_id, last + 1, last + 2],
    )
    for n, (status, counts) in enumerate(
        (("QUEUED", "{0,1,0,0,0,0}"), ("RUNNING", "{0,0,1,0,0,0}"))
    ):
        connection.execute(
            "INSERT INTO mlops_totalstate_table (id, kit_id, job_type, task_name, job_id, status, "
            "current_order, created_at, batch, attempt, seq, actor, reason, kit_counts) VALUES "
            "(%s, %s, 'DOE', '', %s, %s, 1, now(), %s, %s, 0, '', '', %s)",
            [last + 1 + n, kit_id, job_id(kit_id), status, last + 1 + n, n, counts],
        )
    return last + 2


def _append(
    connection: psycopg.Connection,
    kit_id: int,
    last: int,
    metadata: list[dict[str, Any]],
    start: int = 0,
) -> int:
    """One append of a row a task, each with metadata."""
    connection.cursor().executemany(
        "INSERT INTO mlops_totalstate_table (id, kit_id, job_type, task_name, job_id, status, "
        "current_order, created_at, metadata, batch, attempt, seq, actor, reason) VALUES "
        "(%s, %s, 'DOE', %s, %s, 'RUNNING', 1, now(), %s, %s, 1, 0, '', '')",
        [
            (last + 1 + n, kit_id, f"t{start + n}", job_id(kit_id), json.dumps(each), last + 1)
            for n, each in enumerate(metadata)
        ],
    )
    return last + len(metadata)
