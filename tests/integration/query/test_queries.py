"""Queries through gRPC, on a real registry: SQL in, stored results out."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import grpc
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
from google.protobuf import any_pb2

from tests.integration.conftest import serving  # type: ignore[import-not-found]
from tests.integration.stages import external, finished, refused, stage_serving
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.query.v1 import query_pb2 as pb
from vistaflow.api.query.v1 import query_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.query_results import Quota, remove_results
from vistaflow_services.datasets.manifest import Column, Manifest, Table, to_json
from vistaflow_services.datasets.parts import limited, store_parts
from vistaflow_services.query.__main__ import SERVICE
from vistaflow_services.query.config import Config
from vistaflow_services.query.tables import history
from vistaflow_services.stores.opening import declared_stores

pytestmark = pytest.mark.asyncio(loop_scope="module")

FINISHED, FAILED = common_pb2.STATUS_FINISHED, common_pb2.STATUS_FAILED
RUNNING, CANCELED = common_pb2.STATUS_RUNNING, common_pb2.STATUS_CANCELED
LONG = (
    "select count(*) from unnest(sequence(1, 1000000)) a(x), unnest(sequence(1, 1000000)) b(y)"
    " where x * y % 7 = 3"
)


@dataclass(frozen=True)
class Suite:
    """A registry and the query service, both serving, and a data root."""

    stub: rpc.QueryServiceAsyncStub
    registry: RegistryClient
    home: Path
    data: Path
    database: str

    async def run(self, sql: str, **fields: Any) -> pb.SubmitQueryResponse:
        """A query that has ended."""
        fields = {"reuse": pb.REUSE_POLICY_NEVER, "format": pb.RESULT_FORMAT_JSON_ARRAYS} | fields
        request = pb.SubmitQueryRequest(user_query=sql, **fields)
        request.wait.FromSeconds(60)
        answer: pb.SubmitQueryResponse = await self.stub.SubmitQuery(request)
        return answer

    async def rows(self, sql: str, **fields: Any) -> list[list[Any]]:
        """The rows of a query that must finish."""
        answer = await self.run(sql, **fields)
        assert answer.query.status == FINISHED, answer.query.error
        return [json.loads(line) for line in answer.page.splitlines()]

    async def until(self, query_id: str, status: int) -> None:
        """Waits until a query is in a status."""
        async with asyncio.timeout(120):
            while (await self.registry.get_job(query_id)).status != status:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def fetched(self, query_id: str, **fields: Any) -> bytes:
        """The bytes of a download."""
        request = pb.FetchResultRequest(query_id=query_id, **fields)
        return b"".join([part.data async for part in self.stub.FetchResult(request)])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Suite]:
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    with duckdb.connect() as db:
        db.execute(
            f"""COPY (SELECT i AS id, '리뷰 ' || i AS text, i % 5 + 1 AS stars,
                             2023 + i % 2 AS year, i % 12 + 1 AS month
                      FROM range(1200) t(i))
                TO '{data}/reviews' (FORMAT parquet, PARTITION_BY (year, month))"""
        )
    (data / "packed.csv.gz").write_bytes(gzip.compress("품목,price\n사과,1.10\n".encode()))
    (data / "prices.csv").write_text("품목,price\n사과,1.10\n배,\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTAFLOW_HOME", str(home))
        patch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={data},hr@people={home}")
        async with (
            serving(module_database) as serving_registry,
            stage_serving(
                SERVICE,
                Config(listen="127.0.0.1:0"),
                home=home,
                registry=serving_registry.address,
            ) as channel,
        ):
            registry = RegistryClient(serving_registry.address, actor="test")
            yield Suite(
                stub=rpc.QueryServiceStub(channel),
                registry=registry,
                home=home,
                data=data,
                database=module_database,
            )
            await registry.close()


async def test_a_query_goes_from_submission_to_its_rows(suite: Suite) -> None:
    answer = await suite.run(
        'select stars, count(*) as n from files."raw/reviews" r where r.year = :y'
        " group by stars order by stars limit 3",
        parameters=[pb.QueryParameter(name="y", type="BIGINT", value="2024")],
        labels={"team": "shop"},
    )

    query = answer.query
    assert query.status == FINISHED, query.error
    assert (query.row_count, query.limited, query.limit) == (3, True, 3)
    assert [(column.name, column.type) for column in query.columns] == [
        ("stars", "BIGINT"),
        ("n", "BIGINT"),
    ]
    assert answer.page == b"[1,120]\n[2,120]\n[3,120]\n"
    assert (query.result_name, dict(query.labels)) == (query.query_id, {"team": "shop"})
    assert [source.kind for source in query.sources] == ["files"]
    with psycopg.connect(suite.database, options="-csearch_path=vistadb_test") as db:
        row = db.execute(
            "SELECT status, user_query, offset_, limit_, result_name, result_path, rows, engine"
            "  FROM query_job WHERE id = %s",
            [query.query_id],
        ).fetchone()
    assert row is not None
    assert row[:4] == ("FINISHED", query.user_query, 0, 3)
    assert row[4:7] == (query.query_id, query.result_path, 3)
    assert row[7].startswith("duckdb")


async def test_every_format_has_the_same_rows_and_goes_on_at_any_row(suite: Suite) -> None:
    answer = await suite.run(
        "select id, cast(1.10 as decimal(10, 2)) as price, text, array[id, null] as ids,"
        " timestamp '2024-03-11 03:57:09.5' as at, nullif(id, 3) as holes"
        ' from files."raw/reviews/year=2023/**" where id < 10 order by id'
    )
    query_id = answer.query.query_id

    lines = (await suite.fetched(query_id, format=pb.RESULT_FORMAT_JSON_OBJECTS)).splitlines()
    assert len(lines) == answer.query.row_count == 5
    assert (
        lines[1]
        == (
            '{"id":2,"price":1.10,"text":"리뷰 2","ids":[2,null],"at":"2024-03-11T03:57:09.500000",'
            '"holes":2}'
        ).encode()
    )
    csv = await suite.fetched(query_id, format=pb.RESULT_FORMAT_CSV)
    assert csv.splitlines()[0] == b'"id","price","text","ids","at","holes"'
    table = pa.ipc.open_stream(await suite.fetched(query_id)).read_all()
    assert table.schema.field("price").type == pa.decimal128(10, 2)
    assert table["id"].to_pylist() == [0, 2, 4, 6, 8]
    parquet = pq.read_table(
        io.BytesIO(await suite.fetched(query_id, format=pb.RESULT_FORMAT_PARQUET))
    )
    assert parquet["text"].to_pylist() == table["text"].to_pylist()
    for offset in range(6):
        page = {"query_id": query_id, "offset": offset, "limit": 2}
        part = pa.ipc.open_stream(await suite.fetched(**page)).read_all()
        assert part["id"].to_pylist() == [0, 2, 4, 6, 8][offset : offset + 2]
        rest = await suite.fetched(**page, format=pb.RESULT_FORMAT_JSON_OBJECTS)
        assert rest.splitlines() == lines[offset : offset + 2]
        rest = await suite.fetched(**page, format=pb.RESULT_FORMAT_CSV, header=False)
        assert rest.splitlines() == csv.splitlines()[1 + offset : 3 + offset]


async def test_partitions_are_read_in_their_order(suite: Suite) -> None:
    rows = await suite.rows('select year, month from files."raw/reviews"', limit=1000)

    assert rows == sorted(rows)
    assert len(rows) == 1000


@pytest.mark.parametrize(
    ("sql", "place", "problem"),
    [
        ("select 1 fro m x", (1, 0), ""),
        ('select *\nfrom files."raw/missing.parquet"', (2, 6), "no file"),
        ('select stras from files."raw/reviews"', (1, 8), "stars"),
        ('select * from files."raw/../../etc/passwd"', (1, 15), ".."),
        ('select * from files."/etc/passwd"', (1, 15), "root"),
        ('select * from files."hr/artifacts"', (1, 15), ""),
        ("select * from nothing", (1, 15), "no table"),
        ("select * from kit_999.design", (1, 15), "no kit 999"),
        ("drop table x", (1, 0), ""),
        ("select 1; select 2", (1, 0), ""),
        ("select * from read_text('/etc/passwd')", (1, 0), ""),
    ],
)
async def test_a_mistake_is_found_before_anything_is_queued(
    suite: Suite, sql: str, place: tuple[int, int], problem: str
) -> None:
    valid = await suite.stub.ValidateQuery(pb.ValidateQueryRequest(user_query=sql))
    (error,) = valid.errors
    assert problem in error.message
    assert error.line == place[0]
    assert error.column == place[1] or not place[1]

    before = await suite.stub.ListQueries(pb.ListQueriesRequest())
    code, violations = await refused(suite.stub.SubmitQuery(pb.SubmitQueryRequest(user_query=sql)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message in violations["user_query"]
    after = await suite.stub.ListQueries(pb.ListQueriesRequest())
    assert len(after.queries) == len(before.queries)


async def test_a_valid_query_tells_its_columns_and_tables(suite: Suite) -> None:
    answer = await suite.stub.ValidateQuery(
        pb.ValidateQueryRequest(
            user_query='select price, 품목 as item from files."raw/prices.csv" limit 3 '
        )
    )

    assert not answer.errors
    assert [(column.name, column.type) for column in answer.columns] == [
        ("price", "VARCHAR"),
        ("item", "VARCHAR"),
    ]
    assert (answer.limit, answer.sources[0].target) == (3, "raw/prices.csv")
    assert await suite.rows('select * from files."raw/prices.csv"') == [
        ["사과", "1.10"],
        ["배", None],
    ]
    assert await suite.rows('select * from files."raw/packed.csv.gz"') == [["사과", "1.10"]]


async def test_a_result_is_reused_until_a_source_changes(suite: Suite) -> None:
    (suite.data / "small.csv").write_text("a\n1\n", encoding="ascii")
    sql, allow = 'select a from files."raw/small.csv"', {"reuse": pb.REUSE_POLICY_ALLOW}

    first = await suite.run(sql, **allow)
    again = await suite.run(sql, **allow)
    forced = await suite.run(sql, reuse=pb.REUSE_POLICY_NEVER)
    (suite.data / "small.csv").write_text("a\n22\n", encoding="ascii")
    changed = await suite.run(sql, **allow)
    random = [await suite.run("select random()", **allow) for _ in range(2)]

    assert not first.reused
    assert again.reused
    assert again.query.query_id == first.query.query_id
    assert again.page == first.page == b'["1"]\n'
    assert not forced.reused
    assert not changed.reused
    assert changed.page == b'["22"]\n'
    assert [answer.reused for answer in random] == [False, False]


async def test_a_request_id_makes_one_query(suite: Suite) -> None:
    request = pb.SubmitQueryRequest(user_query="select 41 + 1", request_id=str(uuid.uuid4()))

    first = await suite.stub.SubmitQuery(request)
    again = await suite.stub.SubmitQuery(request)
    other = pb.SubmitQueryRequest(user_query="select 43", request_id=request.request_id)

    assert again.query.query_id == first.query.query_id
    assert (await refused(suite.stub.SubmitQuery(other)))[0] is grpc.StatusCode.ALREADY_EXISTS


async def test_history_finds_queries_by_text_status_time_and_label(suite: Suite) -> None:
    label = {"run": uuid.uuid4().hex}
    one = (await suite.run("select 'needle one'", labels=label)).query
    two = (await suite.run("select\n  'needle TWO'", labels=label)).query

    async def found(**fields: Any) -> list[str]:
        listed = await suite.stub.ListQueries(pb.ListQueriesRequest(labels=label, **fields))
        return [query.query_id for query in listed.queries]

    assert await found() == [two.query_id, one.query_id]
    assert await found(text_contains="NEEDLE two") == [two.query_id]
    assert await found(text_contains="needle", created_after=two.created_at) == [two.query_id]
    assert await found(created_before=two.created_at) == [one.query_id]
    assert await found(statuses=[FAILED]) == []
    page = await suite.stub.ListQueries(pb.ListQueriesRequest(labels=label, page_size=1))
    rest = await suite.stub.ListQueries(
        pb.ListQueriesRequest(labels=label, page_size=1, page_token=page.next_page_token)
    )
    assert [query.query_id for query in (*page.queries, *rest.queries)] == [
        two.query_id,
        one.query_id,
    ]


async def test_a_running_query_is_canceled(suite: Suite) -> None:
    query = (await suite.stub.SubmitQuery(pb.SubmitQueryRequest(user_query=LONG))).query
    await suite.until(query.query_id, RUNNING)

    answer = await suite.stub.CancelQuery(pb.CancelQueryRequest(query_id=query.query_id))

    assert answer.query.status == CANCELED
    fetch = suite.stub.FetchResult(pb.FetchResultRequest(query_id=query.query_id))
    assert (await refused(fetch.read()))[0] is grpc.StatusCode.FAILED_PRECONDITION
    # Its place is free: the next query runs.
    assert await suite.rows("select 1") == [[1]]


async def test_callers_take_turns(suite: Suite) -> None:
    mine = [
        (await suite.stub.SubmitQuery(pb.SubmitQueryRequest(user_query=LONG))).query.query_id
        for _ in range(4)
    ]
    waiting = await suite.stub.GetQuery(pb.GetQueryRequest(query_id=mine[-1]))
    # What another caller's token would submit: the same query with another label.
    job = (await suite.registry.get_job(mine[0])).spec
    other = registry_pb2.NewJob(
        job_type=common_pb2.JOB_TYPE_QUERY, spec=job, labels={"query.caller": "another"}
    )
    request = registry_pb2.CreateJobRequest(job=other)
    other_id = (await suite.registry.create_job(request)).job.job_id
    try:
        assert waiting.query.queue_place > 1
        await suite.stub.CancelQuery(pb.CancelQueryRequest(query_id=mine[0]))
        await suite.until(other_id, RUNNING)
        left = [(await suite.registry.get_job(query_id)).status for query_id in mine[2:]]
        assert left == [common_pb2.STATUS_QUEUED] * 2
    finally:
        for query_id in (*mine[1:], other_id):
            await suite.stub.CancelQuery(pb.CancelQueryRequest(query_id=query_id))


async def test_a_caller_runs_no_more_queries_than_its_limit(suite: Suite) -> None:
    first = (await suite.stub.SubmitQuery(pb.SubmitQueryRequest(user_query=LONG))).query.query_id
    spec = (await suite.registry.get_job(first)).spec
    await suite.stub.CancelQuery(pb.CancelQueryRequest(query_id=first))

    async def submitted(caller: str) -> str:
        job = registry_pb2.NewJob(
            job_type=common_pb2.JOB_TYPE_QUERY,
            spec=spec,
            labels={"query.caller": caller, "query.most_running": "1"},
        )
        answer = await suite.registry.create_job(registry_pb2.CreateJobRequest(job=job))
        return answer.job.job_id

    eager = [await submitted("eager") for _ in range(3)]
    try:
        await suite.until(eager[0], RUNNING)
        # There is room for two, and this one came last.
        late = await submitted("late")
        eager.append(late)
        await suite.until(late, RUNNING)
        left = [(await suite.registry.get_job(query_id)).status for query_id in eager[1:3]]
        assert left == [common_pb2.STATUS_QUEUED] * 2
        await suite.stub.CancelQuery(pb.CancelQueryRequest(query_id=eager[0]))
        await suite.until(eager[1], RUNNING)
    finally:
        for query_id in eager[1:]:
            await suite.stub.CancelQuery(pb.CancelQueryRequest(query_id=query_id))


async def test_the_oldest_results_over_the_quota_are_removed(suite: Suite) -> None:
    artifacts = ArtifactStore(suite.home / "artifacts")
    remove_results(artifacts, -1)
    done = [(await suite.run(f"select {number} as n")).query for number in range(3)]
    quota = Quota(artifacts, done[1].size_bytes + done[2].size_bytes)

    removed = [quota.sweep(), quota.sweep(), Quota(artifacts, 1).sweep()]

    states = [
        (await suite.stub.GetQuery(pb.GetQueryRequest(query_id=query.query_id))).query
        for query in done
    ]
    assert removed == [1, 0, 1]
    assert [state.result_removed for state in states] == [True, True, False]


async def test_a_removed_result_stays_in_the_history_and_runs_again(suite: Suite) -> None:
    first = (await suite.run("select 7 as seven")).query
    assert remove_results(ArtifactStore(suite.home / "artifacts"), -1).files > 0

    gone = (await suite.stub.GetQuery(pb.GetQueryRequest(query_id=first.query_id))).query
    fetch = suite.stub.FetchResult(pb.FetchResultRequest(query_id=first.query_id))
    code, _ = await refused(fetch.read())
    again = await suite.run("", rerun_of=first.query_id)

    assert gone.result_removed
    assert gone.user_query == "select 7 as seven"
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert (again.page, again.query.rerun_of) == (b"[7]\n", first.query_id)


async def test_results_of_jobs_are_tables(suite: Suite) -> None:
    made = await external(suite.registry, "DOE", {"x": 1})
    folder = suite.home / "artifacts" / "jobs" / made.job_id / "1"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"h": [1.5, 2.5]}), folder / "design.parquet")
    uri = f"artifact://jobs/{made.job_id}/1/design.parquet"
    design = await external(suite.registry, "DOE", {"design": {"uri": uri, "sha256": "x"}})
    query = (await suite.run("select 3 as three")).query

    assert await suite.rows(f"select sum(h) from kit_{design.kit_id}.design") == [[4.0]]
    assert await suite.rows(f"select count(*) from kit_{design.kit_id}.responses") == [[2]]
    assert await suite.rows(f'select three from results."{query.query_id}"') == [[3]]


async def test_a_query_that_the_service_did_not_make_is_not_run(suite: Suite) -> None:
    query = (await suite.run("select 1")).query
    spec = pb.QuerySpec()
    assert (await suite.registry.get_job(query.query_id)).spec.Unpack(spec)
    spec.project = "people"
    packed = any_pb2.Any()
    packed.Pack(spec)
    job = registry_pb2.NewJob(job_type=common_pb2.JOB_TYPE_QUERY, spec=packed)

    made = await suite.registry.create_job(registry_pb2.CreateJobRequest(job=job))

    ended = await finished(suite.registry, made.job)
    assert (ended.status, "NOT_SIGNED" in ended.reason) == (FAILED, True)


async def test_a_source_that_changed_meanwhile_fails_the_query(suite: Suite) -> None:
    blockers = [
        (await suite.stub.SubmitQuery(pb.SubmitQueryRequest(user_query=LONG))).query.query_id
        for _ in range(2)
    ]
    (suite.data / "brief.csv").write_text("a\n1\n", encoding="ascii")
    sql = 'select a from files."raw/brief.csv"'
    query = (await suite.stub.SubmitQuery(pb.SubmitQueryRequest(user_query=sql))).query
    (suite.data / "brief.csv").unlink()
    for blocker in blockers:
        await suite.stub.CancelQuery(pb.CancelQueryRequest(query_id=blocker))

    await finished(suite.registry, common_pb2.Job(job_id=query.query_id))
    failed = (await suite.stub.GetQuery(pb.GetQueryRequest(query_id=query.query_id))).query

    assert (failed.status, failed.error.reason) == (FAILED, "SOURCE_GONE")
    assert str(suite.data) not in failed.error.message


async def test_a_dataset_is_read_at_the_version_that_was_latest(suite: Suite) -> None:
    blobs = declared_stores("", 1, suite.home / "artifacts" / "blobs")

    async def record(stars: list[int]) -> int:
        path = suite.data / f"{uuid.uuid4()}.parquet"
        pq.write_table(pa.table({"stars": pa.array(stars, pa.int64())}), path)
        parts = store_parts(blobs, [path], limited(None))
        columns = (Column(name="stars", type="BIGINT"),)
        table = Table(name="reviews", columns=columns, parts=parts)
        job = await external(suite.registry, "IMPORT")
        request = datasets_pb2.RecordDatasetVersionRequest(
            job_id=job.job_id,
            dataset="reviews",
            manifest=json.dumps(to_json(Manifest(tables=(table,)))).encode(),
        )
        answer = await suite.registry.call(suite.registry.datasets.RecordDatasetVersion, request)
        return int(answer.version.version)

    assert await record([1, 2, 3]) == 1
    first = await suite.run("select sum(stars) from reviews", reuse=pb.REUSE_POLICY_ALLOW)
    again = await suite.run("select sum(stars) from reviews", reuse=pb.REUSE_POLICY_ALLOW)
    assert await record([10]) == 2
    newer = await suite.run("select sum(stars) from reviews", reuse=pb.REUSE_POLICY_ALLOW)

    assert (first.page, again.reused) == (b"[6]\n", True)
    assert (newer.page, newer.reused) == (b"[10]\n", False)
    assert newer.query.sources[0].target.endswith("reviews@2")
    with psycopg.connect(suite.database, options="-csearch_path=vistadb_test") as db:
        model = db.execute(
            "SELECT fully_qualified_name, version FROM fusion_model WHERE job_id = %s",
            [newer.query.query_id],
        ).fetchone()
        queued = db.execute(
            "SELECT model_name_fqn, from_fqn, command FROM model_queue WHERE job_id = %s",
            [newer.query.query_id],
        ).fetchall()
    assert model is not None
    assert model[0].endswith(".reviews")
    assert model[1].startswith("2:")
    assert [row[1:] for row in queued] == [(model[0], "LINEAGE")]
    assert await suite.rows('select sum(a.stars), sum(b.stars) from "reviews@1" a, reviews b') == [
        [6, 30]
    ]
    assert await suite.rows("select count(*) from reviews.reviews") == [[1]]
    (error,) = (
        await suite.stub.ValidateQuery(pb.ValidateQueryRequest(user_query="select 1 from revews"))
    ).errors
    assert "`reviews`" in error.message


async def test_the_log_and_the_jobs_are_tables_up_to_one_revision(suite: Suite) -> None:
    query = (await suite.run("select 5")).query

    log = await suite.run(
        "select l.status from state.log l"
        f" where l.kit_id = {query.kit_id} and l.task_name = '' order by l.revision"
    )
    jobs = await suite.rows(
        "select job_type, status, json_extract_scalar(result, '$.rows') from state.jobs"
        f" where kit_id in ({query.kit_id})"
    )

    assert [json.loads(line)[0] for line in log.page.splitlines()][-2:] == ["RUNNING", "FINISHED"]
    assert int(log.query.sources[0].version.partition(":")[0]) > 0
    assert jobs == [["QUERY", "FINISHED", "1"]]
    whole = await suite.rows("select count(*), count(distinct kit_id) from state.log")
    assert whole[0][1] > 1


@pytest.mark.parametrize("table", ["log", "jobs"])
async def test_too_many_rows_of_the_log_are_refused_with_the_filter_to_add(
    suite: Suite, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = (await suite.run("select 6")).query
    await suite.run("select 7")
    monkeypatch.setattr(history, "MAX_ROWS", 5 if table == "log" else 1)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.run(f"select count(*) from state.{table}")
    counts = await suite.rows(
        f"select count(*) > 0 from vistaflow.state.{table} where kit_id = {query.kit_id}"
    )

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "add a condition on kit_id, such as kit_id = 7" in str(caught.value.details())
    assert counts == [[True]]


async def test_json_files_are_tables(suite: Suite) -> None:
    (suite.data / "lines.ndjson").write_text(
        '{"품목": "사과", "n": 1, "tags": ["a"]}\n{"품목": "배", "n": 2.5}\n', encoding="utf-8"
    )
    (suite.data / "array.json").write_text('[{"n": 9007199254740993, "at": {"x": 1}}]')
    (suite.data / "none.json").write_text("{nothing")

    assert await suite.rows('select "품목", n, tags from files."raw/lines.ndjson" order by n') == [
        ["사과", 1.0, ["a"]],
        ["배", 2.5, None],
    ]
    assert await suite.rows('select n, at.x from files."raw/array.json"') == [[2**53 + 1, 1]]
    _, violations = await refused(suite.run('select 1 from files."raw/none.json"'))
    assert "is no JSON" in str(violations)
    # One beside tables of another format is none of them.
    folder = suite.data / "described"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    (folder / "part.csv").write_text("n\n1\n")
    assert await suite.rows('select n from files."raw/described"') == [["1"]]


async def test_tables_are_found_by_their_full_names(suite: Suite) -> None:
    first = (await suite.run("select 3 as three")).query.query_id
    read = await suite.run(f'select three from results."{first}"')
    with psycopg.connect(suite.database, options="-csearch_path=vistadb_test") as db:
        ((full,),) = db.execute(
            "SELECT fully_qualified_name FROM fusion_model WHERE job_id = %s",
            [read.query.query_id],
        )
        written = db.execute(
            "SELECT from_fqn FROM model_queue WHERE job_id = %s", [read.query.query_id]
        ).fetchall()

    assert written == [(full,)]
    for name in (
        f'vistaflow.results.shop."{first}"',
        f'vistaflow.results."{first}"',
    ):
        assert await suite.rows(f"select three from {name}") == [[3]]
    assert await suite.rows(
        'select count(*) from vistaflow.files."raw/prices.csv" where price is not null'
    ) == [[1]]
