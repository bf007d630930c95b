"""A caller of DatasetService, and jobs that record versions."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.datasets.v1 import datasets_pb2 as pb
from vistaflow.api.datasets.v1.datasets_pb2_grpc import DatasetServiceStub
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow_services.datasets.manifest import (
    Column,
    Manifest,
    Part,
    Profile,
    QualityReport,
    Table,
    to_text,
)

ID = Column(name="id", type="BIGINT")


def sha(name: str) -> str:
    """The SHA-256 of a file, by a name of the test."""
    return hashlib.sha256(name.encode()).hexdigest()


def manifest(blobs: Mapping[str, int], *, rejects: Mapping[str, int] | None = None) -> Manifest:
    """One table with files by name and size, each of one row."""
    parts, rejected = (
        tuple(
            Part(sha256=sha(name), size_bytes=size, row_count=1, memory_bytes=size)
            for name, size in files.items()
        )
        for files in (blobs, rejects or {})
    )
    return Manifest(
        tables=(Table(name="t", columns=(ID,), primary_key=("id",), parts=parts, rejects=rejected),)
    )


def dumped(value: Manifest | QualityReport | Profile | None) -> bytes:
    """As a request holds it."""
    return to_text(value).encode() if value is not None else b""


@dataclass
class Client:
    """Calls of one caller."""

    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.datasets: Any = DatasetServiceStub(self.channel)
        self.registry: Any = RegistryServiceStub(self.channel)

    async def job(
        self,
        project: str = "",
        *,
        status: int = common.STATUS_RUNNING,
        job_type: int = common.JOB_TYPE_IMPORT,
    ) -> str:
        """A job of somebody outside, in a status."""
        new = registry_pb2.NewJob(name="import", job_type=job_type)
        kit = registry_pb2.CreateKitRequest(
            request_id=str(uuid.uuid4()), name="import", project=project, jobs=[new]
        )
        job_id: str = (await self.registry.CreateKit(kit)).kit.jobs[0].job_id
        await self.move(job_id, common.STATUS_RUNNING)
        if status != common.STATUS_RUNNING:
            await self.move(job_id, status)
        return job_id

    async def move(self, job_id: str, status: int) -> None:
        """Moves a job."""
        state = common.State(job_id=job_id, status=status)
        answer = await self.registry.AppendStates(registry_pb2.AppendStatesRequest(states=[state]))
        assert answer.results[0].verdict == registry_pb2.VERDICT_ACCEPTED, answer

    async def record(
        self,
        name: str,
        blobs: Mapping[str, int] | Manifest,
        *,
        project: str = "",
        job_id: str = "",
        report: QualityReport | None = None,
        profile: Profile | None = None,
        **fields: Any,
    ) -> pb.RecordDatasetVersionResponse:
        """Records a version, of a new job if none is given."""
        content = blobs if isinstance(blobs, Manifest) else manifest(blobs)
        answer: pb.RecordDatasetVersionResponse = await self.datasets.RecordDatasetVersion(
            pb.RecordDatasetVersionRequest(
                job_id=job_id or await self.job(project),
                dataset=name,
                manifest=dumped(content),
                report=dumped(report),
                profile=dumped(profile),
                **fields,
            )
        )
        return answer

    async def get(self, dataset: str, **fields: Any) -> pb.GetDatasetResponse:
        """A dataset and a version."""
        request = pb.GetDatasetRequest(dataset=dataset, **fields)
        answer: pb.GetDatasetResponse = await self.datasets.GetDataset(request)
        return answer

    async def numbers(self, dataset: str) -> list[int]:
        """The numbers of its versions, newest first."""
        request = pb.ListDatasetVersionsRequest(dataset=dataset)
        answer = await self.datasets.ListDatasetVersions(request)
        return [version.version for version in answer.versions]

    async def references(self, *names: str) -> list[str]:
        """Which of some files are referred to, by their names."""
        request = pb.FindReferencesRequest(sha256=[sha(name) for name in names])
        found = set((await self.datasets.FindReferences(request)).sha256)
        return [name for name in names if sha(name) in found]

    async def purge(self, *purged: str, unused: Sequence[str] = ()) -> list[str]:
        """What to purge next, after some files by their names were, and others are not needed."""
        request = pb.PurgeBlobsRequest(
            purged=[sha(name) for name in purged], unused=[sha(name) for name in unused]
        )
        return list((await self.datasets.PurgeBlobs(request)).due)

    async def pages(self, method: Any, request: Any, field: str) -> list[list[Any]]:
        """All pages of a list, each as large as a client without options takes."""
        listed = []
        while True:
            page = await method(request)
            listed.append(list(getattr(page, field)))
            if not page.next_page_token:
                return listed
            request.page_token = page.next_page_token


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call was refused, and why."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("it was not refused")


async def become(check: Callable[[], Awaitable[bool]], *, seconds: float = 60.0) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(seconds):
        while True:
            if await check():
                return
            await asyncio.sleep(0.01)
