"""Collections of pages through gRPC, on real services, from a site on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
import pytest_asyncio

from tests.integration.stages import finished, refused, stage_serving
from tests.site import Answer, Asked, Site, serving_site  # type: ignore[import-not-found]
from vistaflow.api.artifacts.v1.artifacts_pb2 import ReadArtifactRequest
from vistaflow.api.artifacts.v1.artifacts_pb2_grpc import ArtifactServiceStub
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.config import read_config
from vistaflow_services.core.registry_client import RegistryClient, struct_to_dict
from vistaflow_services.ingestion.__main__ import SERVICE
from vistaflow_services.ingestion.config import Config
from vistaflow_services.pages.plan import read_pages

pytestmark = pytest.mark.asyncio(loop_scope="module")

WHISKY = (
    '<table><tr class=w><td class=n><a href="/w/1">글렌피딕</a><td class=p>60,500 원</tr>'
    '<tr class=w><td class=n><a href="/w/2">라가불린</a><td class=p>110,000 원</tr></table>'
)


@dataclass(frozen=True)
class Suite:
    """A registry and ingestion, both serving, and a site that may be collected from."""

    ingestion: rpc.IngestionServiceAsyncStub
    artifacts: Any
    registry: RegistryClient
    site: Site
    home: Path

    async def collect(self, spec: pb.CollectSpec) -> common_pb2.Job:
        """Starts a collection."""
        answer = await self.ingestion.CollectPages(pb.CollectPagesRequest(spec=spec))
        return answer.job

    async def collected(self, spec: pb.CollectSpec) -> tuple[common_pb2.Job, dict[str, Any]]:
        """A collection once it has ended, and its result."""
        job = await finished(self.registry, await self.collect(spec))
        return job, struct_to_dict(job.result)

    async def page(self, job_id: str, sha256: str) -> bytes:
        """A page of a collection as its artifact."""
        uri = f"artifact://jobs/{job_id}/collection/content/{sha256[:2]}/{sha256[2:]}"
        stream = self.artifacts.ReadArtifact(ReadArtifactRequest(uri=uri))
        return b"".join([answer.data async for answer in stream])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    module_registry: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Suite]:
    home = tmp_path_factory.mktemp("home")
    with serving_site() as site, pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTAFLOW_HOME", str(home))
        patch.setenv("VISTAFLOW_STORES", f"one={home / 'one'},two={home / 'two'}")
        patch.setenv("VISTAFLOW_COPIES", "2")
        # Only the tests repair and sweep.
        patch.setenv("VISTAFLOW_INGESTION_SWEEP_SECONDS", "0")
        patch.setenv("VISTAFLOW_INGESTION_LISTEN", "127.0.0.1:0")
        patch.setenv("VISTAFLOW_INGESTION_COLLECT_HOSTS", f"{site.place},localhost")
        patch.setenv("VISTAFLOW_INGESTION_COLLECT_DELAY_SECONDS", "0")
        config = read_config(Config, "VISTAFLOW_INGESTION_")
        async with stage_serving(SERVICE, config, home=home, registry=module_registry) as channel:
            registry = RegistryClient(module_registry, actor="test")
            artifacts = ArtifactServiceStub(channel)
            yield Suite(rpc.IngestionServiceStub(channel), artifacts, registry, site, home)
            await registry.close()


def whisky(site: Site, path: str, **options: Any) -> pb.CollectSpec:
    columns = [
        pb.PageColumn(name="name", selector=".n"),
        pb.PageColumn(name="url", selector="a", attribute="href", type=pb.PAGE_VALUE_URL),
        pb.PageColumn(name="price", selector=".p", type=pb.PAGE_VALUE_NUMBER),
    ]
    html = pb.HtmlRows(rows="tr.w", columns=columns, next="a.next")
    return pb.CollectSpec(urls=[f"{site.url}{path}"], html=html, **options)


@pytest.mark.parametrize("format", [pb.ROW_FORMAT_JSON, pb.ROW_FORMAT_PARQUET])
async def test_a_collection_is_imported_and_the_next_one_fetches_what_changed(
    suite: Suite, format: pb.RowFormat
) -> None:
    name, site = f"whisky_{format}", suite.site
    site.html("/whisky", WHISKY, charset="euc-kr", **{"Content-Type": "text/html; charset=euc-kr"})
    spec = whisky(site, "/whisky", name=name, format=format)

    job, first = await suite.collected(spec)
    _, second = await suite.collected(spec)

    assert job.status == common_pb2.STATUS_FINISHED, job.reason
    counts = [(each["pages"], each["rows"], each["unchanged"]) for each in (first, second)]
    assert counts == [(1, 2, 0), (1, 2, 1)]
    source = pb.RowSource(collection=pb.JobTable(job_id=second["result_path"].split("/")[-2]))
    table = pb.ImportTable(source=source, primary_key=["url"])
    imported = await suite.ingestion.ImportDataset(
        pb.ImportDatasetRequest(spec=pb.ImportSpec(dataset=name, tables=[table]))
    )
    done = await finished(suite.registry, imported.job)
    assert done.status == common_pb2.STATUS_FINISHED, done.reason
    stream = suite.ingestion.ReadDataset(pb.ReadDatasetRequest(dataset=name))
    data = b"".join([answer.data async for answer in stream])
    assert pa.ipc.open_stream(data).read_all().to_pylist() == [
        {"name": "글렌피딕", "url": f"{site.url}/w/1", "price": 60500},
        {"name": "라가불린", "url": f"{site.url}/w/2", "price": 110000},
    ]


async def test_a_collection_is_converted_as_rows_and_as_pages(suite: Suite) -> None:
    body = json.dumps(
        [{"id": number, "tags": [{"t": 1}, {"t": 2}]} for number in range(3)]
    ).encode()
    suite.site.pages["/list"] = (200, {}, body)
    spec = pb.CollectSpec(urls=[f"{suite.site.url}/list"], json=pb.JsonRows())
    job, _ = await suite.collected(spec)
    tables = {}
    for pages in (False, True):
        request = pb.ConvertJsonRequest(
            collection=pb.CollectedJson(job_id=job.job_id, pages=pages), output_file_name="x"
        )
        started = (await suite.ingestion.ConvertJson(request)).job
        done = await finished(suite.registry, started)
        assert done.status == common_pb2.STATUS_FINISHED, done.reason
        question = pb.GetConversionRequest(job_id=started.job_id)
        answer = await suite.ingestion.GetConversion(question)
        tables[pages] = {table.table: table.rows for table in answer.tables}
        assert answer.request.collection == request.collection
    assert tables[False] == tables[True] == {"": 3, "tags": 6}

    absent = "6f1c8a52-0000-4000-8000-000000000000"
    for name, code in (
        (started.job_id, grpc.StatusCode.INVALID_ARGUMENT),  # no COLLECT job
        ("", grpc.StatusCode.INVALID_ARGUMENT),
        (absent, grpc.StatusCode.NOT_FOUND),
    ):
        request.collection.job_id = name
        assert (await refused(suite.ingestion.ConvertJson(request)))[0] is code


async def test_an_erasure_names_its_collections_and_old_pages_are_removed(suite: Suite) -> None:
    suite.site.html("/persons", WHISKY)
    spec = whisky(suite.site, "/persons", name="persons")
    job, result = await suite.collected(spec)
    source = pb.RowSource(collection=pb.JobTable(job_id=job.job_id))
    tables = [pb.ImportTable(source=source, primary_key=["name"])]
    request = pb.ImportDatasetRequest(spec=pb.ImportSpec(dataset="persons", tables=tables))
    await finished(suite.registry, (await suite.ingestion.ImportDataset(request)).job)
    for name in ("글렌피딕", "라가불린"):  # the second one from a version that an erasure made
        forgotten = await suite.ingestion.ForgetRecords(
            pb.ForgetRecordsRequest(dataset="persons", keys=[pb.RecordKey(values=[name])])
        )
        done = await finished(suite.registry, forgotten.job)
        assert done.status == common_pb2.STATUS_FINISHED, done.reason
        assert struct_to_dict(done.result)["collections"] == [job.job_id]

    folder = suite.home / "artifacts" / "jobs" / job.job_id / "collection"
    (page,) = read_pages(folder / "pages.jsonl")
    copies = [
        suite.home / store / "cas" / page.sha256[:2] / page.sha256 for store in ("one", "two")
    ]
    assert all(path.read_text() == WHISKY for path in copies)

    # A store that lost its copy gets it from the other; meanwhile that one is read.
    copies[0].unlink()
    assert await suite.page(job.job_id, page.sha256) == WHISKY.encode()
    await repaired(suite.registry.address)
    assert copies[0].read_text() == WHISKY
    other, _ = await suite.collected(pb.CollectSpec(urls=[f"{suite.site.url}/persons"]))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await suite.page(other.job_id, "0" * 64)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND

    old = time.time() - 91 * 86_400
    for path in (*folder.iterdir(), *copies):
        os.utime(path, (old, old))
    outcome = await repaired(suite.registry.address)
    assert (outcome["collections"], all(path.exists() for path in copies)) == (1, True)
    assert (await repaired(suite.registry.address))["collections"] == 0
    shutil.rmtree(folder.parents[1] / other.job_id)  # the other collection that names the page
    assert (await repaired(suite.registry.address))["swept"] >= 1
    assert not any(path.exists() for path in copies)
    assert {path.name for path in folder.iterdir()} >= {"pages.jsonl", "rows_1.jsonl"}
    _, again = await suite.collected(spec)
    assert (result["rows"], again["rows"], again["unchanged"]) == (2, 2, 0)


async def repaired(registry: str) -> dict[str, Any]:
    """What the operator's command did."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vistaflow_services.ingestion.repair"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "VISTAFLOW_REGISTRY": registry},
    )
    output, _ = await process.communicate()
    outcome = json.loads(output)
    assert outcome["errors"] == []
    return dict(outcome)


async def test_every_mistake_of_a_request_is_named_before_anything_is_queued(
    suite: Suite,
) -> None:
    columns = [
        pb.PageColumn(name="a", selector="td:nope("),
        pb.PageColumn(name="A", pattern="("),
    ]
    spec = pb.CollectSpec(
        name="No Name",
        urls=[f"{suite.site.url}/x", "https://elsewhere.example/", "ftp://localhost/"],
        html=pb.HtmlRows(rows="", columns=columns),
        format=pb.ROW_FORMAT_CSV,
        max_pages=10**9,
        max_failed_share=2,
    )
    code, violations = await refused(
        suite.ingestion.CollectPages(pb.CollectPagesRequest(spec=spec))
    )

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert sorted(violations) == [
        "spec.format",
        "spec.html.columns[0].selector",
        "spec.html.columns[1].name",
        "spec.html.columns[1].pattern",
        "spec.html.rows",
        "spec.max_failed_share",
        "spec.max_pages",
        "spec.name",
        "spec.urls[1]",
        "spec.urls[2]",
    ]
    assert "VISTAFLOW_INGESTION_COLLECT_HOSTS" in violations["spec.urls[1]"]
    numbers = pb.PageNumbers(url=f"{suite.site.url}/list", first=3, last=2)
    code, violations = await refused(
        suite.ingestion.CollectPages(
            pb.CollectPagesRequest(spec=pb.CollectSpec(pages=numbers, urls=["http://localhost/"]))
        )
    )
    assert sorted(violations) == ["spec.pages.last", "spec.pages.url", "spec.urls"]


async def test_a_job_past_the_service_collects_from_no_other_host(suite: Suite) -> None:
    new = registry_pb2.NewJob(job_type=common_pb2.JOB_TYPE_COLLECT)
    new.spec.Pack(pb.CollectSpec(urls=["http://127.0.0.1:1/"]))
    answer = await suite.registry.create_job(registry_pb2.CreateJobRequest(job=new))
    forged = await finished(suite.registry, answer.job)
    private, _ = await suite.collected(pb.CollectSpec(urls=["http://localhost/"]))

    assert (forged.status, private.status) == (common_pb2.STATUS_FAILED,) * 2
    assert "127.0.0.1:1 is no host that the operator lets be called" in forged.reason
    assert "localhost has no public address" in private.reason


async def test_a_killed_collection_goes_on_and_a_canceled_one_ends(suite: Suite) -> None:
    site, waiting = suite.site, asyncio.Event()
    loop = asyncio.get_running_loop()
    free = threading.Event()

    def slow(asked: Asked) -> Answer:
        loop.call_soon_threadsafe(waiting.set)
        free.wait(60)
        return 200, {}, WHISKY.encode()

    site.html("/first", WHISKY + '<a class=next href="/slow">more</a>')
    site.pages["/slow"] = slow
    site.paths()
    job = await suite.collect(whisky(site, "/first"))
    await waiting.wait()
    kill(job.job_id)
    free.set()
    done = await finished(suite.registry, job)

    assert done.status == common_pb2.STATUS_FINISHED, done.reason
    assert struct_to_dict(done.result)["rows"] == 4
    assert site.paths().count("/first") == 1

    free.clear()
    waiting.clear()
    job = await suite.collect(whisky(site, "/slow"))
    await waiting.wait()
    await suite.registry.call(
        suite.registry.stub.CancelJob, registry_pb2.CancelJobRequest(job_id=job.job_id)
    )
    canceled = await finished(suite.registry, job)
    free.set()
    assert canceled.status == common_pb2.STATUS_CANCELED


def kill(job_id: str) -> None:
    """Kills the process that collects: it holds the lock of the job's folder."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            links = [os.readlink(link) for link in (folder / "fd").iterdir()]
        except OSError:
            continue
        if any(f"{job_id}/collection/lock" in link for link in links):
            os.kill(int(folder.name), signal.SIGKILL)
            return
    raise AssertionError("no process has the lock")
