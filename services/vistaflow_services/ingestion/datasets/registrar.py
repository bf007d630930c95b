"""The registry as a job asks it, which is a process without an event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Self

from google.protobuf.message import Message

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import ConflictError, NotFoundError
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.datasets.manifest import DatasetVersion, Manifest, from_json

PATIENCE_SECONDS = 3_600.0
"""How long a job waits for a registry that is away: less than the grace time of unreferenced blobs,
so that what it stored before is still there."""

PAGE = 1_000

LIVE = (common_pb2.STATUS_INIT, common_pb2.STATUS_QUEUED, common_pb2.STATUS_RUNNING)
"""Statuses of jobs that are not over."""


class Registrar:
    """Calls of one job, in its own name: with the token of the service.

    Args:
        address: Where the registry listens.
        patience: Seconds that it waits for one that is away.
    """

    def __init__(self, address: str, patience: float = PATIENCE_SECONDS) -> None:
        self._address = address
        self._patience = patience
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._client = self._runner.run(self._connect())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    async def _connect(self) -> RegistryClient:
        return RegistryClient(self._address or None, actor="ingestion")

    def project_of(self, kit_id: int) -> str:
        """The project of a kit."""
        request = registry_pb2.GetKitRequest(kit_id=kit_id, page_size=1)
        answer = self._call(lambda client: client.stub.GetKit, request)
        return str(answer.kit.project)

    def live_jobs(self) -> set[str]:
        """The ids of the jobs that are not over."""
        request = registry_pb2.ListJobsRequest(statuses=LIVE, page_size=PAGE)
        job_ids = set[str]()
        while True:
            page = self._call(lambda client: client.stub.ListJobs, request)
            job_ids.update(job.job_id for job in page.jobs)
            request.page_token = page.next_page_token
            if not request.page_token:
                return job_ids

    def dataset(self, name: str, *, with_manifest: bool = True) -> datasets_pb2.GetDatasetResponse:
        """A dataset and a version of it.

        Args:
            name: `PROJECT.NAME`, `PROJECT.NAME@3` or `PROJECT.NAME@ALIAS`.
            with_manifest: Whether to get the manifest, too.

        Raises:
            NotFoundError: There is none.
        """
        request = datasets_pb2.GetDatasetRequest(dataset=name, with_manifest=with_manifest)
        answer: datasets_pb2.GetDatasetResponse = self._call(
            lambda client: client.datasets.GetDataset, request
        )
        return answer

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Has an alias of `PROJECT.NAME` name a version."""
        request = datasets_pb2.SetDatasetAliasRequest(dataset=name, alias=alias, version=version)
        self._call(lambda client: client.datasets.SetDatasetAlias, request)

    def listed(self, project: str, name: str) -> Iterator[datasets_pb2.DatasetVersion]:
        """All versions of a dataset, the newest first."""
        request = datasets_pb2.ListDatasetVersionsRequest(
            dataset=f"{project}.{name}", page_size=PAGE
        )
        while True:
            page = self._call(lambda client: client.datasets.ListDatasetVersions, request)
            yield from page.versions
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def with_manifest(
        self, project: str, name: str, version: datasets_pb2.DatasetVersion
    ) -> DatasetVersion:
        """A version with its manifest."""
        answer = self.dataset(f"{project}.{name}@{version.version}")
        return DatasetVersion(
            project=project,
            name=name,
            version=version.version,
            created_at=version.created_at.ToDatetime(),
            manifest=manifest_of(answer),
        )

    def version_of_job(
        self, project: str, name: str, job_id: str
    ) -> datasets_pb2.DatasetVersion | None:
        """The version that a job recorded before it was killed, if it is among the newest."""
        request = datasets_pb2.ListDatasetVersionsRequest(dataset=f"{project}.{name}")
        try:
            page = self._call(lambda client: client.datasets.ListDatasetVersions, request)
        except NotFoundError:
            return None
        return next((version for version in page.versions if version.job_id == job_id), None)

    def references(self, hashes: Collection[str]) -> Collection[str]:
        """Which of at most 1,000 blobs are referred to, or are to be purged later."""
        request = datasets_pb2.FindReferencesRequest(sha256=hashes)
        answer = self._call(lambda client: client.datasets.FindReferences, request)
        return list(answer.sha256)

    def purge(self, purged: Sequence[str], unused: Collection[str] = ()) -> Sequence[str]:
        """Tells which blobs were purged, and which are unused.

        Returns:
            The next ones to purge. Nothing refers to them, and no job that runs can change that.
        """
        request = datasets_pb2.PurgeBlobsRequest(purged=purged, unused=unused)
        return list(self._call(lambda client: client.datasets.PurgeBlobs, request).due)

    def record(
        self, request: datasets_pb2.RecordDatasetVersionRequest
    ) -> datasets_pb2.DatasetVersion:
        """Records a version.

        Raises:
            ConflictError: The version that it was made from is not the latest one any more.
            ExhaustedError: It does not fit a quota.
        """
        answer = self._call(lambda client: client.datasets.RecordDatasetVersion, request)
        version: datasets_pb2.DatasetVersion = answer.version
        return version

    def _call(self, method: Callable[[RegistryClient], Any], request: Message) -> Any:
        call = self._client.call(method(self._client), request, patience=self._patience)
        return self._runner.run(call)


def manifest_of(answer: datasets_pb2.GetDatasetResponse) -> Manifest:
    """The manifest of the version that the registry answered.

    Raises:
        ConflictError: The dataset has no version.
    """
    if not answer.HasField("version"):
        raise ConflictError(
            f"dataset: {answer.dataset.name} has no version yet; import one", reason="NO_VERSION"
        )
    return from_json(Manifest, json.loads(answer.manifest))
