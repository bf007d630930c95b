"""Results of queries in the declared stores: fetched, read as tables, repaired, removed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.integration.gateway.readers import gateway_serving
from tests.integration.stages import finished, stage_serving
from tests.integration.stores.conftest import SECRET, environment, make_bucket
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.query.v1 import query_pb2 as pb
from vistaflow.api.query.v1 import query_pb2_grpc as rpc
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.query_results import PARTS, remove_results
from vistaflow_services.ingestion.__main__ import SERVICE as INGESTION
from vistaflow_services.ingestion.config import Config as IngestionConfig
from vistaflow_services.ingestion.datasets.registrar import Registrar
from vistaflow_services.ingestion.datasets.stores import Tidied, listed_blobs, tidy
from vistaflow_services.query.__main__ import SERVICE
from vistaflow_services.query.config import Config
from vistaflow_services.stores.opening import open_store

FINISHED = common_pb2.STATUS_FINISHED
ROWS = 3_000
SQL = 'select id, text, amount from files."raw/rows.parquet" order by id'
GRACE = timedelta(hours=2)


@dataclass(frozen=True)
class Home:
    """A home whose query service can be started, and a registry."""

    path: Path
    registry: str
    expected: list[dict[str, Any]]

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[rpc.QueryServiceAsyncStub]:
        """The query service."""
        config = Config(listen="127.0.0.1:0", cache_mib=0)
        async with stage_serving(
            SERVICE, config, home=self.path, registry=self.registry
        ) as channel:
            yield rpc.QueryServiceStub(channel)

    def result(self, query: pb.Query) -> Path:
        """The folder of a result."""
        return ArtifactStore(self.path / "artifacts").path(query.result_path)

    def blobs(self, query: pb.Query) -> list[str]:
        """The parts of a result that are in the stores."""
        return [
            part["blob"] for part in json.loads((self.result(query) / PARTS).read_bytes())["parts"]
        ]

    async def tidied(self) -> Tidied:
        """What tidying the stores does now."""

        def work() -> Tidied:
            with Registrar(self.registry, patience=60) as registrar:
                return tidy(self.path, registrar, GRACE, timedelta(days=1))

        return await asyncio.to_thread(work)


@pytest.fixture
def home(registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    data = tmp_path / "data"
    data.mkdir()
    with duckdb.connect() as db:
        db.execute(
            f"""COPY (SELECT i AS id, '리뷰 ' || i AS text, (i / 100)::DECIMAL(12, 2) AS amount
                      FROM range({ROWS}) t(i)) TO '{data}/rows.parquet' (FORMAT parquet)"""
        )
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={data}")
    # Every part comes from the stores.
    monkeypatch.setenv("VISTAFLOW_QUERY_CACHE_MIB", "0")
    rows = pq.read_table(data / "rows.parquet").to_pylist()
    return Home(path=tmp_path / "home", registry=registry, expected=rows)


async def ran(
    stub: rpc.QueryServiceAsyncStub, sql: str = SQL, **fields: Any
) -> pb.SubmitQueryResponse:
    """A query that has finished."""
    request = pb.SubmitQueryRequest(user_query=sql, **fields)
    request.wait.FromSeconds(60)
    answer: pb.SubmitQueryResponse = await stub.SubmitQuery(request)
    assert answer.query.status == FINISHED, answer.query.error
    return answer


async def fetched(stub: rpc.QueryServiceAsyncStub, query_id: str, **fields: Any) -> bytes:
    request = pb.FetchResultRequest(query_id=query_id, **fields)
    return b"".join([part.data async for part in stub.FetchResult(request)])


def arrow_rows(content: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.ipc.open_stream(content).read_all().to_pylist()
    return rows


async def test_a_result_in_a_bucket_is_fetched_in_every_format_and_is_a_table(
    home: Home, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VISTAFLOW_STORES", f"cloud=s3://{make_bucket(moto)}/data")
    expected = home.expected
    ingesting = IngestionConfig(listen="127.0.0.1:0", sweep_seconds=0)
    async with (
        home.serving() as stub,
        stage_serving(INGESTION, ingesting, home=home.path, registry=home.registry),
        gateway_serving(home.registry, home.path) as gateway,
    ):
        answer = await ran(stub, format=pb.RESULT_FORMAT_JSON_ARRAYS, register_as="rows")
        query_id = answer.query.query_id
        job = await gateway.registry.get_job(query_id)
        assert job.result["stores"] == "cloud"
        assert [entry["blob"] for entry in job.result["files"]] == home.blobs(answer.query)
        assert [path.name for path in home.result(answer.query).iterdir()] == [PARTS]
        assert len(answer.page.splitlines()) == answer.page_row_count == 1_000
        assert [column.name for column in answer.query.columns] == ["id", "text", "amount"]

        assert arrow_rows(await fetched(stub, query_id)) == expected
        page = await fetched(stub, query_id, offset=1_990, limit=20)
        assert arrow_rows(page) == expected[1_990:2_010]
        assert arrow_rows(await fetched(stub, query_id, offset=ROWS)) == []
        content = await fetched(stub, query_id, format=pb.RESULT_FORMAT_PARQUET)
        assert pq.read_table(io.BytesIO(content)).to_pylist() == expected
        content = await fetched(stub, query_id, format=pb.RESULT_FORMAT_PARQUET, offset=2_999)
        assert pq.read_table(io.BytesIO(content)).to_pylist() == expected[2_999:]
        content = await fetched(stub, query_id, format=pb.RESULT_FORMAT_CSV)
        assert pa.csv.read_csv(io.BytesIO(content))["text"].to_pylist() == [
            row["text"] for row in expected
        ]
        for kind in (pb.RESULT_FORMAT_JSON_OBJECTS, pb.RESULT_FORMAT_JSON_ARRAYS):
            lines = (await fetched(stub, query_id, format=kind, offset=7, limit=2)).splitlines()
            assert lines[0] in (
                '{"id":7,"text":"리뷰 7","amount":0.07}'.encode(),
                '[7,"리뷰 7",0.07]'.encode(),
            )
            assert len(lines) == 2

        answered = await gateway.http.get(f"/v1/queries/{query_id}/rows.csv?offset=5&limit=2")
        assert answered.text == '5,"리뷰 5","0.05"\n6,"리뷰 6","0.06"\n'
        answered = await gateway.http.get(f"/v1/queries/{query_id}/rows.json")
        assert [row["id"] for row in answered.json()] == list(range(ROWS))

        sql = f'select count(*) as n, sum(amount) as amount from results."{query_id}"'
        total = await ran(stub, sql, format=pb.RESULT_FORMAT_JSON_ARRAYS)
        assert total.page == f"[{ROWS},{sum(row['amount'] for row in expected)}]\n".encode()
        assert (await ran(stub)).reused
        rerun = await ran(stub, "", rerun_of=query_id)
        assert arrow_rows(await fetched(stub, rerun.query.query_id, limit=1)) == expected[:1]

        kit = await gateway.registry.get_kit(answer.query.kit_id)
        registered = next(job for job in kit.jobs if job.name == "register")
        assert (await finished(gateway.registry, registered)).status == FINISHED
        counted = await ran(stub, "select count(*) from rows", format=pb.RESULT_FORMAT_JSON_ARRAYS)
        assert counted.page == f"[{ROWS}]\n".encode()
    assert not (home.path / "artifacts" / "blobs").exists()
    for path in home.path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


async def test_a_result_is_read_and_repaired_without_one_of_two_stores(
    home: Home, moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    url = f"s3://{make_bucket(moto)}/data"
    monkeypatch.setenv("VISTAFLOW_STORES", f"a={tmp_path}/a,b={url}")
    monkeypatch.setenv("VISTAFLOW_COPIES", "2")
    bucket = open_store("b", url, environment(moto))
    async with home.serving() as stub:
        query = (await ran(stub)).query
        (sha256,) = home.blobs(query)
        copy = tmp_path / "a" / "cas" / sha256[:2] / sha256
        assert copy.exists()
        assert bucket.stat(sha256) is not None

        bucket.delete(sha256)
        assert arrow_rows(await fetched(stub, query.query_id)) == home.expected
        assert (await home.tidied()).restored == 1
        assert bucket.stat(sha256) is not None

        shutil.rmtree(tmp_path / "a")
        (tmp_path / "a").write_text("no folder")
        assert arrow_rows(await fetched(stub, query.query_id)) == home.expected
        # A new result needs two stores, so none is stored.
        sql = f'select count(*) from results."{query.query_id}"'
        request = pb.SubmitQueryRequest(user_query=sql)
        request.wait.FromSeconds(60)
        failed = (await stub.SubmitQuery(request)).query
        assert failed.status == common_pb2.STATUS_FAILED
        assert failed.error.reason == "STORE_UNAVAILABLE"
        assert str(tmp_path) not in failed.error.message
        assert not list((home.path / "artifacts" / "jobs" / failed.query_id).rglob("*.parquet"))
    (tmp_path / "a").unlink()
    assert (await home.tidied()).restored == 1
    assert copy.exists()


async def test_a_download_goes_on_after_a_restart_of_the_service(
    home: Home, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VISTAFLOW_STORES", f"cloud=s3://{make_bucket(moto)}/data")
    sql = (
        'select a.id, repeat(a.text, 20) as text from files."raw/rows.parquet" a'
        ' cross join files."raw/rows.parquet" b where b.id < 30 order by b.id, a.id'
    )
    json_lines = {"format": pb.RESULT_FORMAT_JSON_ARRAYS}
    async with home.serving() as stub:
        query = (await ran(stub, sql, **json_lines)).query
        assert query.row_count == 30 * ROWS
        request = pb.FetchResultRequest(query_id=query.query_id, **json_lines)
        content, offset, waiting = b"", 0, b""
        async for part in stub.FetchResult(request):
            waiting += part.data
            if part.next_offset:
                content, waiting, offset = content + waiting, b"", part.next_offset
                break
    assert 0 < offset < query.row_count
    async with home.serving() as stub:
        content += await fetched(stub, query.query_id, offset=offset, **json_lines)
    ids = [json.loads(line)[0] for line in content.splitlines()]
    assert ids == list(range(ROWS)) * 30


async def test_blobs_are_swept_with_their_result_and_results_from_before_stay_where_they_are(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with home.serving() as stub:
        before = (await ran(stub)).query
        assert (home.result(before) / "part-0000.parquet").exists()
    monkeypatch.setenv("VISTAFLOW_STORES", f"a={tmp_path}/a,b={tmp_path}/b")
    monkeypatch.setenv("VISTAFLOW_COPIES", "2")
    artifacts = ArtifactStore(home.path / "artifacts")
    async with home.serving() as stub:
        assert arrow_rows(await fetched(stub, before.query_id)) == home.expected
        assert (await ran(stub)).reused
        sql = f'select * from results."{before.query_id}" order by id limit 5'
        query, other = (await ran(stub, f"{SQL}, text")).query, (await ran(stub, sql)).query
        (sha256,), (stays,) = home.blobs(query), home.blobs(other)
        assert {blob.sha256 for blob in listed_blobs(artifacts.root)} == {sha256, stays}
        copies = [
            tmp_path / name / "cas" / blob[:2] / blob for name in "ab" for blob in (sha256, stays)
        ]
        for copy in copies:
            os.utime(copy, (0, 0))
        assert (await home.tidied()).swept == 0

        note = artifacts.root / "queries" / query.query_id
        os.utime(note, (0, 0))
        removed = remove_results(artifacts, 1)
        assert removed == (1, pytest.approx(query.size_bytes, abs=5_000))
        with pytest.raises(Exception, match="was removed; submit the query again"):
            await fetched(stub, query.query_id)
        assert (
            await stub.GetQuery(pb.GetQueryRequest(query_id=query.query_id))
        ).query.result_removed
        os.utime(copies[0])  # young: it stays
        assert (await home.tidied()).swept == 0
        os.utime(copies[0], (0, 0))
        tidied = await home.tidied()
        assert (tidied.swept, tidied.errors) == (1, [])
        assert [copy.exists() for copy in copies] == [False, True, False, True]
        assert arrow_rows(await fetched(stub, other.query_id)) == home.expected[:5]
