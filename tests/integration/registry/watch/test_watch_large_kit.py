"""A kit of very many rows is paged along the log; nothing sorts the whole of it."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from vistaflow_services.registry.database import queries
from vistaflow_services.registry.database.rows import filter_parameters
from vistaflow_services.registry.domain import StateFilter
from vistaflow_services.registry.watch.store import LogPage, WatchStore

sys.path.insert(0, str(Path(__file__).parents[1]))

from rig import PACKAGE, Rig
from traffic import external_job

from vistaflow_services.registry.database.queries import load_queries

ROWS = 300_000


async def fill(rig: Rig, large: int, large_job: str, small: int, small_job: str) -> int:
    """Rows as appends of 10: nine of ten of one kit, every 500th append of another; the head."""
    async with await psycopg.AsyncConnection.connect(
        rig.dsn,
        autocommit=True,
        options="-c search_path=vistadb_test",
        application_name="vistaflow registry test",
    ) as connection:
        ((last,),) = await (await connection.execute("SELECT last_id FROM head")).fetchall()
        await connection.execute("SELECT add_partitions(50000000)")
        await connection.execute(
            """
            INSERT INTO mlops_totalstate_table
                (id, kit_id, job_type, task_name, job_id, status, current_order, created_at,
                 batch, attempt, seq, actor, reason)
            SELECT %(last)s + n,
                   CASE WHEN a %% 500 = 7 THEN %(small)s WHEN a %% 10 = 3 THEN 99
                        ELSE %(large)s END,
                   'DOE', 'task-' || n %% 1000,
                   CASE WHEN a %% 500 = 7 THEN %(small_job)s ELSE %(large_job)s END::uuid,
                   'RUNNING', 1, now(), %(last)s + a * 10 + 1, 1, n, '', ''
            FROM (SELECT n, (n - 1) / 10 AS a FROM generate_series(1, %(rows)s) AS n) AS numbered
            """,
            {
                "last": last,
                "rows": ROWS,
                "large": large,
                "large_job": uuid.UUID(large_job),
                "small": small,
                "small_job": uuid.UUID(small_job),
            },
        )
        await connection.execute("UPDATE head SET last_id = last_id + %s", [ROWS])
        await connection.execute("ANALYZE mlops_totalstate_table")
    return int(last) + ROWS


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def explain(rig: Rig, name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    async with await psycopg.AsyncConnection.connect(
        rig.dsn, autocommit=True, options="-c search_path=vistadb_test -c jit=off"
    ) as connection:
        query = f"EXPLAIN (ANALYZE, FORMAT JSON) {load_queries(PACKAGE)[name]}"
        cursor = await connection.execute(query.encode(), parameters)
        ((told,),) = await cursor.fetchall()
    plan = told if isinstance(told, list) else json.loads(told)
    return list(nodes(plan[0]["Plan"]))


async def test_a_page_of_a_large_kit_reads_a_piece_of_the_log_and_sorts_no_more_than_a_page(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, large_job = await external_job(rig.stub)
    small, small_job = await external_job(rig.stub)
    head = await fill(rig, large, large_job, small, small_job)
    for statuses, most in (((), 1_000), (("FAILED",), queries.SCAN_ROWS + 1)):
        wanted = StateFilter(kit_ids=frozenset({large}), statuses=frozenset(statuses))
        for after in (4, 150_000, head - 500):
            parameters = filter_parameters(wanted) | {
                "after": after,
                "until": min(head, after + queries.SCAN_ROWS),
                "limit": 501,
            }
            found = await explain(rig, "log_page_walked_for_kits", parameters)
            scans = [n for n in found if "Scan" in n["Node Type"] and n["Actual Loops"]]
            assert sum(n["Actual Rows"] for n in found if n["Node Type"] == "Sort") <= 501
            if not statuses:
                assert {n.get("Index Name", "").endswith("_pkey") for n in scans} == {True}
                assert sum(map(rows_read, scans)) <= most
    sizes = await explain(rig, "kits_are_large", {"kit_ids": [large], "few": 10_000})
    assert max(n["Actual Rows"] for n in sizes) <= 10_001
    assert not [n for n in sizes if n["Node Type"] == "Sort"]

    monkeypatch.setattr(queries, "SCAN_ROWS", 7_777)  # ends in the middle of an append
    store = WatchStore(rig.pool)
    for kit_id, count, is_large, most in (
        (large, 60_000 - 120 - 6_000 + 2, True, 20),
        (small, 122, False, 1),
    ):
        pages = await pages_of(store, StateFilter(kit_ids=frozenset({kit_id})), 60_004)
        assert {page.large for page in pages} == {is_large}
        assert sum(len(page.rows) for page in pages) == count
        assert len(pages) <= most


async def pages_of(store: WatchStore, wanted: StateFilter, head: int) -> list[LogPage]:
    """A filter's pages, each of which is in order and splits no append."""
    pages: list[LogPage] = []
    at = 0
    seen: set[int] = set()
    while at < head:
        page = await store.page(wanted, at, head, 5_000, large=bool(pages) and pages[-1].large)
        revisions = [row.revision for row in page.rows]
        assert revisions == sorted(set(revisions))
        assert all(at < each <= page.through for each in revisions)
        batches = {row.batch for row in page.rows}
        assert not batches & seen
        seen |= batches
        pages.append(page)
        at = page.through
    return pages


def rows_read(scan: dict[str, Any]) -> int:
    return int(scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0))
