"""What a Trino that fails does to a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.integration.query.engines.coordinator import Coordinator
from vistaflow_services.core.errors import ExhaustedError, ServiceError, UnavailableError
from vistaflow_services.query.engines import trino_engine
from vistaflow_services.query.engines.contract import Limits, Query, QueryCanceled, Result
from vistaflow_services.query.engines.trino_engine import TrinoEngine
from vistaflow_services.query.mistakes import QueryError


def run(coordinator: Coordinator, folder: Path, **options: Any) -> Result:
    engine = TrinoEngine(coordinator.url, user="test")
    return engine.run(Query(sql="select n from numbers"), folder, **options)


def numbers(result: Result) -> list[int]:
    column: list[int] = pq.read_table([part.path for part in result.parts])["n"].to_pylist()
    return column


def test_pages_become_one_result(tmp_path: Path) -> None:
    with Coordinator([[], [1, 2], [], [3]]) as coordinator:
        assert numbers(run(coordinator, tmp_path)) == [1, 2, 3]


def test_a_gateway_that_fails_once_is_asked_again(tmp_path: Path) -> None:
    with Coordinator([[1], 502, [2], 503, [3]], starts=[502]) as coordinator:
        assert numbers(run(coordinator, tmp_path)) == [1, 2, 3]


def test_a_server_without_workers_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trino_engine, "RETRY_SECONDS", 0.05)
    with Coordinator([[1]], starts=["NO_NODES_AVAILABLE"] * 2) as coordinator:
        assert numbers(run(coordinator, tmp_path)) == [1]
        assert len(coordinator.statements) == 3


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([[1], 404], UnavailableError),
        ([[1], 410], UnavailableError),
        ([[1], "REMOTE_TASK_ERROR"], UnavailableError),
        ([[1], "NO_NODES_AVAILABLE"], UnavailableError),
        ([[1], "line 1:8: column 'x' cannot be resolved"], QueryError),
    ],
)
def test_a_query_that_is_lost_fails_and_leaves_nothing(
    script: list[Any], error: type[ServiceError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trino_engine, "RETRY_SECONDS", 0.0)
    with Coordinator(script) as coordinator, pytest.raises(error):
        run(coordinator, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    with Coordinator([]) as coordinator:
        pass

    with pytest.raises(UnavailableError) as caught:
        run(coordinator, tmp_path)

    assert "127.0.0.1" not in caught.value.message


def test_a_page_that_does_not_come_is_cancelled_at_the_server(tmp_path: Path) -> None:
    reports: list[object] = []
    with Coordinator([[1], None]) as coordinator:
        with pytest.raises(QueryCanceled):
            run(
                coordinator,
                tmp_path,
                should_stop=lambda: len(reports) > 1,
                progress=reports.append,
            )

        assert coordinator.cancelled.is_set()
    assert list(tmp_path.iterdir()) == []


def test_a_result_over_its_limit_ends_the_query_at_the_server(tmp_path: Path) -> None:
    # The client hands a page over when it has the next one.
    with Coordinator([[1, 2, 3], [4], None]) as coordinator:
        with pytest.raises(ExhaustedError):
            run(coordinator, tmp_path, limits=Limits(rows=2))

        assert coordinator.cancelled.is_set()
