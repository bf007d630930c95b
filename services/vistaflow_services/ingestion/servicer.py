"""The gRPC service of ingestion."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import Message

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow_services.backups.targets import declared_targets
from vistaflow_services.core.config import backups, data_roots
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import (
    DataLossError,
    InvalidError,
    NotFoundError,
    PermissionDeniedError,
    ServiceError,
    Violations,
    field_error,
)
from vistaflow_services.core.message_limits import MEBIBYTE, fitting
from vistaflow_services.core.names import DEFAULT_PROJECT, SYSTEM_PROJECT, UPLOAD_ACCEPTED
from vistaflow_services.core.registry_client import result_of
from vistaflow_services.core.results import readable
from vistaflow_services.core.rpc import pages
from vistaflow_services.core.rpc.interceptor import Context
from vistaflow_services.core.stage import Stage
from vistaflow_services.core.work.templates import unpacked
from vistaflow_services.decks.library import Collected, DeckLibrary
from vistaflow_services.decks.origins import deck_of
from vistaflow_services.ingestion.collection import plan_of
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.conversions import (
    MAX_TABLES,
    files_of,
    options_of,
    output_name,
    output_of,
    read_manifest,
    table_message,
    written_to,
)
from vistaflow_services.ingestion.datasets.deliveries import check_delivered, check_delivery
from vistaflow_services.ingestion.datasets.reads import Reads, taken
from vistaflow_services.ingestion.datasets.registrar import manifest_of
from vistaflow_services.ingestion.datasets.requests import (
    check_forget,
    check_keys,
    check_sources,
    dataset_of,
    full_name,
)
from vistaflow_services.ingestion.datasets.row_sources import Places
from vistaflow_services.ingestion.datasets.stores import scratch_folder, stores_of
from vistaflow_services.ingestion.datasets.table_specs import check_spec
from vistaflow_services.ingestion.inputs import Inputs
from vistaflow_services.ingestion.keys import Seal, Sealed, aes_of
from vistaflow_services.ingestion.page_sources import (
    collected_sources,
    page_of,
    page_opener,
)
from vistaflow_services.ingestion.reception import Receiver
from vistaflow_services.ingestion.shopping import Summaries
from vistaflow_services.ingestion.translate import deck_to_proto, upload_message
from vistaflow_services.ingestion.upkeep.requests import days_of, targets_of
from vistaflow_services.ingestion.uploads import FOLDER, Uploads
from vistaflow_services.simulators.run import check_deck
from vistaflow_services.stores.roots import Input, Roots
from vistaflow_services.tables.sources import Aes

MAX_SOURCES = 100
"""Most decks in one request."""

_FORMER_WORDS = {
    common_pb2.STATUS_FINISHED: "DONE",
    common_pb2.STATUS_FAILED: "FAILED",
    common_pb2.STATUS_CANCELED: "FAILED",
}
"""Statuses in the words of the users' former API; all others are WORKING."""

MAX_PAGE = 1_000
TABLES_BYTES = 2 * MEBIBYTE
FILES_BYTES = MEBIBYTE
"""Room for the tables and for the files of a conversion, beside its job, in one message."""


class IngestionServicer(rpc.IngestionServiceServicer):
    """Translates between the protos and the libraries; decides nothing itself."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._library = DeckLibrary(stage.artifacts.root / "decks")
        assert isinstance(stage.config, Config)
        self._config = stage.config
        self._roots = stage.config.deck_folders
        uploads = Uploads(stage.home / FOLDER, stage.config)
        self._uploads = uploads
        self._receiver = Receiver(uploads, stage.config.upload_idle_seconds)
        self._inputs = Inputs(Roots.parse(data_roots()), uploads)
        declared_targets(backups())  # a malformed declaration stops the service at its start
        self._seal = Seal.load(stage.home, stage.config.sealing_key)
        self._summaries = Summaries()
        store, scratch = stores_of(stage.home), scratch_folder(stage.home)
        self._reads = Reads(store, scratch)
        self._open_page = page_opener(store, scratch)

    async def CollectDecks(
        self, request: pb.CollectDecksRequest, context: Context
    ) -> pb.CollectDecksResponse:
        """Starts collecting decks. See the proto for the contract."""
        await asyncio.to_thread(self._check, request.spec.sources)
        job = await self._stage.submit(
            request.spec, "DECK_COLLECTION", request_id=request.request_id
        )
        return pb.CollectDecksResponse(job=job)

    async def ListDecks(
        self, request: pb.ListDecksRequest, context: Context
    ) -> pb.ListDecksResponse:
        """Lists the decks collected and shipped."""
        violations = Violations()
        size = pages.size(request, 100, MAX_PAGE, violations)
        after = pages.decode_text(request, violations)
        violations.check()
        collected = await asyncio.to_thread(self._library.list)
        matches = [entry for entry in _after(collected, after) if _matches(entry, request)]
        decks = fitting(matches[:size], lambda deck: deck_to_proto(deck, with_text=False))
        more = len(matches) > len(decks)
        return pb.ListDecksResponse(
            decks=decks,
            next_page_token=(
                pages.encode_text(_key(matches[len(decks) - 1]), request) if more else ""
            ),
        )

    async def GetDeck(self, request: pb.GetDeckRequest, context: Context) -> pb.GetDeckResponse:
        """Gets one deck with its files."""
        collected = await asyncio.to_thread(self._library.find, request.deck)
        response = pb.GetDeckResponse(deck=deck_to_proto(collected, with_text=True))
        if request.include_archive:
            response.archive = await asyncio.to_thread(collected.deck.to_archive)
        return response

    async def ConvertJson(
        self, request: pb.ConvertJsonRequest, context: Context
    ) -> pb.ConvertJsonResponse:
        """Starts converting. See the proto for the contract."""
        spec = await asyncio.to_thread(self._spec, request, callers.current().project)
        if request.collection.job_id or not request.validate_only:
            await self._check_collection(request)
        if request.validate_only:
            return pb.ConvertJsonResponse()
        job = await self._stage.submit(spec, "CONVERT", request_id=request.request_id)
        return pb.ConvertJsonResponse(job=job, job_id=job.job_id)

    async def GetConversion(
        self, request: pb.GetConversionRequest, context: Context
    ) -> pb.GetConversionResponse:
        """Gets a conversion. See the proto for the contract."""
        violations = Violations()
        size = pages.size(request, MAX_PAGE, MAX_PAGE, violations)
        after = pages.decode(request, violations) or 0
        violations.check()
        # Each file has a task, and the answer has to hold the files beside the job.
        job = await self._stage.registry.job_without_tasks(request.job_id)
        spec = unpacked(job.spec, pb.ConvertSpec)
        if spec is None and (asked := unpacked(job.spec, pb.ConvertJsonRequest)):
            spec = pb.ConvertSpec(request=asked)
        if job.job_type != common_pb2.JOB_TYPE_CONVERT or spec is None:
            raise InvalidError(
                f"job_id: job {request.job_id} is no conversion; give the id of a CONVERT job"
            )
        answer = pb.GetConversionResponse(
            job=job,
            request=spec.request,
            status=_FORMER_WORDS.get(job.status, "WORKING"),
            job_start_time=job.created_at.seconds,
        )
        if answer.status == "FAILED":
            answer.msg = "canceled" if job.status == common_pb2.STATUS_CANCELED else job.reason
        if job.status == common_pb2.STATUS_FINISHED:
            project = callers.current().project
            with readable(request.job_id, "job_id"):
                done = await asyncio.to_thread(self._add_files, answer, project, after, size)
            if not done:
                answer.next_page_token = pages.encode(after + len(answer.files), request)
        return answer

    async def SummarizeShopping(
        self, request: pb.SummarizeShoppingRequest, context: Context
    ) -> pb.SummarizeShoppingResponse:
        """Summarizes purchases. See the proto for the contract."""
        project = callers.current().project

        def read() -> tuple[Input, Aes | None]:
            aes = aes_of(request.aes256cbckey, request.iv, request.key_ref, self._config.key_folder)
            return self._inputs.find(request.file_name, project, "file_name"), aes

        entry, aes = await asyncio.to_thread(read)
        summary = await self._summaries.summary(entry, aes, request.user_id, request.proposal_id)
        return pb.SummarizeShoppingResponse(
            months=summary.months,
            categories=[
                pb.ShoppingCategory(name=name, sub_categories=names)
                for name, names in summary.categories.items()
            ],
        )

    async def ImportDataset(
        self, request: pb.ImportDatasetRequest, context: Context
    ) -> pb.ImportDatasetResponse:
        """Starts making a version. See the proto for the contract."""
        await asyncio.to_thread(check_spec, request.spec)
        expects = request.validate_only
        registry = self._stage.registry
        await check_sources(request.spec, registry, self._places(), expects=expects)
        if expects:
            return pb.ImportDatasetResponse()
        job = await self._stage.submit(request.spec, "IMPORT", request_id=request.request_id)
        return pb.ImportDatasetResponse(job=job)

    async def ReadDataset(  # type: ignore[override]  # it writes itself, to notice stalls
        self, request: pb.ReadDatasetRequest, context: Context
    ) -> None:
        """Streams rows. See the proto for the contract."""
        if request.encoding not in pb.RowEncoding.values():
            raise field_error("encoding", f"{request.encoding} is no value of the enum")
        if request.rejects and callers.current().role is callers.Role.READER:
            raise PermissionDeniedError(
                "the token reads accepted rows only; leave `rejects` out", reason="ROLE_TOO_SMALL"
            )
        answer = await dataset_of(self._stage.registry, request.dataset)
        manifest = await asyncio.to_thread(manifest_of, answer)
        table = manifest.table(request.table or manifest.tables[0].name)
        number = answer.version.version
        try:
            async with contextlib.aclosing(self._reads.stream(table, request)) as pieces:
                async for data in pieces:
                    rows = pb.ReadDatasetResponse(data=data, version=number)
                    await taken(context.write(rows))
                    number = 0
        except NotFoundError:
            # Raises in its turn if the version was deleted meanwhile.
            await dataset_of(self._stage.registry, full_name(answer), with_manifest=False)
            raise DataLossError(
                f"dataset: a file of {full_name(answer)} is in no store; "
                "ask the operator to repair the stores, or import the dataset again"
            ) from None

    async def ForgetRecords(
        self, request: pb.ForgetRecordsRequest, context: Context
    ) -> pb.ForgetRecordsResponse:
        """Starts making a version without some rows. See the proto for the contract."""
        check_forget(request)
        answer = await dataset_of(self._stage.registry, request.dataset)
        manifest = await asyncio.to_thread(manifest_of, answer)
        check_keys(request, manifest)
        keys = tuple(tuple(key.values) for key in request.keys)
        sealed = self._seal.close(Sealed(project=self._places().project, keys=keys))
        spec = pb.ForgetSpec(request=request, sealed=sealed)
        for field in ("request_id", "keys"):
            spec.request.ClearField(field)
        job = await self._stage.submit(spec, "IMPORT", request_id=request.request_id)
        return pb.ForgetRecordsResponse(job=job)

    async def CollectPages(
        self, request: pb.CollectPagesRequest, context: Context
    ) -> pb.CollectPagesResponse:
        """Starts collecting. See the proto for the contract."""
        await asyncio.to_thread(plan_of, request.spec, self._config)
        if request.validate_only:
            return pb.CollectPagesResponse()
        job = await self._stage.submit(request.spec, "COLLECT", request_id=request.request_id)
        return pb.CollectPagesResponse(job=job)

    async def BackUp(self, request: pb.BackUpRequest, context: Context) -> pb.BackUpResponse:
        """Starts a backup. See the proto for the contract."""
        await asyncio.to_thread(targets_of, request.spec)
        return pb.BackUpResponse(job=await self._system_job(request, "BACKUP"))

    async def CleanUp(self, request: pb.CleanUpRequest, context: Context) -> pb.CleanUpResponse:
        """Starts a clean-up. See the proto for the contract."""
        days_of(request.spec)
        return pb.CleanUpResponse(job=await self._system_job(request, "CLEANUP"))

    async def RepairStores(
        self, request: pb.RepairStoresRequest, context: Context
    ) -> pb.RepairStoresResponse:
        """Starts a repair. See the proto for the contract."""
        return pb.RepairStoresResponse(job=await self._system_job(request, "REPAIR"))

    async def _system_job(
        self,
        request: pb.BackUpRequest | pb.CleanUpRequest | pb.RepairStoresRequest,
        job_type: str,
    ) -> common_pb2.Job:
        return await self._stage.submit(
            request.spec, job_type, request_id=request.request_id, project=SYSTEM_PROJECT
        )

    async def DeliverDataset(
        self, request: pb.DeliverDatasetRequest, context: Context
    ) -> pb.DeliverDatasetResponse:
        """Starts delivering. See the proto for the contract."""
        places = self._places()
        await asyncio.to_thread(check_delivery, request.spec, places, expects=request.validate_only)
        if request.spec.dataset:
            registry = self._stage.registry
            answer = await dataset_of(registry, request.spec.dataset, with_manifest=False)
            check_delivered(answer, places)
        if request.validate_only:
            return pb.DeliverDatasetResponse()
        job = await self._stage.submit(request.spec, "DELIVER", request_id=request.request_id)
        return pb.DeliverDatasetResponse(job=job)

    async def completed(self, request: Message, project: str) -> Message:
        """The spec of a job of a data kit, checked as the call that makes such a job checks it."""
        match request:
            case pb.ConvertJsonRequest():
                return await asyncio.to_thread(self._spec, request, project)
            case pb.CollectSpec():
                await asyncio.to_thread(plan_of, request, self._config)
            case pb.ImportSpec():
                await asyncio.to_thread(check_spec, request)
        # What a spec names is looked up by the job itself, in the project of its kit.
        return request

    def _places(self) -> Places:
        """Where the sources of the caller's project may be."""
        return Places(
            inputs=self._inputs,
            project=callers.current().project or DEFAULT_PROJECT,
            artifacts=self._stage.artifacts,
        )

    async def UploadFile(
        self, request_iterator: AsyncIterator[pb.UploadFileRequest], context: Context
    ) -> pb.UploadFileResponse:
        """Receives a file. See the proto for the contract."""

        async def accepted() -> None:
            # A caller that waits for this before it sends the file learns why a header is refused:
            # a write that meets the end of its call may lose that.
            await context.send_initial_metadata(((UPLOAD_ACCEPTED, "1"),))

        upload = await self._receiver.receive(request_iterator, callers.current(), accepted)
        return pb.UploadFileResponse(upload=upload_message(upload))

    async def GetUpload(
        self, request: pb.GetUploadRequest, context: Context
    ) -> pb.GetUploadResponse:
        """Gets an upload."""
        project = callers.current().project
        upload = await asyncio.to_thread(self._uploads.get, request.upload_id, project)
        return pb.GetUploadResponse(upload=upload_message(upload))

    async def DeleteUpload(
        self, request: pb.DeleteUploadRequest, context: Context
    ) -> pb.DeleteUploadResponse:
        """Deletes an upload."""
        project = callers.current().project
        await asyncio.to_thread(self._uploads.delete, request.upload_id, project)
        return pb.DeleteUploadResponse()

    def _spec(self, request: pb.ConvertJsonRequest, project: str) -> pb.ConvertSpec:
        """The spec of a conversion, checked as a whole before anything is queued."""
        options_of(request, self._config)
        aes_of(request.aes256cbckey, request.iv, request.key_ref, self._config.key_folder)
        if not request.HasField("collection"):
            self._inputs.find_all(request.file_names, project)
        elif request.file_names:
            raise field_error("file_names", "are given beside collection; leave out one of both")
        output = output_name(request.output, self._inputs.roots, project)
        if output:
            place = output_of(output, self._inputs.roots, project)
            if request.download and isinstance(place, Path):
                raise field_error(
                    "output",
                    f"{output} is a folder of a data root, from which nothing is downloaded; "
                    "leave out the output, or copy the files from that folder afterwards",
                )
        sealed = Sealed(project=project, key=request.aes256cbckey, iv=request.iv)
        spec = pb.ConvertSpec(request=request, sealed=self._seal.close(sealed))
        for field in ("request_id", "aes256cbckey", "iv", "validate_only"):
            spec.request.ClearField(field)
        spec.request.output = output
        return spec

    async def _check_collection(self, request: pb.ConvertJsonRequest) -> None:
        """Looks up the collection that a conversion reads, in the caller's name."""
        if request.HasField("collection"):
            job_id, field = request.collection.job_id, "collection.job_id"
            job = await self._stage.registry.result(job_id, job_type="COLLECT", field=field)
            artifacts = self._stage.artifacts
            await asyncio.to_thread(
                collected_sources, request.collection, job, artifacts, self._open_page
            )

    def open_stored(self, parts: Sequence[str]) -> BinaryIO | None:
        """A page of a collection, by the path that its artifact has; None for any other path."""
        sha256 = page_of(self._stage.artifacts.root, parts)
        return self._open_page(sha256) if sha256 else None

    def _add_files(
        self, answer: pb.GetConversionResponse, project: str, after: int, size: int
    ) -> bool:
        """Adds a page of the files that a finished conversion wrote; whether it is the last."""
        result = result_of(answer.job).result
        answer.output = result["output"]
        folder = written_to(
            answer.output,
            answer.job.job_id,
            self._stage.artifacts,
            self._inputs.roots,
            project,
        )
        manifest = read_manifest(folder / result["manifest"])
        answer.records = manifest["records"]
        answer.engines.update(result["engines"])
        if not after:
            answer.tables.extend(
                fitting(manifest["tables"][:MAX_TABLES], table_message, TABLES_BYTES)
            )
        rest = files_of(manifest)[after:]
        answer.files.extend(
            fitting(rest[:size], lambda file: pb.ConvertedFile(**file), FILES_BYTES)
        )
        return len(answer.files) == len(rest)

    def _check(self, sources: Sequence[pb.DeckSource]) -> None:
        """Raises `InvalidError` with every mistake of the sources, before anything is queued."""
        violations = Violations()
        if not 1 <= len(sources) <= MAX_SOURCES:
            violations.add("spec.sources", f"{len(sources)} given; 1 to {MAX_SOURCES} may be")
        missing: list[NotFoundError] = []
        for index, source in enumerate(sources[:MAX_SOURCES]):
            try:
                deck = deck_of(
                    name=source.name,
                    path=source.path,
                    archive=source.archive,
                    library=self._library,
                    roots=self._roots,
                )
                check_deck(deck)
            except NotFoundError as error:
                missing.append(error)
            except ServiceError as error:
                violations.extend(f"spec.sources[{index}]", error)
        violations.check()
        if missing:
            raise missing[0]


def _key(collected: Collected) -> str:
    return f"{collected.deck.name}/{collected.deck.digest}"


def _after(collected: list[Collected], key: str) -> list[Collected]:
    """The decks that come after the one of that key."""
    keys = [_key(entry) for entry in collected]
    if key in keys:
        return collected[keys.index(key) + 1 :]
    name = key.partition("/")[0]
    return [entry for entry in collected if entry.deck.name > name]


def _matches(collected: Collected, request: pb.ListDecksRequest) -> bool:
    if request.HasField("shipped") and collected.shipped != request.shipped:
        return False
    return request.name_contains.lower() in collected.deck.name
