"""Queries that the service sends to a real Trino."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import pytest_asyncio

from tests.integration.conftest import serving  # type: ignore[import-not-found]
from tests.integration.query.engines import trino_server
from tests.integration.stages import stage_serving
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.query.v1 import query_pb2 as pb
from vistaflow.api.query.v1 import query_pb2_grpc as rpc
from vistaflow_services.query.__main__ import SERVICE
from vistaflow_services.query.config import Config

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def trino(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trino_server.TrinoServer]:
    if reason := trino_server.missing():
        pytest.skip(reason)
    server = trino_server.TrinoServer(tmp_path_factory.mktemp("trino"))
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(
    module_database: str,
    trino: trino_server.TrinoServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[rpc.QueryServiceAsyncStub]:
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    duckdb.sql(
        "COPY (SELECT i AS id, '리뷰 ' || i AS text, i % 3 AS month FROM range(9) t(i))"
        f" TO '{data}/reviews' (FORMAT parquet, PARTITION_BY (month))"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTAFLOW_HOME", str(home))
        patch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={data}")
        # The attempt reads the settings by itself.
        patch.setenv("VISTAFLOW_QUERY_TRINO", trino.url)
        patch.setenv("VISTAFLOW_QUERY_TRINO_FOLDER", str(trino.warehouse))
        config = Config(listen="127.0.0.1:0", trino=trino.url, trino_folder=Path(trino.warehouse))
        async with (
            serving(module_database) as registry,
            stage_serving(SERVICE, config, home=home, registry=registry.address) as channel,
        ):
            yield rpc.QueryServiceStub(channel)


async def run(stub: Any, sql: str, engine: int) -> pb.SubmitQueryResponse:
    request = pb.SubmitQueryRequest(
        user_query=sql,
        engine=engine,  # type: ignore[arg-type]
        format=pb.RESULT_FORMAT_JSON_ARRAYS,
    )
    request.wait.FromSeconds(60)
    answer: pb.SubmitQueryResponse = await stub.SubmitQuery(request)
    assert answer.query.status == common_pb2.STATUS_FINISHED, answer.query.error
    return answer


async def test_trino_and_duckdb_answer_the_same_about_files(stub: Any) -> None:
    sql = (
        "select month, count(*) as n, max(text) as last, 7 / 2 as half"
        ' from files."raw/reviews" where month > 0 group by month order by month'
    )
    trino = await run(stub, sql, pb.QUERY_ENGINE_TRINO)
    embedded = await run(stub, sql, pb.QUERY_ENGINE_DUCKDB)

    assert trino.page == embedded.page
    assert json.loads(trino.page.splitlines()[0]) == [1, 3, "리뷰 7", 3]
    assert [column.type for column in trino.query.columns] == [
        column.type for column in embedded.query.columns
    ]
    again = await run(stub, sql, pb.QUERY_ENGINE_TRINO)
    assert again.reused


async def test_tables_of_trino_are_read_and_never_reused(stub: Any) -> None:
    sql = "select count(*) from tpch.tiny.nation"

    first = await run(stub, sql, pb.QUERY_ENGINE_TRINO)
    again = await run(stub, sql, pb.QUERY_ENGINE_TRINO)

    assert first.page == again.page == b"[25]\n"
    assert not again.reused
    assert [(source.kind, source.target) for source in first.query.sources] == [
        ("trino", "tpch.tiny.nation")
    ]
    for mistake, problem in (
        ("select nam from tpch.tiny.nation", "nam"),
        # Where the files of every project are.
        ('select * from hive.vistaflow."T_full_0"', "no table"),
    ):
        valid = await stub.ValidateQuery(
            pb.ValidateQueryRequest(user_query=mistake, engine=pb.QUERY_ENGINE_TRINO)
        )
        assert problem in valid.errors[0].message
