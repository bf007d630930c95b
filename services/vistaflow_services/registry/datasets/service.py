"""The gRPC service of datasets: translates, and keeps callers within their projects."""

from __future__ import annotations

from functools import partial

from vistaflow.api.datasets.v1 import datasets_pb2 as pb
from vistaflow.api.datasets.v1 import datasets_pb2_grpc as rpc
from vistaflow_services.core import off_loop
from vistaflow_services.core.door import callers
from vistaflow_services.core.door.callers import Caller, Role
from vistaflow_services.core.errors import Violations
from vistaflow_services.core.message_limits import MESSAGE_BYTES, fitting
from vistaflow_services.core.names import MAX_PROJECT, DatasetReference, dataset_scope
from vistaflow_services.core.rpc import pages
from vistaflow_services.core.rpc.request_size import Check, check_size
from vistaflow_services.core.server.shell import Context
from vistaflow_services.registry.datasets import messages
from vistaflow_services.registry.datasets.records import Dataset, Documents
from vistaflow_services.registry.datasets.store import DatasetStore
from vistaflow_services.registry.datasets.versions import NEWEST, absent, no_version
from vistaflow_services.registry.messages import requests, translate
from vistaflow_services.registry.messages.raw import SMALL_BYTES

MAX_PAGE = 1_000
SERVICE = pb.DESCRIPTOR.services_by_name["DatasetService"]

_LARGE = {"RecordDatasetVersion"}
"""Methods whose requests may be as large as any."""


def checks() -> dict[str, Check]:
    """The check of the requests of each method, in wire form."""
    methods = (method.name for method in SERVICE.methods if method.name not in _LARGE)
    return {path: _small(path) for path in (f"/{SERVICE.full_name}/{name}" for name in methods)}


def _small(path: str) -> Check:
    return lambda data: check_size(path, data, SMALL_BYTES)


class DatasetServicer(rpc.DatasetServiceServicer):
    """Serves DatasetService.

    Args:
        store: Where datasets are kept.
    """

    def __init__(self, store: DatasetStore) -> None:
        self._store = store

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: Context
    ) -> pb.ListDatasetsResponse:
        """Lists datasets by project and name."""
        violations = Violations()
        limit = pages.size(request, 100, MAX_PAGE, violations)
        after = pages.decode(request, violations)
        translate.label_from_proto(request.project, "project", MAX_PROJECT, violations)
        translate.label_from_proto(request.name_contains, "name_contains", 63, violations)
        violations.check()
        datasets = await self._store.page(
            project=request.project or callers.current().project or None,
            name_contains=request.name_contains,
            after=after,
            limit=limit + 1,
        )
        listed = await off_loop.reading.do(fitting, datasets[:limit], messages.dataset_to_proto)
        last = datasets[len(listed) - 1] if len(listed) < len(datasets) else None
        return pb.ListDatasetsResponse(
            datasets=listed,
            next_page_token=pages.encode(last.dataset_id, request) if last else "",
        )

    async def GetDataset(
        self, request: pb.GetDatasetRequest, context: Context
    ) -> pb.GetDatasetResponse:
        """Gets a dataset and one of its versions."""
        violations = Violations()
        named = messages.reference(request.dataset, violations, versions=True)
        violations.check()
        dataset = await self._reach(request.dataset.partition("@")[0], violations)
        if callers.current().role is Role.READER:
            return await self._delivered(request, named, dataset)
        response = pb.GetDatasetResponse(dataset=messages.dataset_to_proto(dataset))
        latest = dataset.latest.version if dataset.latest else 0
        number = named.version or (dataset.aliases.get(named.alias, 0) if named.alias else latest)
        content = await self._store.content(dataset, number) if number else None
        if content is not None:
            version, documents = content
            response.version.CopyFrom(messages.version_to_proto(dataset, version))
            # Large ones take long.
            await off_loop.reading.do(_put_content, response, documents, request.with_manifest)
        elif named.alias or number:
            raise no_version(dataset, named.alias or number)
        return response

    async def _delivered(
        self, request: pb.GetDatasetRequest, named: DatasetReference, dataset: Dataset
    ) -> pb.GetDatasetResponse:
        """The version that a reader may read, without how it was made.

        Raises:
            NotFoundError: The request names another one, or there is none yet.
        """
        scopes = filter(None, map(dataset_scope, callers.current().scopes))
        alias = {scope.name: scope.alias for scope in scopes}[dataset.name]
        number = dataset.aliases.get(alias, 0)
        content = await self._store.content(dataset, number) if number else None
        if content is None or named.alias not in ("", alias) or named.version not in (0, number):
            raise absent(request.dataset)
        version, documents = content
        response = pb.GetDatasetResponse(
            dataset=pb.Dataset(project=dataset.project, name=dataset.name, aliases={alias: number}),
            version=messages.version_to_proto(dataset, version),
        )
        await off_loop.reading.do(_put_content, response, documents, request.with_manifest)
        recorded = response.version
        recorded.parent = recorded.rejected_rows = 0
        recorded.source = recorded.job_id = ""
        recorded.pinned = False
        del recorded.aliases[:]
        for table in response.tables:
            table.read_rows = table.dropped_rows = 0
            table.rejected.clear()
            table.orphans.clear()
        return response

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Context
    ) -> pb.ListDatasetVersionsResponse:
        """Lists the versions of a dataset, newest first."""
        violations = Violations()
        limit = pages.size(request, 100, MAX_PAGE, violations)
        before = pages.decode(request, violations)
        dataset = await self._reach(request.dataset, violations)
        versions = await self._store.versions(
            dataset, newest=NEWEST if before is None else before - 1, limit=limit + 1
        )
        listed = await off_loop.reading.do(
            fitting, versions[:limit], partial(messages.version_to_proto, dataset)
        )
        more = len(listed) < len(versions)
        return pb.ListDatasetVersionsResponse(
            versions=listed,
            next_page_token=pages.encode(listed[-1].version, request) if more else "",
        )

    async def UpdateDataset(
        self, request: pb.UpdateDatasetRequest, context: Context
    ) -> pb.UpdateDatasetResponse:
        """Changes a dataset, or makes one without versions."""
        violations = Violations()
        named = messages.reference(request.dataset, violations)
        change = messages.change(request, violations)
        asked = requests.kept_request(request, lambda _: b"", violations)
        violations.check()
        caller = callers.current()
        project = named.project_for(caller.project)
        if not caller.sees(project):
            raise absent(request.dataset)
        dataset = await self._store.update(project, named.name, change, asked)
        return pb.UpdateDatasetResponse(dataset=messages.dataset_to_proto(dataset))

    async def SetDatasetAlias(
        self, request: pb.SetDatasetAliasRequest, context: Context
    ) -> pb.SetDatasetAliasResponse:
        """Has an alias name a version, or removes it."""
        violations = Violations()
        messages.alias(request.alias, violations)
        messages.version_number(request.version, "version", violations, least=0)
        dataset = await self._reach(request.dataset, violations)
        dataset = await self._store.set_alias(
            dataset.project, dataset.name, request.alias, request.version
        )
        return pb.SetDatasetAliasResponse(dataset=messages.dataset_to_proto(dataset))

    async def PinDatasetVersion(
        self, request: pb.PinDatasetVersionRequest, context: Context
    ) -> pb.PinDatasetVersionResponse:
        """Pins a version, or unpins it."""
        violations = Violations()
        messages.version_number(request.version, "version", violations)
        dataset = await self._reach(request.dataset, violations)
        dataset, version = await self._store.pin(
            dataset.project, dataset.name, request.version, request.pinned
        )
        return pb.PinDatasetVersionResponse(version=messages.version_to_proto(dataset, version))

    async def DeleteDataset(
        self, request: pb.DeleteDatasetRequest, context: Context
    ) -> pb.DeleteDatasetResponse:
        """Deletes a version, or all of them and the dataset."""
        violations = Violations()
        messages.version_number(request.version, "version", violations, least=0)
        dataset = await self._reach(request.dataset, violations)
        count = await self._store.delete(dataset.project, dataset.name, request.version)
        return pb.DeleteDatasetResponse(version_count=count)

    async def RecordDatasetVersion(
        self, request: pb.RecordDatasetVersionRequest, context: Context
    ) -> pb.RecordDatasetVersionResponse:
        """Records a version that a job has made."""
        new = await off_loop.reading.do(messages.new_version, request)
        recorded = await self._store.record(new)
        return pb.RecordDatasetVersionResponse(
            version=messages.version_to_proto(recorded.dataset, recorded.version),
            expired_versions=recorded.expired,
        )

    async def FindReferences(
        self, request: pb.FindReferencesRequest, context: Context
    ) -> pb.FindReferencesResponse:
        """Which of some blobs versions refer to."""
        violations = Violations()
        blobs = messages.hashes(request.sha256, "sha256", violations, messages.MAX_HASHES)
        violations.check()
        return pb.FindReferencesResponse(sha256=await self._store.references(blobs))

    async def PurgeBlobs(
        self, request: pb.PurgeBlobsRequest, context: Context
    ) -> pb.PurgeBlobsResponse:
        """The blobs to purge now."""
        violations = Violations()
        purged = messages.hashes(request.purged, "purged", violations, messages.MAX_HASHES)
        unused = messages.hashes(request.unused, "unused", violations, messages.MAX_HASHES)
        violations.check()
        return pb.PurgeBlobsResponse(due=await self._store.purge(purged, unused))

    async def _reach(self, text: str, violations: Violations) -> Dataset:
        """The dataset that a request names, if it is there for the caller.

        Another project's takes as long as one that is not there at all: both are looked up.

        Raises:
            InvalidError: The name, or something else of the request, cannot be.
            NotFoundError: It is not there.
        """
        named = messages.reference(text, violations)
        violations.check()
        caller = callers.current()
        project = named.project_for(caller.project)
        dataset = await self._store.get(project, named.name)
        if dataset is None or not caller.sees(project) or not _in_scope(caller, named.name):
            raise absent(text)
        return dataset


def _in_scope(caller: Caller, name: str) -> bool:
    """Whether a dataset of the caller's project is there for the caller."""
    if caller.role is not Role.READER:
        return True
    scopes = filter(None, map(dataset_scope, caller.scopes))
    return any(scope.name == name for scope in scopes)


def _put_content(
    response: pb.GetDatasetResponse, documents: Documents, with_manifest: bool
) -> None:
    """Puts the manifest into an answer, and as many tables as fit beside it."""
    if with_manifest:
        response.manifest = messages.manifest_bytes(documents)
    response.tables.extend(messages.tables_of(documents, MESSAGE_BYTES - response.ByteSize()))
