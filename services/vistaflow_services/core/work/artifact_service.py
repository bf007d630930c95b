"""The gRPC service that reads what jobs wrote and printed: files and logs, in blocks.

A call holds one block of at most 1 MiB at a time: the next is read once the caller has taken the
one before. The registry, asked with the caller's token, decides whether there is such a job.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from vistaflow.api.artifacts.v1 import artifacts_pb2 as pb
from vistaflow.api.artifacts.v1 import artifacts_pb2_grpc as rpc
from vistaflow.api.common.v1 import common_pb2
from vistaflow_services.core.door import callers
from vistaflow_services.core.door.callers import Role
from vistaflow_services.core.errors import (
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    Violations,
    cut,
)
from vistaflow_services.core.names import is_job_id, is_sha256
from vistaflow_services.core.registry_client import RegistryClient, struct_to_dict
from vistaflow_services.core.rpc import pages
from vistaflow_services.core.rpc.interceptor import Context
from vistaflow_services.core.work.reader import (
    BLOCK_BYTES,
    ServiceLog,
    StoredFile,
    attempts_with_log,
    list_folder,
    open_file,
    read_log,
)
from vistaflow_services.core.work.uris import published_parts

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["ArtifactService"].full_name

MAX_PAGE: Final = 1_000

LOOK_SECONDS: Final = 0.25
"""Pause between two looks at the logs of a job that a caller follows."""

ASK_SECONDS: Final = 2.0
"""Pause between two questions to the registry whether that job has ended."""

QUIET_SECONDS: Final = 1.0
"""How long the logs of an ended job stay the same until they count as complete: the worker adds
the last line after the registry has recorded the end."""

CONTENT_TYPES: Final = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".log": "text/plain",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
"""Media types by the end of a file's name."""

OpenStored = Callable[[Sequence[str]], BinaryIO | None]
"""Opens the artifact of a path that is no file of the artifact store; None if there is none."""

UNKNOWN_TYPE: Final = "application/octet-stream"


class ArtifactServicer(rpc.ArtifactServiceServicer):
    """Serves files of the artifact store and logs of jobs.

    Args:
        registry: Says which jobs a caller may see.
        artifacts: The folder of the artifact store.
        logs: The folder that holds a folder with logs for each job.
        open_stored: Opens artifacts that are in the stores of blobs.
    """

    def __init__(
        self,
        registry: RegistryClient,
        artifacts: Path,
        logs: Path,
        open_stored: OpenStored | None = None,
    ) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._logs = logs
        self._open_stored = open_stored
        self._draining = asyncio.Event()

    async def drain(self) -> None:
        """Ends the calls that follow logs."""
        self._draining.set()

    async def ListArtifacts(
        self, request: pb.ListArtifactsRequest, context: Context
    ) -> pb.ListArtifactsResponse:
        """Lists a folder. See the proto for the contract."""
        parts = published_parts(request.uri)
        violations = Violations()
        size = pages.size(request, MAX_PAGE, MAX_PAGE, violations)
        violations.check()
        await self._job_of(request.uri, parts)
        entries = await asyncio.to_thread(
            list_folder,
            self._artifacts,
            parts,
            request.uri,
            after=request.page_token,
            count=size + 1,
        )
        answer = pb.ListArtifactsResponse(
            entries=[
                pb.ArtifactEntry(name=entry.name, size_bytes=entry.size, is_folder=entry.is_folder)
                for entry in entries[:size]
            ]
        )
        if len(entries) > size:
            answer.next_page_token = entries[size - 1].name
        return answer

    async def ReadArtifact(
        self, request: pb.ReadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.ReadArtifactResponse]:
        """Streams a file. See the proto for the contract."""
        parts = published_parts(request.uri)
        violations = Violations()
        for field in ("offset", "length"):
            if getattr(request, field) < 0:
                violations.add(field, f"{getattr(request, field)} is less than 0")
        violations.check()
        job = await self._job_of(request.uri, parts)
        file = await asyncio.to_thread(self._open, parts, request.uri)
        try:
            if request.offset > file.size:
                violations.add(
                    "offset",
                    f"{request.offset:,} is beyond the end; the file has {file.size:,} bytes",
                )
            violations.check()
            end = min(file.size, request.offset + (request.length or file.size))
            answer = pb.ReadArtifactResponse(
                artifact=pb.Artifact(
                    size_bytes=file.size,
                    content_type=content_type(parts[-1]),
                    sha256=await _sha256(file, job, request.uri),
                )
            )
            position = request.offset
            while True:
                # Also of an empty range: a file that was deleted meanwhile is an error.
                answer.data = await asyncio.to_thread(file.read, position, end - position)
                position += len(answer.data)
                yield answer
                if position >= end:
                    return
                answer = pb.ReadArtifactResponse()
        finally:
            await asyncio.to_thread(file.close)

    def _open(self, parts: tuple[str, ...], uri: str) -> StoredFile:
        try:
            return open_file(self._artifacts, parts, uri)
        except NotFoundError:
            stored = self._open_stored(parts) if self._open_stored else None
            if stored is None:
                raise
        with stored:
            return StoredFile(os.dup(stored.fileno()))

    async def ReadLogs(
        self, request: pb.ReadLogsRequest, context: Context
    ) -> AsyncIterator[pb.ReadLogsResponse]:
        """Streams what a job or a service logged. See the proto for the contract."""
        violations = Violations()
        for field in ("attempt", "offset"):
            if getattr(request, field) < 0:
                violations.add(field, f"{getattr(request, field)} is less than 0")
        if request.service and (request.job_id or request.attempt):
            violations.add("service", "stands alone; leave job_id and attempt out")
        if request.offset and not (request.attempt or request.service):
            violations.add("attempt", "missing: an offset is one in the log of an attempt")
        violations.check()
        if request.service:
            async for answer in self._service_log(request):
                yield answer
            return
        job = await self._job(request.job_id)
        offsets = {request.attempt: request.offset} if request.attempt else {}
        clock = asyncio.get_running_loop().time
        asked_at = printed_at = clock()
        while True:
            while block := await asyncio.to_thread(self._next_block, request, offsets):
                attempt, data = block
                offset = offsets.get(attempt, 0)
                yield pb.ReadLogsResponse(attempt=attempt, offset=offset, data=data)
                offsets[attempt] = offset + len(data)
                printed_at = clock()
            ended = job.status >= common_pb2.STATUS_FINISHED
            if not request.follow or (ended and clock() - printed_at >= QUIET_SECONDS):
                return
            await self._pause()
            if not ended and clock() - asked_at >= ASK_SECONDS:
                job = await self._job(request.job_id)
                # The quiet time of an ended job begins here, when its end is known.
                asked_at = printed_at = clock()

    async def _service_log(self, request: pb.ReadLogsRequest) -> AsyncIterator[pb.ReadLogsResponse]:
        """The log of a service of this home, which tells of all projects."""
        if callers.current().role is not Role.ADMIN:
            raise PermissionDeniedError(
                "logs of services need the role ADMIN", reason="ROLE_TOO_SMALL"
            )
        log = await asyncio.to_thread(
            ServiceLog, self._logs.parent, request.service, request.offset
        )
        try:
            while True:
                while data := await asyncio.to_thread(log.read):
                    yield pb.ReadLogsResponse(offset=log.offset, data=data)
                    log.offset += len(data)
                if not request.follow:
                    return
                await self._pause()
        finally:
            await asyncio.to_thread(log.close)

    def _next_block(
        self, request: pb.ReadLogsRequest, offsets: Mapping[int, int]
    ) -> tuple[int, bytes] | None:
        """The next bytes of a job's logs, and their attempt; None if there are no more.

        Also of attempts before the last one: what is printed last may be written late.
        """
        job_id = request.job_id
        attempts = [request.attempt] if request.attempt else attempts_with_log(self._logs, job_id)
        for attempt in attempts:
            data = read_log(self._logs, job_id, attempt, offsets.get(attempt, 0))
            if data:
                return attempt, data
        return None

    async def _pause(self) -> None:
        """Waits until the next look at logs.

        Raises:
            UnavailableError: The service stops.
        """
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._draining.wait()
        except TimeoutError:
            return
        raise UnavailableError("the service stops; follow the logs again", reason="DRAINING")

    async def _job_of(self, uri: str, parts: tuple[str, ...]) -> common_pb2.Job:
        """The job of an artifact.

        Raises:
            NotFoundError: There is none for this caller; the same as for a missing file.
        """
        try:
            return await self._job(parts[1])
        except NotFoundError:
            raise NotFoundError(f"no artifact {cut(uri, 500)}") from None

    async def _job(self, job_id: str) -> common_pb2.Job:
        """A job without its tasks.

        Raises:
            NotFoundError: There is none for this caller.
        """
        if not is_job_id(job_id):
            raise NotFoundError(f"no job {cut(job_id, 100)!r}")
        return await self._registry.job_without_tasks(job_id)


def content_type(name: str) -> str:
    """The media type of a file by the end of its name."""
    return CONTENT_TYPES.get(PurePosixPath(name).suffix.lower(), UNKNOWN_TYPE)


async def _sha256(file: StoredFile, job: common_pb2.Job, uri: str) -> str:
    """SHA-256 of a file as its job published it, or of a file of one block; otherwise empty."""
    published = published_sha256(struct_to_dict(job.result), uri)
    if published or file.size > BLOCK_BYTES:
        return published
    data = await asyncio.to_thread(file.read, 0, file.size)
    return hashlib.sha256(data).hexdigest()


def published_sha256(result: Any, uri: str) -> str:
    """The SHA-256 that a job's result gives for an artifact; empty if it gives none."""
    if isinstance(result, Mapping):
        digest = result.get("sha256")
        if result.get("uri") == uri and isinstance(digest, str) and is_sha256(digest):
            return digest
        result = list(result.values())
    if not isinstance(result, list):
        return ""
    return next(filter(None, (published_sha256(item, uri) for item in result)), "")
