"""Recomputes derived tables from the log: `python -m vistaflow_services.registry.rebuild`.

The log and the definitions of kits and jobs are what is kept; the current state, the statuses of
jobs and kits and the stages' own tables follow from them. `--check` changes nothing and tells
whether what is there is what would be computed.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from vistaflow._machine.encoding import degrade_output
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.connect import Connection, connected, database
from vistaflow_services.registry.database.queries import QUERIES
from vistaflow_services.registry.database.rows import to_job
from vistaflow_services.registry.dependencies import blocked
from vistaflow_services.registry.domain import TERMINAL, Job, Kit, Status

DERIVED = (
    "current_state",
    "jobs",
    "kits",
    "deck_collection",
    "doe_step",
    "ml_step",
    "optimize_step",
)


def rebuild(conninfo: str, schema: str, *, check: bool = False) -> dict[str, int]:
    """Recomputes the derived tables while nobody writes.

    Args:
        conninfo: Where the database is.
        schema: The schema of the registry's tables.
        check: Whether to change nothing.

    Returns:
        How many rows of each table were not as they should be.
    """
    with (
        connected(conninfo, schema, name="rebuild") as connection,
        connection.transaction(force_rollback=check),
    ):
        connection.execute(QUERIES["lock_head"])
        for table in DERIVED:
            name, before = sql.Identifier(table), sql.Identifier(f"{table}_before")
            copy = sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS TABLE {}")
            connection.execute(copy.format(before, name))
        _recompute(connection)
        return {table: _difference(connection, table) for table in DERIVED}


def _recompute(connection: Connection) -> None:
    rows = connection.execute(QUERIES["rebuild_own_rows"]).fetchall()
    connection.execute(QUERIES["rebuild_jobs"], {"jobs": json.dumps(_fold(rows))})
    connection.execute(QUERIES["rebuild_kits"])
    connection.execute(QUERIES["rebuild_pauses"])
    reasons = _reasons(connection)
    connection.execute(QUERIES["rebuild_reasons"], {"reasons": json.dumps(reasons)})
    for table in ("current_state", "deck_collection", "doe_step", "ml_step", "optimize_step"):
        connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
    connection.execute(QUERIES["rebuild_current_state"])
    connection.execute(QUERIES["rebuild_steps"], {})


def _fold(rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The derived columns of each job, from its own rows in order."""
    jobs: dict[uuid.UUID, dict[str, Any]] = {}
    for job_id, revision, status, attempt, moved_at, actor, reason, event, counts, external in rows:
        job = jobs.setdefault(
            job_id, {"job_id": str(job_id), "failures": 0, "started": None, "finished": None}
        )
        if event == "RETRIED":
            job["failures"] = 0
        elif event in ("LOST", "RELEASED") and counts and not external:
            job["failures"] += 1
        if status == Status.RUNNING:
            job["started"], job["finished"] = moved_at.isoformat(), None
        elif status in TERMINAL:
            job["finished"] = moved_at.isoformat()
        else:
            job["started"] = job["finished"] = None
        job |= {
            "status": status,
            "attempt": attempt,
            "revision": revision,
            "actor": actor,
            "reason": "" if status == Status.INIT else reason,
            "worker": actor if status == Status.RUNNING and not external else "",
        }
    return list(jobs.values())


def _reasons(connection: Connection) -> list[dict[str, str]]:
    """Why jobs wait for ones that will not finish."""
    waiting = "SELECT DISTINCT kit_id FROM jobs WHERE status = 'INIT'"
    kit_ids = [row[0] for row in connection.execute(waiting).fetchall()]
    kits: dict[int, Kit] = {}
    for row in connection.execute(QUERIES["jobs_of_kits"], {"kit_ids": kit_ids}).fetchall():
        job: Job = to_job(row)
        kit = kits.setdefault(job.kit_id, Kit(kit_id=job.kit_id, name=""))
        kit.jobs[job.job_id] = job
    return [
        {"job_id": str(job_id), "reason": reason}
        for kit in kits.values()
        for job_id, reason in blocked(kit).items()
    ]


def _difference(connection: Connection, table: str) -> int:
    name, before = sql.Identifier(table), sql.Identifier(f"{table}_before")
    query = sql.SQL(
        "SELECT count(*) FROM ((TABLE {now} EXCEPT TABLE {before}) UNION ALL "
        "(TABLE {before} EXCEPT TABLE {now})) AS differing"
    )
    row = connection.execute(query.format(now=name, before=before)).fetchone()
    return int(row[0]) if row else 0


def main() -> int:
    """Rebuilds or checks, and prints what differed."""
    degrade_output()
    parser = argparse.ArgumentParser(description="Recomputes what is derived from the log.")
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    arguments = parser.parse_args()
    try:
        config = read_config(Config, "VISTAFLOW_REGISTRY_")
        with database(config) as conninfo:
            differences = rebuild(conninfo, config.schema, check=arguments.check)
    except (ServiceError, psycopg.Error) as error:
        print(f"nothing was rebuilt: {error}", file=sys.stderr)
        return 2
    for table, number in differences.items():
        print(f"{table}: {number or 'no'} rows differed")
    return 1 if arguments.check and any(differences.values()) else 0
