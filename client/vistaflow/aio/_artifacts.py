"""Calls of the asynchronous client that read what jobs wrote and printed, from anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path, PurePosixPath
from typing import Final

from vistaflow._rpc.channel import waits
from vistaflow._rpc.messages import message_of
from vistaflow.aio._calls import Calls
from vistaflow.api.artifacts.v1 import artifacts_pb2
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.errors import (
    CanceledError,
    FailedPreconditionError,
    UnavailableError,
    invalid,
)
from vistaflow.models import Job

JOBS: Final = "artifact://jobs/"

HOLDERS: Final[dict[int, str]] = {
    common_pb2.JOB_TYPE_DECK_COLLECTION: "ingestion",
    common_pb2.JOB_TYPE_CONVERT: "ingestion",
    common_pb2.JOB_TYPE_IMPORT: "ingestion",
    common_pb2.JOB_TYPE_COLLECT: "ingestion",
    common_pb2.JOB_TYPE_DOE: "doe",
    common_pb2.JOB_TYPE_ML_PREPROCESS: "ml",
    common_pb2.JOB_TYPE_ML_SCALE: "ml",
    common_pb2.JOB_TYPE_ML_TRAIN: "ml",
    common_pb2.JOB_TYPE_ML_TEST: "ml",
    common_pb2.JOB_TYPE_OPTIMIZE: "optimize",
    common_pb2.JOB_TYPE_QUERY: "query",
}
"""The services that run jobs, and so have their files, by the type of job."""

DEFAULT_HOLDER: Final = "pipeline"

_SERVICES: Final = {DEFAULT_HOLDER, *HOLDERS.values()}

MAX_LINE_BYTES: Final = 1 << 20
"""A longer line of a log is delivered in several."""


class ArtifactCalls(Calls):
    """The methods of a client that read artifacts and logs."""

    async def list_artifacts(self, uri: str) -> list[artifacts_pb2.ArtifactEntry]:
        """The files and folders in a folder of the artifact store, by name.

        Args:
            uri: The folder: `artifact://jobs/JOB_ID`, or one below it.
        """
        request = message_of(artifacts_pb2.ListArtifactsRequest, uri=uri)
        service = await self._holder(_job_id_of(uri))
        entries: list[artifacts_pb2.ArtifactEntry] = []
        while True:
            page = await self._call(service, "ListArtifacts", request, stub="artifacts")
            entries += page.entries
            request.page_token = page.next_page_token
            if not request.page_token:
                return entries

    async def read_artifact(self, uri: str) -> bytes:
        """The content of a file of the artifact store, which has to fit into memory.

        Args:
            uri: The file, such as the `uri` of a picture in a job's result.

        Raises:
            NotFoundError: There is no such file, or its job is not visible to this caller.
            FailedPreconditionError: It changed while it was read, or is not what was published.
        """
        content = bytearray()
        async with contextlib.aclosing(self._content(uri)) as blocks:
            async for block in blocks:
                content += block
        return bytes(content)

    async def download(self, uri: str, path: str | os.PathLike[str]) -> Path:
        """Copies a file of the artifact store to this machine, in blocks of at most 1 MiB.

        The file appears once it is complete; one that is there is replaced.

        Args:
            uri: The file.
            path: Where to, or a folder that exists, in which it gets the name that it has.

        Returns:
            The path of the copy.

        Raises:
            InvalidArgumentError: The path cannot be written.
            VistaError: As `read_artifact` raises.
        """
        return await self._download(uri, path)

    async def _download(self, uri: str, path: str | os.PathLike[str], sha256: str = "") -> Path:
        """Copies a file; its SHA-256 is checked if it is known."""
        _job_id_of(uri)  # checks it before anything is written
        if not isinstance(path, str | os.PathLike):
            raise invalid("path", f"{path!r} is no path")
        target = Path(path)
        blocks = self._content(uri, sha256)
        # The last part of the URI must not lead out of the folder.
        name = PurePosixPath(uri).name
        if await asyncio.to_thread(target.is_dir) and name not in ("", ".", ".."):
            target /= name
        async with replacing(target) as temporary:
            await write_blocks(blocks, temporary)
        return target

    def logs(self, job: Job | str, *, attempt: int = 0, follow: bool = False) -> AsyncIterator[str]:
        """The lines that the attempts of a job printed, without their line breaks.

        Args:
            job: The job, or its id.
            attempt: The attempt; 0 for all of them, in their order.
            follow: Whether to wait for more lines until the job has ended.
        """
        request = message_of(
            artifacts_pb2.ReadLogsRequest,
            job_id=job.job_id if isinstance(job, Job) else job,
            attempt=attempt,
            follow=follow,
        )
        return self._lines(request)

    def service_logs(self, service: str, *, follow: bool = False) -> AsyncIterator[str]:
        """The lines that a service has logged, one JSON object each, the oldest removed.

        Args:
            service: Such as `doe`.
            follow: Whether to wait for more lines, without end.
        """
        request = message_of(artifacts_pb2.ReadLogsRequest, service=service, follow=follow)
        return self._lines(request)

    async def _lines(self, request: artifacts_pb2.ReadLogsRequest) -> AsyncIterator[str]:
        rests: dict[int, bytes] = {}
        service = request.service or await self._holder(request.job_id)
        if service not in _SERVICES:
            # The registry does not serve logs; those who share its home have them.
            listed = {entry.name for entry in (await self.server_info()).services}
            service = min(listed & _SERVICES, default=DEFAULT_HOLDER)
        stream = self._stream(service, "ReadLogs", request, stub="artifacts")
        async with contextlib.aclosing(stream) as parts:
            async for part in parts:
                *lines, rest = (rests.pop(part.attempt, b"") + part.data).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace")
                if len(rest) > MAX_LINE_BYTES:
                    yield rest.decode("utf-8", "replace")
                elif rest:
                    rests[part.attempt] = rest
        for rest in rests.values():
            yield rest.decode("utf-8", "replace")

    async def _content(self, uri: str, sha256: str = "") -> AsyncGenerator[bytes, None]:
        """The content of a file in blocks, which is checked against its size and SHA-256.

        A stream that breaks off is continued at the same place, for as long as one that is opened
        within the timeout brings more.
        """
        artifact: artifacts_pb2.Artifact | None = None
        digest, size = hashlib.sha256(), 0
        wait, moved_at = waits(), time.monotonic()
        service = await self._holder(_job_id_of(uri))
        while True:
            request = message_of(artifacts_pb2.ReadArtifactRequest, uri=uri, offset=size)
            stream = self._stream(service, "ReadArtifact", request, stub="artifacts")
            try:
                async with contextlib.aclosing(stream) as parts:
                    async for part in parts:
                        if part.HasField("artifact"):
                            if artifact is not None and artifact != part.artifact:
                                raise _changed(uri)
                            artifact = part.artifact
                        digest.update(part.data)
                        size += len(part.data)
                        yield part.data
                        wait, moved_at = waits(), time.monotonic()
                break
            except (UnavailableError, CanceledError) as error:
                late = time.monotonic() - moved_at > self._timeout
                if not size or late or error.reason == "CLOSED":
                    raise
            await asyncio.sleep(wait())
        assert artifact is not None
        expected = {artifact.sha256, sha256} - {""}
        wrong_digest = bool(expected - {digest.hexdigest()})
        if size != artifact.size_bytes or wrong_digest:
            raise FailedPreconditionError(
                f"{uri}: its content is not what was published; it was altered or damaged",
                reason="ARTIFACT_DAMAGED",
            )

    async def _holder(self, job_id: str) -> str:
        """The service that has the files of a job."""
        request = message_of(registry_pb2.GetJobRequest, job_id=job_id, page_size=1)
        job = (await self._call("registry", "GetJob", request)).job
        return HOLDERS.get(job.job_type, DEFAULT_HOLDER)


@contextlib.asynccontextmanager
async def replacing(target: Path) -> AsyncIterator[Path]:
    """A temporary file, which takes the place of a file unless the block raises.

    Raises:
        InvalidArgumentError: It cannot be written.
    """
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        try:
            yield temporary
            await asyncio.to_thread(os.replace, temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise invalid("path", f"{target} cannot be written: {error.strerror}") from error


async def write_blocks(blocks: AsyncGenerator[bytes, None], path: Path) -> None:
    """Writes blocks to a new file."""
    with await asyncio.to_thread(path.open, "xb") as file:
        async with contextlib.aclosing(blocks):
            async for block in blocks:
                await asyncio.to_thread(file.write, block)


def _changed(uri: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"{uri} was changed while it was read; read it again", reason="ARTIFACT_CHANGED"
    )


def _job_id_of(uri: str) -> str:
    """The job of an artifact."""
    if not isinstance(uri, str) or not uri.startswith(JOBS):
        raise invalid("uri", f"{uri!r} is no artifact of a job; it must begin with {JOBS}")
    return uri.removeprefix(JOBS).partition("/")[0]
