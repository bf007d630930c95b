"""Logs of a given length, written directly into the tables with the content that a registry writes.

A kit is four jobs of 1,125 events in 35 states each: 4,500 events, 140 states. The events of 22
kits alternate, so that those of one kit are spread over 99,000 rows. Every part of a fill is one
transaction; an interrupted fill continues where it stopped, and a complete one is not changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
from psycopg import sql

from vistaflow_services.registry.database.migrations import migrate

PACKAGE = "vistaflow_services.registry"
EVENTS = 4500
KITS = 22
BLOCK = EVENTS * KITS
PART = 10 * BLOCK

# What lies at a place of the log: event `e` of a kit, which is event `f` of its job `n`.
EVENT = f"""
    SELECT g AS id, (g - 1) / {BLOCK} * {KITS} + (g - 1) % {KITS} + 1 AS kit_id, n, f,
           md5(((g - 1) / {BLOCK} * {KITS} + (g - 1) % {KITS} + 1) || '-' || n)::uuid AS job_id,
           CASE WHEN f IN (0, 1, 1124) THEN '' ELSE 'point-' || f % 34 END AS task_name,
           CASE WHEN f = 0 THEN 'QUEUED' WHEN f >= 1090 THEN 'FINISHED' ELSE 'RUNNING' END
               AS status,
           timestamptz '2026-01-01' + g * interval '1 ms' AS created_at,
           jsonb_build_object('batch', f, 'points', 32, 'host', 'node-' || n,
                              'note', 'simulate') AS metadata,
           CASE WHEN f IN (0, 1, 1124) THEN ARRAY[3 - n, 0, 1, n, 0, 0]::smallint[] END AS counts
      FROM (SELECT g, (g - 1) % {BLOCK} / {KITS} / 1125 AS n,
                   (g - 1) % {BLOCK} / {KITS} % 1125 AS f
              FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS g) AS placed
""".replace(" % ", " %% ")

LOG = f"""
    INSERT INTO mlops_totalstate_table
           (id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
            created_at, metadata, actor, reason, kit_counts)
    SELECT id, id, kit_id, job_id, (ARRAY['DECK_COLLECTION', 'DOE', 'ML_TRAIN', 'OPTIMIZE'])[n + 1],
           task_name, status, n + 1, 1, f, created_at, metadata, 'bench', '', counts
      FROM ({EVENT}) AS event
"""
LATEST = f"""
    INSERT INTO current_state
           (kit_id, job_id, task_name, id, job_type, status, current_order, attempt, seq,
            created_at, actor, reason, metadata)
    SELECT kit_id, job_id, task_name, id,
           (ARRAY['DECK_COLLECTION', 'DOE', 'ML_TRAIN', 'OPTIMIZE'])[n + 1], status, n + 1, 1, f,
           created_at, 'bench', '', metadata
      FROM ({EVENT}) AS event WHERE f >= 1090
"""
KITS_OF_LOG = f"""
    INSERT INTO kits (kit_id, name, project, labels, actor, created_at, status, counts, revision,
                      updated_at, first_revision)
    SELECT k, 'kit-' || k, 'default', '{{}}', 'bench', timestamptz '2026-01-01', 'FINISHED',
           ARRAY[0, 0, 0, 4, 0, 0]::smallint[], (k - 1) / {KITS} * {BLOCK} + {BLOCK},
           timestamptz '2026-01-01', (k - 1) / {KITS} * {BLOCK} + 1 + (k - 1) %% {KITS}
      FROM generate_series(%(first)s::int, %(last)s::int) AS k
"""
JOBS_OF_LOG = f"""
    INSERT INTO jobs (job_id, kit_id, name, job_type, current_order, depends_on, spec_type, spec,
                      external, max_attempts, priority, labels, first_revision, created_at, status,
                      attempt, last_seq, failures, revision, worker, reason, actor)
    SELECT md5(k || '-' || n)::uuid, k, 'job-' || n,
           (ARRAY['DECK_COLLECTION', 'DOE', 'ML_TRAIN', 'OPTIMIZE'])[n + 1], n + 1, '{{}}', '', '',
           true, 3, 0, '{{}}',
           (k - 1) / {KITS} * {BLOCK} + (k - 1) %% {KITS} + 1 + n * 1125 * {KITS},
           timestamptz '2026-01-01', 'FINISHED', 1, 1124, 0,
           (k - 1) / {KITS} * {BLOCK} + (k - 1) %% {KITS} + 1 + (n * 1125 + 1124) * {KITS},
           '', '', 'bench'
      FROM generate_series(%(first)s::int, %(last)s::int) AS k, generate_series(0, 3) AS n
"""

# Kits to list: of ten projects; one in five FINISHED kits of a thousand is of each odd kind.
LISTED_KITS = """
    INSERT INTO kits (kit_id, name, project, labels, actor, created_at, status, counts, revision,
                      updated_at, first_revision)
    SELECT k, CASE WHEN k %% 5 = 1 THEN 'mosfet-' WHEN k <= 500 AND k %% 5 = 4 THEN 'diode-'
                   ELSE 'opamp-' END || k,
           CASE WHEN k %% 5 = 2 THEN 'photonics' WHEN k <= 500 AND k %% 5 = 4 THEN 'old'
                ELSE 'default' END,
           jsonb_build_object('site', 'site-' || k %% 5, 'campaign',
               CASE WHEN k <= 500 AND k %% 5 = 4 THEN 'first' ELSE 'c-' || k / 1000 END),
           'bench', timestamptz '2026-01-01' + k * interval '1 min',
           CASE WHEN k %% 5 = 3 THEN 'FAILED' WHEN k <= 500 AND k %% 5 = 4 THEN 'RUNNING'
                ELSE 'FINISHED' END,
           ARRAY[0, 0, 0, 1, 0, 0]::smallint[], k, timestamptz '2026-01-01', k
      FROM generate_series(%(first)s::int, %(last)s::int) AS k
"""
LISTED_JOBS = """
    INSERT INTO jobs (job_id, kit_id, name, job_type, current_order, depends_on, spec_type, spec,
                      external, max_attempts, priority, labels, first_revision, created_at, status,
                      attempt, last_seq, failures, revision, worker, reason, actor)
    SELECT md5(kit_id::text)::uuid, kit_id, 'job',
           CASE WHEN project = 'old' THEN 'CONVERT' ELSE 'DOE' END, 1, '{}', '', '', true, 3, 0,
           labels, kit_id, created_at, status, 1, 0, 0, kit_id, '', '', 'bench'
      FROM kits WHERE kit_id BETWEEN %(first)s AND %(last)s
"""
LISTED_LOG = """
    INSERT INTO mlops_totalstate_table
           (id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
            created_at, metadata, actor, reason, kit_counts)
    SELECT first_revision, first_revision, kit_id, job_id, job_type, '', status, 1, 1, 0,
           created_at, NULL, 'bench', '', ARRAY[0, 0, 0, 1, 0, 0]::smallint[]
      FROM jobs WHERE kit_id BETWEEN %(first)s AND %(last)s
"""

Write = Callable[[psycopg.Connection, int, int], None]
"""Writes the kits or rows from one to another."""


def fill_log(dsn: str, schema: str, rows: int) -> int:
    """Makes a log of about so many rows, whole blocks of kits; returns how many."""
    return _fill(dsn, schema, kits_of(rows) // KITS * BLOCK, PART, _log_part)


def kits_of(rows: int) -> int:
    """How many kits `fill_log` makes; what is appended later is more rows of theirs."""
    return max(1, round(rows / BLOCK)) * KITS


def fill_kits(dsn: str, schema: str, kits: int) -> int:
    """Makes so many kits of one job and one row each; returns how many."""
    return _fill(dsn, schema, kits, 100_000, _kits_part)


def log_bytes(dsn: str, schema: str) -> dict[str, int]:
    """Bytes of the log with its indexes, and of everything in the schema."""
    query = """
        SELECT sum(pg_total_relation_size(c.oid)) FILTER (WHERE i.inhparent IS NOT NULL),
               sum(pg_indexes_size(c.oid)) FILTER (WHERE i.inhparent IS NOT NULL),
               sum(pg_total_relation_size(c.oid))
          FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
         WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r'
    """
    with psycopg.connect(dsn) as connection:
        sizes = connection.execute(query, [schema]).fetchone()
    assert sizes is not None
    log, indexes, everything = map(int, sizes)
    return {"log": log, "indexes": indexes, "everything": everything}


def _fill(dsn: str, schema: str, rows: int, part: int, write: Write) -> int:
    migrate(dsn, schema, PACKAGE)
    began = time.perf_counter()
    # The database takes rows of the log only from sessions of such a name.
    name = "vistaflow registry benchmark"
    with psycopg.connect(dsn, autocommit=True, application_name=name) as connection:
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
        connection.execute("SET synchronous_commit = off")
        ((there,),) = connection.execute("SELECT last_id FROM head").fetchall()
        for first in range(there + 1, rows + 1, part):
            last = min(first + part - 1, rows)
            with connection.transaction():
                connection.execute("SELECT add_partitions(50000000)")
                write(connection, first, last)
                connection.execute("UPDATE head SET last_id = %s", [last])
            spent = time.perf_counter() - began
            print(f"{schema}: {last:,} of {rows:,} rows after {spent:.0f} s", flush=True)
        if there < rows:
            connection.execute("VACUUM (ANALYZE)")
    return max(rows, there)


def _log_part(connection: psycopg.Connection, first: int, last: int) -> None:
    of_log = {"first": first, "last": last}
    of_kits = {"first": (first - 1) // BLOCK * KITS + 1, "last": last // BLOCK * KITS}
    connection.execute(KITS_OF_LOG, of_kits)
    connection.execute(JOBS_OF_LOG, of_kits)
    connection.execute(LOG, of_log)
    connection.execute(LATEST, of_log)
    connection.execute("UPDATE head SET last_kit_id = %s", [of_kits["last"]])


def _kits_part(connection: psycopg.Connection, first: int, last: int) -> None:
    for text in (LISTED_KITS, LISTED_JOBS, LISTED_LOG):
        connection.execute(text, {"first": first, "last": last})
    connection.execute("UPDATE head SET last_kit_id = %s", [last])
