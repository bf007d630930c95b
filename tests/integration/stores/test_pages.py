"""Collected pages in a bucket: stored by a job whose environment has no credentials, and read."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from tests.integration.stages import finished, stage_serving
from tests.integration.stores.conftest import environment, make_bucket
from tests.site import serving_site  # type: ignore[import-not-found]
from vistaflow.api.artifacts.v1.artifacts_pb2 import ReadArtifactRequest
from vistaflow.api.artifacts.v1.artifacts_pb2_grpc import ArtifactServiceStub
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.ingestion.__main__ import SERVICE
from vistaflow_services.ingestion.config import Config
from vistaflow_services.pages.plan import read_pages

PAGE = "<li><b>글렌피딕</b></li>"


async def test_pages_are_stored_in_a_bucket_and_read_from_there(
    registry: str, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VISTAFLOW_STORES", f"cloud=s3://{make_bucket(moto)}/pages")
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path))
    client = RegistryClient(registry)
    with serving_site() as site:
        monkeypatch.setenv("VISTAFLOW_INGESTION_COLLECT_HOSTS", site.place)
        monkeypatch.setenv("VISTAFLOW_INGESTION_COLLECT_DELAY_SECONDS", "0")
        config = Config(listen="127.0.0.1:0", sweep_seconds=0, collect_hosts=(site.place,))
        site.html("/1", PAGE)
        html = pb.HtmlRows(rows="li", columns=[pb.PageColumn(name="name", selector="b")])
        spec = pb.CollectSpec(name="shop", urls=[f"{site.url}/1"], html=html)
        async with stage_serving(SERVICE, config, home=tmp_path, registry=registry) as channel:
            ingestion, results = rpc.IngestionServiceStub(channel), []
            for _ in range(2):
                job = (await ingestion.CollectPages(pb.CollectPagesRequest(spec=spec))).job
                job = await finished(client, job)
                assert job.status == common_pb2.STATUS_FINISHED, job.reason
                results.append(MessageToDict(job.result))
            folder = tmp_path / "artifacts" / "jobs" / job.job_id / "collection"
            (page,) = read_pages(folder / "pages.jsonl")
            name = f"{page.sha256[:2]}/{page.sha256[2:]}"
            uri = f"artifact://jobs/{job.job_id}/collection/content/{name}"
            stream = ArtifactServiceStub(channel).ReadArtifact(ReadArtifactRequest(uri=uri))
            content = b"".join([answer.data async for answer in stream])
    await client.close()

    assert content.decode() == PAGE
    assert [(result["rows"], result["unchanged"]) for result in results] == [(1, 0), (1, 1)]
    assert not (folder / "content").exists()
    assert not (tmp_path / "artifacts" / "blobs").exists()
