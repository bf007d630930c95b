"""Datasets through gRPC, on real services: sources in, versions out, rows read and forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator
from csv import DictReader
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import obstore
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
from google.protobuf import any_pb2, duration_pb2

from tests.disks import small_disk
from tests.integration.conftest import serving  # type: ignore[import-not-found]
from tests.integration.stages import external, finished, kill, refused, stage_serving, until
from tests.integration.stores.conftest import environment, make_bucket, moto
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.core.registry_client import RegistryClient, struct_to_dict
from vistaflow_services.ingestion.__main__ import SERVICE
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.datasets.stores import stores_of
from vistaflow_services.stores.inputs import client_of
from vistaflow_services.stores.roots import Roots
from vistaflow_services.suite.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

__all__ = ["moto"]

AGAIN = """
import json, sys
from pathlib import Path
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt
from vistaflow_services.ingestion.jobs import JOBS

home, registry, kit_id, job_id, kind, spec = sys.argv[1:]
artifacts = ArtifactStore(Path(home) / "artifacts")
attempt = Attempt(
    kit_id=int(kit_id), job_id=job_id, number=2, artifacts=artifacts, registry=registry,
    folder=artifacts.open_prefix(job_id, 2),
    spec=getattr(pb, kind).FromString(bytes.fromhex(spec)),
)
print(json.dumps(JOBS["IMPORT"](attempt)))
"""
"""Does a job again whose process was killed after it had recorded its version."""

LARGE = 200_000
"""Rows of a file that takes a while."""

WHISKY = """id,name,age,price
1,글렌피딕,12,60.5
2,Lagavulin,16,110
2,Lagavulin,16,105
3,=cheap,3,-1
4,,18,200
"""
NOTES = """note,whisky,taster
a,1,kim
b,2,lee
c,9,kim
"""


@dataclass(frozen=True)
class Suite:
    """A registry and ingestion, both serving, a data root and three stores."""

    ingestion: rpc.IngestionServiceAsyncStub
    registry: RegistryClient
    home: Path
    data: Path
    stores: Path
    database: str
    metrics: str

    def scratch(self, job_id: str, attempt: int) -> bool:
        """Whether an attempt has temporary files."""
        return (self.home / "scratch" / "datasets" / f"{job_id}-{attempt}").exists()

    async def repaired(self) -> dict[str, Any]:
        """What the operator's command did."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vistaflow_services.ingestion.repair", "--verify"),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "VISTAFLOW_REGISTRY": self.registry.address},
        )
        output, _ = await process.communicate()
        outcome: dict[str, Any] = json.loads(output)
        return outcome

    @contextlib.asynccontextmanager
    async def no_records(self) -> AsyncIterator[None]:
        """Has calls that record versions wait until the block ends."""
        async with await psycopg.AsyncConnection.connect(self.database) as connection:
            key = "vistaflow datasets vistadb_test default"
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [key])
            yield

    async def again(self, job: common_pb2.Job) -> dict[str, Any]:
        """The result of a job that is done again although it has recorded its version."""
        kind = job.spec.TypeName().rpartition(".")[2]
        arguments = (str(job.kit_id), job.job_id, kind, job.spec.value.hex())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", AGAIN, str(self.home), self.registry.address, *arguments),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        result: dict[str, Any] = json.loads(output)
        return result

    async def job(self, job: common_pb2.Job) -> common_pb2.Job:
        """A job once it has ended."""
        return await finished(self.registry, job)

    async def imported(self, spec: pb.ImportSpec) -> dict[str, Any]:
        """The result of an import, which must end well."""
        answer = await self.ingestion.ImportDataset(pb.ImportDatasetRequest(spec=spec))
        job = await self.job(answer.job)
        assert job.status == common_pb2.STATUS_FINISHED, job.reason
        return struct_to_dict(job.result)

    async def read(self, dataset: str, **options: Any) -> bytes:
        """The bytes of rows of a dataset."""
        request = pb.ReadDatasetRequest(dataset=dataset, **options)
        return b"".join([answer.data async for answer in self.ingestion.ReadDataset(request)])

    async def rows(self, dataset: str, **options: Any) -> list[dict[str, Any]]:
        """Rows of a dataset."""
        rows: list[dict[str, Any]] = (
            pa.ipc.open_stream(await self.read(dataset, **options)).read_all().to_pylist()
        )
        return rows

    async def dataset(self, name: str) -> datasets_pb2.GetDatasetResponse:
        """A dataset as the registry has it."""
        request = datasets_pb2.GetDatasetRequest(dataset=name)
        return await self.registry.call(self.registry.datasets.GetDataset, request)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    module_database: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[Suite]:
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    stores = tmp_path_factory.mktemp("stores")
    (data / "whisky.csv").write_text(WHISKY, encoding="utf-8")
    (data / "notes.csv").write_text(NOTES, encoding="utf-8")
    with (data / "large.csv").open("w", encoding="utf-8") as file:
        file.write("id,name,value\n")
        file.writelines(f"{number},name {number},{number / 7}\n" for number in range(LARGE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTAFLOW_HOME", str(home))
        patch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={data}")
        urls = {name: str(stores / name) for name in "abc"}
        if importlib.util.find_spec("moto"):  # otherwise the third store is a folder, too
            server = request.getfixturevalue("moto")
            urls["c"] = f"s3://{make_bucket(server)}/data"
            patch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={data},lake=s3://{make_bucket(server)}/in")
            for name, value in environment(server).items():
                patch.setenv(f"C_{name}", value)
                patch.setenv(f"LAKE_{name}", value)
        patch.setenv("VISTAFLOW_STORES", ",".join(f"{name}={url}" for name, url in urls.items()))
        patch.setenv("VISTAFLOW_COPIES", "2")
        config = Config(
            listen="127.0.0.1:0",
            metrics_listen=f"127.0.0.1:{free_port()}",
            sweep_seconds=600,
        )
        async with (
            serving(module_database) as serving_registry,
            stage_serving(SERVICE, config, home=home, registry=serving_registry.address) as channel,
        ):
            registry = RegistryClient(serving_registry.address, actor="test")
            yield Suite(
                ingestion=rpc.IngestionServiceStub(channel),
                registry=registry,
                home=home,
                data=data,
                stores=stores,
                database=module_database,
                metrics=config.metrics_listen,
            )
            await registry.close()


def blobs(store: Path) -> set[str]:
    """The hashes of the blobs in a folder."""
    return {path.name for path in (store / "cas").glob("*/*")}


def files(*names: str, **options: Any) -> pb.RowSource:
    return pb.RowSource(files=pb.RowFiles(file_names=names, **options))


def whisky(name: str) -> pb.ImportSpec:
    """Two tables, of which one refers to the other."""
    reference = datasets_pb2.DatasetReference(columns=["whisky"], table="bottles", key=["id"])
    return pb.ImportSpec(
        dataset=name,
        tables=[
            pb.ImportTable(
                name="bottles",
                source=files("raw/whisky.csv"),
                primary_key=["id"],
                dedupe=pb.Dedupe(keep=pb.DEDUPE_KEEP_BEST, by="-price"),
                rules=[
                    pb.QualityRule(name="positive", expression="price > 0"),
                    pb.QualityRule(name="named", column="name", not_null=True, pattern="\\S.*"),
                ],
            ),
            pb.ImportTable(
                name="notes",
                source=files("raw/notes.csv"),
                primary_key=["note"],
                references=[reference],
            ),
        ],
        alias="stable",
    )


async def test_tables_become_a_version_with_a_report_and_can_be_read(suite: Suite) -> None:
    result = await suite.imported(whisky("whisky"))

    assert (result["dataset"], result["version"]) == ("whisky", 1)
    assert (result["accepted"], result["rejected"]) == (5, 3)
    assert result["name"] == "default.whisky@1"
    answer = await suite.dataset("whisky@stable")
    tables = {table.name: table for table in answer.tables}
    assert dict(tables["bottles"].rejected) == {"positive": 1, "named": 1, "duplicate": 1}
    assert dict(tables["notes"].orphans) == {"whisky -> bottles.id": 1}
    assert tables["bottles"].profiled
    assert await suite.rows("whisky", columns=["price", "id"], filter="age >= 12") == [
        {"price": 60.5, "id": 1},
        {"price": 105.0, "id": 2},
    ]
    assert await suite.read("whisky", encoding=pb.ROW_ENCODING_CSV, limit=1) == (
        '"id","name","age","price"\n1,"글렌피딕",12,60.5\n'.encode()
    )
    lines = (await suite.read("whisky", encoding=pb.ROW_ENCODING_JSON, offset=1)).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": 2, "name": "Lagavulin", "age": 16, "price": 105.0}
    ]
    rejects = await suite.rows("whisky@1", rejects=True, columns=["_rule", "_row"])
    assert [reject["_rule"] for reject in rejects] == ["duplicate", "positive", "named"]
    empty = await suite.read("whisky", filter="id > 100")
    assert pa.ipc.open_stream(empty).read_all().schema.names == ["id", "name", "age", "price"]


async def test_a_conversion_becomes_tables_that_refer_to_each_other(suite: Suite) -> None:
    records = [
        {"user": number, "_rule": f"=r{number}", "orders": [{"price": 1.5, "tags": [{"t": "a"}]}]}
        for number in range(3)
    ]
    (suite.data / "users.json").write_text(json.dumps(records), encoding="utf-8")
    for kind in (pb.TABLE_FORMAT_CSV, pb.TABLE_FORMAT_PARQUET):
        answer = await suite.ingestion.ConvertJson(
            pb.ConvertJsonRequest(
                file_names=["raw/users.json"], output_file_name="users", format=kind
            )
        )
        await suite.job(answer.job)
        result = await suite.imported(pb.ImportSpec(dataset="users", conversion=answer.job_id))
        assert result["accepted"] == 9

        tables = {table.name: table for table in (await suite.dataset("users")).tables}
        assert list(tables) == ["users", "orders", "orders_tags"]
        assert [dict(table.orphans) for table in tables.values()] == [
            {},
            {"_parent -> users._record": 0},
            {"_parent -> orders._record": 0},
        ]
        rows = await suite.rows("users")
        assert [(row["user"], row["_rule_"]) for row in rows] == [(n, f"=r{n}") for n in range(3)]
        source = pb.RowSource(conversion=pb.JobTable(job_id=answer.job_id, table="orders"))
        table = pb.ImportTable(source=source)
        assert (await suite.imported(pb.ImportSpec(dataset="orders", tables=[table])))["rows"] == 3

    for guard, cell in ((None, "'=r0"), (True, "'=r0"), (False, "=r0")):
        csv = await suite.read("users", encoding=pb.ROW_ENCODING_CSV, formula_guard=guard)
        assert cell in next(iter(DictReader(csv.decode().splitlines()))).values()


async def test_files_that_were_converted_apart_are_refused_before_anything_is_queued(
    suite: Suite,
) -> None:
    for name in ("apart1.json", "apart2.json"):
        (suite.data / name).write_text('[{"a": 1}]', encoding="ascii")
    request = pb.ConvertJsonRequest(
        file_names=["raw/apart1.json", "raw/apart2.json"], output_file_name="apart"
    )
    job = (await suite.ingestion.ConvertJson(request)).job
    await suite.job(job)
    table = pb.ImportTable(source=pb.RowSource(conversion=pb.JobTable(job_id=job.job_id)))
    for spec in (
        pb.ImportSpec(dataset="apart", conversion=job.job_id),
        pb.ImportSpec(dataset="apart", tables=[table]),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="convert them again with `merge`") as raised:
            await suite.ingestion.ImportDataset(pb.ImportDatasetRequest(spec=spec))
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_designs_queries_and_datasets_are_sources(suite: Suite) -> None:
    table = pa.table({"x.a": [1.0, 2.0], "y.b": [None, 3.0]})
    # A job's files lie below its own folder, so it is made first.
    for kind, job_type in (("design", "DOE"), ("query", "QUERY")):
        job = await external(suite.registry, job_type)
        folder = suite.home / "artifacts" / "jobs" / job.job_id / "1"
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "rows.parquet")
        digest = hashlib.sha256((folder / "rows.parquet").read_bytes()).hexdigest()
        (folder / "parts.json").write_text(json.dumps({"parts": [{"name": "rows.parquet"}]}))
        file = {"uri": f"artifact://jobs/{job.job_id}/1/rows.parquet", "sha256": digest}
        result = {
            "design": {"design": file, "space": {}, "responses": []},
            "query": {"result_path": f"artifact://jobs/{job.job_id}/1"},
        }
        row = common_pb2.State(job_id=job.job_id, status=common_pb2.STATUS_FINISHED, seq=2)
        row.metadata.update({"result": result[kind]})
        await suite.registry.append([row])
        source = pb.RowSource(**{kind: pb.JobTable(job_id=job.job_id)})
        tables = [pb.ImportTable(source=source)]
        await suite.imported(pb.ImportSpec(dataset="rows", tables=tables))
        assert await suite.rows("rows") == table.to_pylist()
    source = pb.RowSource(dataset=pb.DatasetRows(dataset="rows@1"))
    rule = pb.QualityRule(name="complete", column="y.b", not_null=True)
    tables = [pb.ImportTable(source=source, rules=[rule])]
    await suite.imported(pb.ImportSpec(dataset="clean", tables=tables, skip_profile=True))
    assert await suite.rows("clean") == table.to_pylist()[1:]
    version = (await suite.dataset("clean")).version
    assert (version.source, version.rejected_rows) == ("dataset rows@1", 1)


async def test_every_mistake_is_named_before_anything_is_queued(suite: Suite) -> None:
    reference = datasets_pb2.DatasetReference(columns=["a"], table="nowhere", key=["b", "c"])
    table = pb.ImportTable(
        name="Ä",
        source=files("raw/whisky.csv", format=pb.ROW_FORMAT_JSON, delimiter="x"),
        references=[reference],
        primary_key=["a", "A"],
        dedupe=pb.Dedupe(keep=pb.DEDUPE_KEEP_NEWEST),
        rules=[
            pb.QualityRule(name="a", expression="(SELECT 1)"),
            pb.QualityRule(name="a", column="x", pattern="("),
            pb.QualityRule(name="type", expression="1 = 1"),
            pb.QualityRule(name="b"),
        ],
        types={"a": "BLOB"},
    )
    spec = pb.ImportSpec(dataset="A", alias="latest", tables=[table, pb.ImportTable(name="t")])
    code, violations = await refused(
        suite.ingestion.ImportDataset(pb.ImportDatasetRequest(spec=spec))
    )
    first = "spec.tables[0]"
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(violations) == {
        "spec.dataset",
        "spec.alias",
        f"{first}.name",
        f"{first}.primary_key",
        f"{first}.types.a",
        f"{first}.references[0].table",
        f"{first}.references[0].key",
        f"{first}.dedupe.by",
        f"{first}.rules[0].expression",
        f"{first}.rules[1].name",
        f"{first}.rules[1].pattern",
        f"{first}.rules[2].name",
        f"{first}.rules[3]",
        f"{first}.source.files.delimiter",
        "spec.tables[1].source",
    }
    running = await external(suite.registry, "CONVERT")
    design = await external(suite.registry, "DOE", {})
    for source, expected in (
        (files("raw/../x"), grpc.StatusCode.INVALID_ARGUMENT),
        (files("raw/absent.csv"), grpc.StatusCode.NOT_FOUND),
        (pb.RowSource(dataset=pb.DatasetRows(dataset="absent")), grpc.StatusCode.NOT_FOUND),
        (pb.RowSource(design=pb.JobTable(job_id=str(uuid.uuid4()))), grpc.StatusCode.NOT_FOUND),
        (
            pb.RowSource(conversion=pb.JobTable(job_id=running.job_id)),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        (
            pb.RowSource(query=pb.JobTable(job_id=design.job_id)),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ):
        spec = pb.ImportSpec(dataset="a", tables=[pb.ImportTable(source=source)])
        code, _ = await refused(suite.ingestion.ImportDataset(pb.ImportDatasetRequest(spec=spec)))
        assert code is expected, source
    await suite.imported(
        pb.ImportSpec(dataset="a", tables=[pb.ImportTable(source=files("raw/notes.csv"))])
    )
    for options in (
        {"columns": ["b"]},
        {"filter": "b > 1"},
        {"filter": "note > 1 AND"},
        {"offset": -1},
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await suite.read("a", **options)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_result_of_another_job_or_a_path_is_not_read(suite: Suite) -> None:
    secret = suite.home / "artifacts" / "jobs" / str(uuid.uuid4()) / "conversion"
    secret.mkdir(parents=True)
    (secret / "x.manifest.json").write_text("{}")
    for output, manifest in (
        (f"artifact://jobs/{secret.parent.name}/conversion", "x.manifest.json"),
        ("raw", "../x.manifest.json"),
        ("raw/..", "x.manifest.json"),
    ):
        job = await external(suite.registry, "CONVERT", {"output": output, "manifest": manifest})
        spec = pb.ImportSpec(dataset="stolen", conversion=job.job_id)
        code, _ = await refused(suite.ingestion.ImportDataset(pb.ImportDatasetRequest(spec=spec)))
        assert code in {
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
        }


async def test_a_mistake_in_the_data_fails_the_job_with_its_place_and_no_path(suite: Suite) -> None:
    (suite.data / "broken.csv").write_text("a,b\n1,2\n1,2,3\n", encoding="utf-8")
    table = pb.ImportTable(source=files("raw/broken.csv"))
    for tables, place in (
        ([table], "spec.tables[0].source.files: line 3 has 3 values, not 2"),
        (
            [pb.ImportTable(source=files("raw/notes.csv"), primary_key=["x"])],
            "spec.tables[0].primary_key[0]",
        ),
    ):
        answer = await suite.ingestion.ImportDataset(
            pb.ImportDatasetRequest(spec=pb.ImportSpec(dataset="broken", tables=tables))
        )
        job = await suite.job(answer.job)
        assert job.status == common_pb2.STATUS_FAILED
        assert place in job.reason
        assert str(suite.data) not in job.reason
    assert not list((suite.home / "scratch" / "datasets").iterdir())


async def test_records_are_forgotten_in_every_version_and_no_key_is_recorded(suite: Suite) -> None:
    await suite.imported(whisky("private"))
    await suite.imported(whisky("private"))
    alias = datasets_pb2.SetDatasetAliasRequest(dataset="private", alias="first", version=1)
    await suite.registry.call(suite.registry.datasets.SetDatasetAlias, alias)
    request = pb.ForgetRecordsRequest(
        request_id=str(uuid.uuid4()),
        dataset="private",
        table="notes",
        columns=["taster"],
        keys=[pb.RecordKey(values=["kim"])],
    )
    answer = await suite.ingestion.ForgetRecords(request)
    again = await suite.ingestion.ForgetRecords(request)
    job = await suite.job(answer.job)

    assert again.job.job_id == answer.job.job_id
    assert job.status == common_pb2.STATUS_FINISHED, job.reason
    result = struct_to_dict(job.result)
    assert (result["version"], result["removed"], result["versions"]) == (3, {"notes": 2}, [2, 1])
    assert result["removed_aliases"] == ["first"]  # `stable` moves to the new version
    assert await suite.again(job) == result
    assert "kim" not in str(job)
    assert b"kim" not in job.SerializeToString()
    assert [row["taster"] for row in await suite.rows("private", table="notes")] == ["lee"]
    assert await suite.rows("private@stable") == await suite.rows("private@3")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await suite.read("private@1")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    spec = any_pb2.Any()
    spec.Pack(pb.ForgetSpec(request=pb.ForgetRecordsRequest(dataset="private")))
    new = registry_pb2.NewJob(job_type=common_pb2.JOB_TYPE_IMPORT, spec=spec)
    created = await suite.registry.create_job(registry_pb2.CreateJobRequest(job=new))
    assert "NOT_SEALED" in (await suite.job(created.job)).reason


async def test_an_upload_is_a_source(suite: Suite) -> None:
    data = b"a;b\n1;x\n"
    header = pb.UploadHeader(
        upload_id=uuid.uuid4().hex,
        file_name="/home/me/x.csv",
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    messages = [pb.UploadFileRequest(header=header), pb.UploadFileRequest(data=data)]
    await suite.ingestion.UploadFile(iter(messages))
    table = pb.ImportTable(source=files(f"upload:{header.upload_id}"))
    await suite.imported(pb.ImportSpec(dataset="sent", tables=[table]))
    assert await suite.rows("sent") == [{"a": 1, "b": "x"}]


async def test_an_object_of_a_bucket_is_a_source(suite: Suite) -> None:
    roots = Roots.parse(os.environ["VISTAFLOW_DATA_ROOTS"])
    if len(roots.visible("default")) == 1:
        pytest.skip("moto is not installed: pip install 'moto[s3,server]'")
    entry = roots.resolve("lake/x.ndjson", "default")
    data = b'{"a": 1, "b": [1]}\n{"a": 18446744073709551616}\n'
    await obstore.put_async(client_of(entry, ""), str(entry.path), data)
    table = pb.ImportTable(source=files("lake/x.ndjson"), types={"a": "HUGEINT"})
    await suite.imported(pb.ImportSpec(dataset="objects", tables=[table]))
    lines = (await suite.read("objects", encoding=pb.ROW_ENCODING_JSON)).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"a": 1, "b": "[1]"},
        {"a": 2**64, "b": None},
    ]
    assert not list((suite.home / "scratch" / "datasets").glob("*.ndjson"))


async def test_a_killed_import_is_done_again_and_makes_one_version(suite: Suite) -> None:
    table = pb.ImportTable(source=files("raw/large.csv"))
    spec = pb.ImportSpec(dataset="killed", tables=[table])
    job = (await suite.ingestion.ImportDataset(pb.ImportDatasetRequest(spec=spec))).job
    await until(lambda: suite.scratch(job.job_id, 1))
    kill(suite.home, job.job_id, 1)
    async with suite.no_records():

        async def recording() -> bool:
            tasks = (await suite.registry.get_job(job.job_id)).tasks
            return any(task.task_name == "record" and task.attempt == 2 for task in tasks)

        await until(recording)
        kill(suite.home, job.job_id, 2)
    done = await suite.job(job)

    assert (done.status, done.attempt) == (common_pb2.STATUS_FINISHED, 3), done.reason
    request = datasets_pb2.ListDatasetVersionsRequest(dataset="killed")
    page = await suite.registry.call(suite.registry.datasets.ListDatasetVersions, request)
    assert [(version.version, version.rows) for version in page.versions] == [(1, LARGE)]
    assert not suite.scratch(job.job_id, 3)
    assert await suite.again(done) == struct_to_dict(done.result)


async def test_a_full_disk_fails_an_import_and_its_retry_makes_the_version(suite: Suite) -> None:
    texts = "".join(f"{number},{os.urandom(500).hex()}\n" for number in range(8_000))
    (suite.data / "random.csv").write_text(f"id,text\n{texts}", encoding="ascii")
    spec = pb.ImportSpec(dataset="full", tables=[pb.ImportTable(source=files("raw/random.csv"))])
    with small_disk(suite.home / "scratch" / "datasets", 2):
        answer = await suite.ingestion.ImportDataset(pb.ImportDatasetRequest(spec=spec))
        failed = await suite.job(answer.job)
    assert failed.status == common_pb2.STATUS_FAILED
    assert "DISK_FULL" in failed.reason
    assert "free some space, then retry the job" in failed.reason
    assert str(suite.home) not in failed.reason
    with pytest.raises(NotFoundError):
        await suite.dataset("full")

    await suite.registry.stub.RetryJob(registry_pb2.RetryJobRequest(job_id=failed.job_id))
    done = await suite.job(failed)
    assert (done.status, done.attempt) == (common_pb2.STATUS_FINISHED, 2), done.reason
    assert (await suite.dataset("full")).version.rows == 8_000


async def test_a_canceled_import_ends_and_leaves_nothing(suite: Suite) -> None:
    table = pb.ImportTable(source=files("raw/large.csv"))
    spec = pb.ImportSpec(dataset="canceled", tables=[table])
    job = (await suite.ingestion.ImportDataset(pb.ImportDatasetRequest(spec=spec))).job
    async with suite.no_records():
        await until(lambda: suite.scratch(job.job_id, 1))
        await suite.registry.stub.CancelJob(registry_pb2.CancelJobRequest(job_id=job.job_id))
        await until(lambda: not suite.scratch(job.job_id, 1))
    assert (await suite.job(job)).status == common_pb2.STATUS_CANCELED


async def test_a_read_ends_with_its_call(suite: Suite) -> None:
    def open_reads() -> list[Path]:
        return list((suite.home / "scratch" / "datasets").glob("read-*"))

    table = pb.ImportTable(source=files("raw/large.csv"))
    await suite.imported(pb.ImportSpec(dataset="large", tables=[table], skip_profile=True))
    request = pb.ReadDatasetRequest(dataset="large", encoding=pb.ROW_ENCODING_JSON)
    calls = [suite.ingestion.ReadDataset(request) for _ in range(3)]
    for call in calls:
        assert len((await call.read()).data) <= 1 << 20
    assert len(open_reads()) == 3
    # Readers that take their time do not hold up others.
    assert len(await suite.rows("large", columns=["id"])) == LARGE
    for call in calls:
        call.cancel()
    await until(lambda: not open_reads())


async def test_stores_are_probed_and_tidied_while_ingestion_serves(suite: Suite) -> None:
    def tidied() -> bool:
        with urllib.request.urlopen(f"http://{suite.metrics}/metrics") as page:
            lines = page.read().decode().splitlines()
        figures = dict(line.rsplit(" ", 1) for line in lines if line.startswith("vistaflow_stores"))
        return float(figures["vistaflow_stores_tidied_timestamp_seconds"]) > 0

    async def done() -> bool:
        return await asyncio.to_thread(tidied)

    await until(done)
    state = json.loads((suite.home / "run" / "stores.json").read_bytes())
    assert [text.partition(":")[0] for text in state["stores"]] == ["store a", "store b", "store c"]
    assert (state["errors"], state["lost"]) == ([], 0)


async def test_without_one_store_everything_reads_and_repair_restores_it(suite: Suite) -> None:
    await suite.imported(whisky("copied"))
    before = await suite.read("copied")
    # Of all that is in the stores, what belongs to a version is restored.
    request = datasets_pb2.GetDatasetRequest(dataset="copied", with_manifest=True)
    answer = await suite.registry.call(suite.registry.datasets.GetDataset, request)
    tables = json.loads(answer.manifest)["tables"]
    parts = {part["sha256"] for table in tables for part in table["parts"]}
    copies = {name: blobs(suite.stores / name) & parts for name in "ab"}
    shutil.rmtree(suite.stores / "a")

    assert await suite.read("copied") == before
    await suite.imported(whisky("meanwhile"))
    outcome = await suite.repaired()
    # The import and the service's own round may have restored some of it before.
    assert (outcome["lost"], outcome["errors"]) == ([], [])
    assert blobs(suite.stores / "a") >= copies["a"]
    shutil.rmtree(suite.stores / "b")
    assert await suite.read("copied") == before
    assert await suite.rows("meanwhile") == await suite.rows("copied")
    await suite.repaired()
    assert blobs(suite.stores / "b") >= copies["b"]


async def test_forgotten_and_unreferenced_files_go_and_others_stay(suite: Suite) -> None:
    (suite.data / "one.csv").write_text("id,name\n1,canary\n", encoding="utf-8")
    table = pb.ImportTable(source=files("raw/one.csv"), primary_key=["id"])
    await suite.imported(pb.ImportSpec(dataset="purged", tables=[table]))
    request = datasets_pb2.GetDatasetRequest(dataset="purged", with_manifest=True)
    answer = await suite.registry.call(suite.registry.datasets.GetDataset, request)
    (held,) = (part["sha256"] for part in json.loads(answer.manifest)["tables"][0]["parts"])
    await suite.imported(whisky("kept"))
    stray = hashlib.sha256(b"stray").hexdigest()
    for name in "ab":
        folder = suite.stores / name / "cas" / stray[:2]
        folder.mkdir(exist_ok=True)
        (folder / stray).write_bytes(b"stray")
        for path in (suite.stores / name / "cas").glob("*/*"):
            os.utime(path, (0, 0))
    kept = await suite.read("kept")
    forgotten = await suite.ingestion.ForgetRecords(
        pb.ForgetRecordsRequest(
            dataset="purged",
            keys=[pb.RecordKey(values=["1"])],
            purge_after=duration_pb2.Duration(),
        )
    )
    job = await suite.job(forgotten.job)
    assert struct_to_dict(job.result)["files"] == 1, job.reason
    assert await suite.rows("purged") == []

    outcome = await suite.repaired()
    assert (outcome["purged"], outcome["swept"], outcome["errors"]) == (1, 1, [])
    assert not {held, stray} & (blobs(suite.stores / "a") | blobs(suite.stores / "b"))
    assert await suite.read("kept") == kept


async def test_a_lost_file_is_data_loss_and_a_deleted_dataset_is_absent(suite: Suite) -> None:
    (suite.data / "lost.csv").write_text("id\n4711\n", encoding="utf-8")
    spec = pb.ImportSpec(
        dataset="lost", tables=[pb.ImportTable(source=files("raw/lost.csv"))], skip_profile=True
    )
    await suite.imported(spec)
    request = datasets_pb2.GetDatasetRequest(dataset="lost", with_manifest=True)
    answer = await suite.registry.call(suite.registry.datasets.GetDataset, request)
    (sha256,) = (part["sha256"] for part in json.loads(answer.manifest)["tables"][0]["parts"])
    await asyncio.to_thread(stores_of(suite.home).delete, sha256)
    for code in (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.NOT_FOUND):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await suite.read("lost")
        assert raised.value.code() is code
        assert sha256 not in str(raised.value.details())
        deletion = datasets_pb2.DeleteDatasetRequest(dataset="lost")
        with contextlib.suppress(NotFoundError):
            await suite.registry.call(suite.registry.datasets.DeleteDataset, deletion)
