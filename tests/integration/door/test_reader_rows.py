"""A reader reads the rows of the final version by gRPC, HTTP, Python and the command, no others."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from keys import Keys, code_of

from tests.integration.gateway.readers import gateway_serving
from tests.integration.stages import finished, stage_serving
from vistaflow.aio import connect
from vistaflow.api.artifacts.v1 import artifacts_pb2
from vistaflow.api.artifacts.v1.artifacts_pb2_grpc import ArtifactServiceStub
from vistaflow.api.common.v1 import access_pb2, common_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.datasets.v1.datasets_pb2_grpc import DatasetServiceStub
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1.ingestion_pb2_grpc import IngestionServiceStub
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.outbox.v1.outbox_pb2_grpc import OutboxServiceStub
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow.errors import NotFoundError
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.ingestion.__main__ import SERVICE
from vistaflow_services.ingestion.config import Config

FINAL = [{"name": "가", "price": 1}, {"name": "b", "price": 2}]
DENIED = grpc.StatusCode.PERMISSION_DENIED
ABSENT = grpc.StatusCode.NOT_FOUND


async def imported(keys: Keys, channel: grpc.aio.Channel, data: Path) -> common_pb2.Job:
    """Two versions of a dataset, of which the first is final, and another dataset; the last job."""
    worker = RegistryClient(keys.registry.address)
    datasets = DatasetServiceStub(keys.channel(await keys.make("ADMIN")))
    for number, name in enumerate(("whisky", "whisky", "secret")):
        rows = "name,price\n" + "".join(f"{row['name']},{row['price'] + number}\n" for row in FINAL)
        (data / f"{number}.csv").write_text(rows)
        source = pb.RowSource(files=pb.RowFiles(file_names=[f"raw/{number}.csv"]))
        table = pb.ImportTable(source=source, primary_key=["name"])
        spec = pb.ImportSpec(dataset=name, tables=[table])
        request = pb.ImportDatasetRequest(spec=spec)
        job = (await IngestionServiceStub(channel).ImportDataset(request)).job
        job = await finished(worker, job)
        assert job.status == common_pb2.STATUS_FINISHED, job.reason
    for dataset in ("mine.whisky", "mine.secret"):
        final = datasets_pb2.SetDatasetAliasRequest(dataset=dataset, alias="final", version=1)
        await datasets.SetDatasetAlias(final)
    await worker.close()
    return job


async def test_a_reader_reads_the_rows_of_the_final_version_everywhere(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, data = keys.registry.address, tmp_path / "data"
    data.mkdir()
    made = registry_pb2.CreateTokenRequest(
        name="shop", role=access_pb2.ROLE_READER, scopes=["dataset:mine.whisky@final:read"]
    )
    token = (await (await keys.stub("ADMIN")).CreateToken(made)).secret
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={data}")
    monkeypatch.setenv("VISTAFLOW_TOKEN", await keys.make("WORKER"))
    config = Config(listen="127.0.0.1:0", sweep_seconds=0, warm=False)
    async with (
        stage_serving(SERVICE, config, home=tmp_path, registry=address),
        gateway_serving(address, tmp_path) as served,
    ):
        ingestion = await ingestion_of(keys)
        job = await imported(keys, keys.channel(await keys.make("EDITOR", "mine"), ingestion), data)

        # gRPC
        reader = keys.channel(token, ingestion)
        stub, registry = IngestionServiceStub(reader), keys.channel(token)
        stream = stub.ReadDataset(pb.ReadDatasetRequest(dataset="mine.whisky"))
        content = b"".join([answer.data async for answer in stream])
        assert pa.ipc.open_stream(content).read_all().to_pylist() == FINAL
        for name in ("mine.whisky@2", "mine.secret", "mine.never"):
            call = stub.ReadDataset(pb.ReadDatasetRequest(dataset=name))
            assert await code_of(call) is ABSENT, name
        rejects = stub.ReadDataset(pb.ReadDatasetRequest(dataset="mine.whisky", rejects=True))
        assert await code_of(rejects) is DENIED
        for method, request in (
            (DatasetServiceStub(registry).ListDatasets, datasets_pb2.ListDatasetsRequest()),
            (
                DatasetServiceStub(registry).ListDatasetVersions,
                datasets_pb2.ListDatasetVersionsRequest(dataset="mine.whisky"),
            ),
            (RegistryServiceStub(registry).ListKits, registry_pb2.ListKitsRequest()),
            (RegistryServiceStub(registry).ListStates, registry_pb2.ListStatesRequest()),
            (RegistryServiceStub(registry).WatchStates, registry_pb2.WatchStatesRequest()),
            (RegistryServiceStub(registry).GetJob, registry_pb2.GetJobRequest(job_id=job.job_id)),
            # Lineage and events for webhooks are deliveries of the outbox.
            (OutboxServiceStub(registry).ListDeliveries, outbox_pb2.ListDeliveriesRequest()),
            (
                ArtifactServiceStub(reader).ListArtifacts,
                artifacts_pb2.ListArtifactsRequest(uri=f"artifact://jobs/{job.job_id}"),
            ),
            (
                ArtifactServiceStub(reader).ReadLogs,
                artifacts_pb2.ReadLogsRequest(job_id=job.job_id),
            ),
        ):
            assert await code_of(method(request)) is DENIED, request

        # HTTP
        async def got(path: str) -> tuple[int, bytes]:
            headers = {"authorization": f"Bearer {token}"}
            answer = await served.http.get(f"/v1/{path}", headers=headers)
            return answer.status_code, answer.content

        rows = "datasets/mine.whisky/rows"
        assert await got(f"{rows}.csv") == (200, '"name","price"\n"가",1\n"b",2\n'.encode())
        _, content = await got(f"{rows}.json")
        assert json.loads(content) == FINAL
        _, content = await got(f"{rows}.parquet")
        assert pq.read_table(io.BytesIO(content)).to_pylist() == FINAL
        _, content = await got(f"{rows}.arrow")
        assert pa.ipc.open_stream(content).read_all().to_pylist() == FINAL
        for path in ("datasets/mine.whisky@2/rows.csv", "datasets/mine.secret/rows.csv"):
            assert (await got(path))[0] == 404, path
        for path in (
            "datasets",
            "kits",
            "jobs",
            "events",
            "deliveries",
            f"jobs/{job.job_id}",
            f"jobs/{job.job_id}/logs",
            f"artifacts?uri=artifact://jobs/{job.job_id}",
        ):
            assert (await got(path))[0] == 403, path

        # Python and the command
        async with connect(address, token=token) as client:
            dataset = await client.dataset("mine.whisky")
            assert (await dataset.to_arrow()).to_pylist() == FINAL
            with pytest.raises(NotFoundError):
                await client.dataset("mine.secret")
        assert await printed(address, token, "mine.whisky") == (0, FINAL)
        code, shown = await printed(address, token, "mine.secret")
        assert (code != 0, shown) == (True, [])


async def ingestion_of(keys: Keys) -> str:
    """Where ingestion listens."""
    stub = await keys.stub("ADMIN")
    async with asyncio.timeout(60):
        while True:
            info = await stub.GetServerInfo(registry_pb2.GetServerInfoRequest())
            for service in info.services:
                if service.name == "ingestion":
                    return str(service.address)
            await asyncio.sleep(0.05)


async def printed(address: str, token: str, dataset: str) -> tuple[int, list[object]]:
    """The status of `dataset read`, and the rows that it prints."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "vistaflow.cli.app", "dataset", "read", dataset, "--json"],
        env={**os.environ, "VISTAFLOW_REGISTRY": address, "VISTAFLOW_TOKEN": token},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]
