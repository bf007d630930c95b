"""Services, PostgreSQL and the processes of queries are killed; every result is the right one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
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


@pytest.fixture
def slow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the only store of a suite, in which each part of a result takes its time."""
    store = tmp_path / "store"
    monkeypatch.setenv("VISTAFLOW_STORES", f"disk={store}")
    monkeypatch.setenv("VISTAFLOW_FAILPOINT", "result.part_stored=sleep(8)")
    return store


@pytest.mark.slow
def test_a_service_that_is_killed_while_it_stores_a_result_leaves_no_half_of_one(
    slow_store: Path, own_suite: Suite
) -> None:
    def until(holds: Callable[[], object]) -> None:
        end = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.05)

    def parts() -> set[str]:
        return {path.name for path in slow_store.glob("cas/*/*") if len(path.name) == 64}

    with vistaflow.connect(own_suite.address, timeout=120) as client:
        sql = "select x * 2 as y from unnest(sequence(1, 1000)) t(x)"
        query_id = client.submit_query(sql).query.query_id
        folder = own_suite.home / "artifacts" / "jobs" / query_id
        until(parts)
        own_suite.kill("query")
        left = parts()
        assert list(folder.glob("*/result/parts.json")) == []

        def is_over() -> bool:
            try:
                return client.query_info(query_id).status >= common_pb2.STATUS_FINISHED
            except vistaflow.VistaError:
                return False

        until(is_over)
        assert client.query_info(query_id).status == common_pb2.STATUS_FINISHED
        assert client.query_result(query_id).fetchall() == [(2 * x,) for x in range(1, 1001)]
    # Of the first attempt there is a part that no list names, which the sweep removes.
    (listed,) = folder.glob("*/result/parts.json")
    assert listed.parts[-3] != "1"
    assert not (folder / "1" / "result").exists()
    names = {part["blob"] for part in json.loads(listed.read_bytes())["parts"]}
    assert names.isdisjoint(left)
    assert parts() == names | left


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
