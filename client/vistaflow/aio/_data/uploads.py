"""Calls of the asynchronous client that send files of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import grpc
from google.protobuf.message import Message

from vistaflow._machine.local import is_suite_here
from vistaflow._rpc.channel import TRANSIENT, waits
from vistaflow._rpc.messages import message_of
from vistaflow.aio._calls import Calls
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.errors import (
    AbortedError,
    CanceledError,
    InvalidArgumentError,
    NotFoundError,
    from_rpc,
    invalid,
)

SCHEME: Final = "upload:"
"""What comes before the id where a call names the file."""

BLOCK_BYTES: Final = 1 << 20

TRY_SECONDS: Final = 2.0
"""How long a service is asked at one address how much is there; it may have moved."""

FileSource = str | os.PathLike[str]
"""A path of this machine, or a name that the services know."""

Progress = Callable[[int, int], None]
"""Told the bytes that were sent, and all of them."""


class UploadCalls(Calls):
    """The methods of a client that send files."""

    async def upload(
        self,
        path: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> str:
        """Sends a file into the caller's project.

        The same file under the same name is sent once: its id is made of both. If the call breaks
        off, or is repeated later, it goes on where the bytes end. At most 1 MiB is in memory.

        Args:
            path: The file.
            progress: Called with the bytes sent so far and the size of the file.

        Returns:
            The id; `upload:ID` names the file in other calls until it expires.

        Raises:
            InvalidArgumentError: The file cannot be read, or changes while it is sent.
            ResourceExhaustedError: The project's quota is reached, or the disk is full.
        """
        _check_callable(progress, "progress")
        file = await asyncio.to_thread(_opened, path)
        with file:
            header = await asyncio.to_thread(_header_of, file, Path(path).name)
            await self._send(file, header, progress or (lambda sent, size: None))
        return header.upload_id

    async def get_upload(self, upload_id: str) -> ingestion_pb2.Upload:
        """An upload: how much of it is there, and when it is deleted.

        Args:
            upload_id: Its id.
        """
        request = message_of(ingestion_pb2.GetUploadRequest, upload_id=upload_id)
        upload: ingestion_pb2.Upload = (await self._call("ingestion", "GetUpload", request)).upload
        return upload

    async def delete_upload(self, upload_id: str) -> None:
        """Deletes an upload.

        Args:
            upload_id: Its id.
        """
        request = message_of(ingestion_pb2.DeleteUploadRequest, upload_id=upload_id)
        await self._call("ingestion", "DeleteUpload", request)

    async def _call_with_files(
        self,
        method: str,
        sources: Mapping[str, FileSource],
        request_of: Callable[[list[str]], Message],
        on_upload: Callable[[str, int, int], None] | None = None,
    ) -> Any:
        """Calls a method of ingestion that reads files; sends those that it does not see.

        Files are sent once the service has found nothing else wrong with the request.

        Args:
            method: The method.
            sources: What the caller named, by the path of its field in the request.
            request_of: Makes the request of the names for the service.
            on_upload: Called with a file's name, the bytes sent so far and its size.
        """
        _check_callable(on_upload, "on_upload")
        names = {
            field: await asyncio.to_thread(_name_for, source, is_suite_here(self.address))
            for field, source in sources.items()
        }
        while True:
            try:
                return await self._call("ingestion", method, request_of(list(names.values())))
            except (InvalidArgumentError, NotFoundError) as error:
                # The service does not name more mistakes than fit into its answer.
                fields = {violation.field for violation in error.violations} - {""}
                local_sources = {
                    field: sources[field]
                    for field in fields & set(sources)
                    if await asyncio.to_thread(_is_file, sources[field])
                }
                if not local_sources or len(local_sources) < len(fields):
                    raise
            for field, source in local_sources.items():
                progress = on_upload and functools.partial(on_upload, os.fspath(source))
                names[field] = SCHEME + await self.upload(source, progress=progress)

    async def _send(
        self, file: BinaryIO, header: ingestion_pb2.UploadHeader, progress: Progress
    ) -> None:
        """Sends what is not there yet, until all of it is.

        What another process sends of it meanwhile counts, too.
        """
        wait, furthest, moved_at = waits(), -1, time.monotonic()
        question = ingestion_pb2.GetUploadRequest(upload_id=header.upload_id)
        seconds = min(TRY_SECONDS, self._timeout)
        while True:
            try:
                header.offset = 0
                with contextlib.suppress(NotFoundError):
                    answer = await self._call("ingestion", "GetUpload", question, timeout=seconds)
                    header.offset = answer.upload.received_bytes
                if header.offset > furthest:
                    wait, furthest, moved_at = waits(), header.offset, time.monotonic()
                return await self._send_rest(file, header, progress)
            except (*TRANSIENT, AbortedError) as error:
                is_closed = isinstance(error, CanceledError) and error.reason == "CLOSED"
                if is_closed or time.monotonic() - moved_at > self._timeout:
                    raise
            await asyncio.sleep(wait())

    async def _send_rest(
        self, file: BinaryIO, header: ingestion_pb2.UploadHeader, progress: Progress
    ) -> None:
        position = header.offset
        await asyncio.to_thread(file.seek, position)
        async with self._stage("ingestion") as stage:
            call = stage.stub.UploadFile()
            try:
                try:
                    await call.write(ingestion_pb2.UploadFileRequest(header=header))
                    progress(position, header.size_bytes)
                    while data := await asyncio.to_thread(_read, file):
                        await call.write(ingestion_pb2.UploadFileRequest(data=data))
                        position += len(data)
                        progress(position, header.size_bytes)
                    await call.done_writing()
                except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    pass  # The service has ended the call; only the answer says why.
                await call
            except grpc.aio.UsageError:
                raise CanceledError("the client was closed", reason="CLOSED") from None
            except grpc.aio.AioRpcError as error:
                translated = from_rpc(error)
                if isinstance(translated, TRANSIENT):
                    # It may have moved: another port after a restart.
                    self._leave("ingestion", stage)
                raise translated from None
            finally:
                call.cancel()
        progress(header.size_bytes, header.size_bytes)


def _name_for(source: FileSource, is_here: bool) -> str:
    """The name by which the service may see a file.

    `./x.json` and a `Path` are files of this machine. If the service is on it, too, the absolute
    path may lie in a data root; if not, the file is an upload. Any other text is a name first.
    """
    if not isinstance(source, str | os.PathLike):
        raise invalid("files", f"{source!r} is neither a name nor a path")
    text = os.fspath(source)
    if not isinstance(source, os.PathLike) and not text.startswith(("./", "../", "~/", ".\\")):
        return text
    if not _is_file(source):
        raise invalid("files", f"there is no file {text}")
    path = Path(text).expanduser().absolute()
    if is_here:
        return os.path.normpath(path)
    with _opened(path) as file:
        return SCHEME + _header_of(file, path.name).upload_id


def _check_callable(function: object, field: str) -> None:
    if function is not None and not callable(function):
        raise invalid(field, f"{function!r} cannot be called")


def _is_file(source: FileSource) -> bool:
    try:
        return Path(source).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def _opened(path: FileSource) -> BinaryIO:
    if not isinstance(path, str | os.PathLike):
        raise invalid("path", f"{path!r} is no path")
    try:
        if not _is_file(path):
            raise invalid("path", f"there is no file {os.fspath(path)}")
        return Path(path).expanduser().open("rb")
    except OSError as error:
        raise invalid("path", f"{os.fspath(path)} cannot be read: {error.strerror}") from error


def _header_of(file: BinaryIO, name: str) -> ingestion_pb2.UploadHeader:
    """What is said of a file: it is read once for its SHA-256."""
    digest, size = hashlib.sha256(), 0
    while data := _read(file):
        digest.update(data)
        size += len(data)
    sha256 = digest.hexdigest()
    upload_id = hashlib.sha256(f"{sha256} {name}".encode("utf-8", "surrogatepass")).hexdigest()
    return message_of(
        ingestion_pb2.UploadHeader,
        upload_id=upload_id[:32],
        file_name=name,
        size_bytes=size,
        sha256=sha256,
    )


def _read(file: BinaryIO) -> bytes:
    try:
        return file.read(BLOCK_BYTES)
    except OSError as error:
        raise invalid("path", f"the file cannot be read: {error.strerror}") from error
