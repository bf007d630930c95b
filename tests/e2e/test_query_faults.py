"""Services, PostgreSQL and the processes of queries are killed; every result is the right one."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import duckdb
import pytest

import vistaflow
from tests.e2e.conftest import Suite  # type: ignore[import-not-found]
from vistaflow.api.common.v1 import common_pb2

SEED = 41
SECONDS = 240


def processes_of_attempts(suite: Suite) -> list[int]:
    """The processes below the query service."""
    service, children = suite.pid("query"), dict[int, int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children[int(entry.name)] = int(status[1])

    def is_below(pid: int) -> bool:
        while pid in children and pid != service:
            pid = children[pid]
        return pid == service

    return [pid for pid in children if pid != service and is_below(pid)]


def kill(suite: Suite, victim: str, choose: random.Random) -> None:
    if victim != "process":
        suite.kill(victim)
        return
    processes = processes_of_attempts(suite)
    if processes:
        try:
            os.kill(choose.choice(processes), signal.SIGKILL)
        except ProcessLookupError:
            return


@pytest.mark.slow
def test_results_are_right_whatever_is_killed(own_suite: Suite) -> None:
    data = own_suite.data / "numbers.parquet"
    duckdb.sql(f"COPY (SELECT i, hash(i) % 1000 AS k FROM range(2000000) t(i)) TO '{data}'")
    choose = random.Random(SEED)
    expected, queries = {}, list[str]()
    with vistaflow.connect(own_suite.address, timeout=120) as client:
        for number, victim in enumerate(["process", "query", "registry", "postgres"] * 3):
            text = "select k, count(*) as n, sum(i) as s from {} where i % 13 <> {} group by k"
            for part in range(2):
                remainder = number * 2 + part
                sql = text.format('files."raw/numbers.parquet"', remainder)
                expected[sql] = duckdb.sql(
                    text.format(f"'{data}'", remainder) + " order by k"
                ).fetchall()
                queries.append(client.submit_query(sql).query.query_id)
            time.sleep(choose.uniform(0.0, 1.0))
            kill(own_suite, victim, choose)
        end = time.monotonic() + SECONDS
        for query_id in queries:
            while True:
                assert time.monotonic() < end
                try:
                    query = client.query_info(query_id)
                except vistaflow.VistaError:
                    time.sleep(0.2)
                    continue
                if query.status >= common_pb2.STATUS_FINISHED:
                    break
                time.sleep(0.1)
            # Three attempts may be lost; more kills than that may hit one query.
            if query.status == common_pb2.STATUS_FINISHED:
                rows = sorted(client.query_result(query_id).fetchall())
                assert rows == [tuple(row) for row in expected[query.user_query]]
            else:
                assert query.error.reason == "FAILED", query.error
        finished = sum(
            query.status == common_pb2.STATUS_FINISHED for query in client.queries(limit=100)
        )
        assert finished >= len(queries) - 3
