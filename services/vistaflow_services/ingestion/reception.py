"""The messages of UploadFile: a header, then bytes.

A call holds at most two messages and the block that is written, each of about 1 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core import files
from vistaflow_services.core.door.callers import Caller
from vistaflow_services.core.errors import (
    ExhaustedError,
    PermissionDeniedError,
    TooSlowError,
    field_error,
)
from vistaflow_services.core.message_limits import MEBIBYTE
from vistaflow_services.ingestion.uploads import Header, Upload, Uploads, disk_errors

MAX_CALLS: Final = 100
"""Files that are received at once, each by a thread of its own."""

P = ParamSpec("P")
T = TypeVar("T")


class Receiver:
    """Receives files, a few at a time.

    Args:
        uploads: Where they are stored.
        idle_seconds: Longest time for the next MiB of a file to arrive.
    """

    def __init__(self, uploads: Uploads, idle_seconds: float) -> None:
        self._uploads = uploads
        self._idle_seconds = idle_seconds
        self._calls = 0

    async def receive(
        self,
        requests: AsyncIterator[pb.UploadFileRequest],
        caller: Caller,
        accepted: Callable[[], Awaitable[None]],
    ) -> Upload:
        """Receives the file of one call.

        Args:
            requests: Its messages.
            caller: Who makes it.
            accepted: Is called once the header is accepted.

        Raises:
            ServiceError: As the proto says of UploadFile. What has arrived stays.
        """
        if self._calls >= MAX_CALLS:
            raise ExhaustedError(
                f"{MAX_CALLS} files are being received; try again later",
                reason="TOO_MANY_STREAMS",
                retry_after=2.0,
            )
        self._calls += 1
        # One thread for all that the call does on disk: after a cancellation the last thing that
        # it was given to do, to close the file, still comes after what it is doing then.
        thread, stack = ThreadPoolExecutor(1, "upload"), contextlib.ExitStack()
        try:
            blocks = _Blocks(requests, self._idle_seconds)
            header, offset = _header_of(await blocks.message(), caller)
            receiving = self._uploads.receiving(header, offset)
            upload, part = await _done(thread, stack.enter_context, receiving)
            await accepted()
            if not upload.complete:
                reception = _Reception(self._uploads, upload, part)
                await _done(thread, reception.hash_present)
                while block := await blocks.next():
                    await _done(thread, reception.add, block)
                await _done(thread, reception.finish)
            # While it is locked, nothing removes it.
            return await _done(thread, self._uploads.get, header.upload_id, header.project)
        finally:
            closed = asyncio.wrap_future(thread.submit(stack.close))
            thread.shutdown(wait=False)
            self._calls -= 1
            # A caller with an answer or an error may delete or send the upload again at once.
            await asyncio.shield(closed)


async def _done(
    thread: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    return await asyncio.wrap_future(thread.submit(work, *args, **kwargs))


class _Reception:
    """The bytes of one call, as they come.

    Args:
        uploads: Counts the bytes.
        upload: What they are added to.
        part: The descriptor of its bytes so far.
    """

    def __init__(self, uploads: Uploads, upload: Upload, part: int) -> None:
        self._upload = upload
        self._uploads = uploads
        self._part = part
        self._size = upload.received_bytes
        self._digest = hashlib.sha256()

    def hash_present(self) -> None:
        """Reads what is there already, for the SHA-256 of the whole."""
        position = 0
        while block := os.pread(self._part, MEBIBYTE, position):
            self._digest.update(block)
            position += len(block)

    @disk_errors()
    def add(self, data: bytearray) -> None:
        """Writes the next bytes.

        Raises:
            InvalidError: They are more than the header says.
            ExhaustedError: They are beyond the quota, or the disk is full.
        """
        header = self._upload.header
        if self._size + len(data) > header.size_bytes:
            raise field_error(
                "data", f"is more than the {header.size_bytes:,} bytes that the header says"
            )
        self._uploads.take(header.project, len(data))
        view = memoryview(data)
        while view:
            view = view[os.write(self._part, view) :]
        self._size += len(data)
        self._digest.update(data)

    @disk_errors()
    def finish(self) -> None:
        """Makes the file complete.

        Raises:
            InvalidError: Its size or its SHA-256 is not that of the header.
        """
        header, folder = self._upload.header, self._upload.folder
        if self._size != header.size_bytes:
            raise field_error(
                "header.size_bytes",
                f"is {header.size_bytes:,}, but the call ended after {self._size:,} bytes; send "
                "the rest",
            )
        if self._digest.hexdigest() != header.sha256:
            # The bytes cannot become the file any more: it begins again.
            os.ftruncate(self._part, 0)
            raise field_error(
                "header.sha256", "is not that of the bytes; send the file from the beginning"
            )
        os.fsync(self._part)
        self._upload.file.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(folder / "part", self._upload.file)
        for changed in (self._upload.file.parent, folder, folder.parent):
            files.sync(changed)


class _Blocks:
    """The bytes of the messages in blocks of about 1 MiB, each of which has to arrive in time."""

    def __init__(self, requests: AsyncIterator[pb.UploadFileRequest], idle_seconds: float) -> None:
        self._requests = requests
        self._idle_seconds = idle_seconds

    async def message(self) -> pb.UploadFileRequest | None:
        """The first message; None if there is none."""
        async with self._in_time():
            return await anext(self._requests, None)

    async def next(self) -> bytearray:
        """The next block; empty at the end."""
        block = bytearray()
        async with self._in_time():
            while (
                len(block) < MEBIBYTE and (message := await anext(self._requests, None)) is not None
            ):
                if message.HasField("header"):
                    raise field_error("header", "is in the first message only; send bytes after it")
                block += _data_of(message)
        return block

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._idle_seconds):
                yield
        except TimeoutError:
            raise TooSlowError(
                f"less than 1 MiB arrived within {self._idle_seconds:g} s; what has arrived is "
                "kept: go on where GetUpload says",
                reason="UPLOAD_STALLED",
            ) from None


def _header_of(message: pb.UploadFileRequest | None, caller: Caller) -> tuple[Header, int]:
    """The header of a call, and where the call goes on."""
    if message is None or not message.HasField("header"):
        raise field_error("header", "is missing; the first message has to have it")
    if message.data:
        raise field_error("data", "comes after the message with the header")
    header = message.header
    if not caller.sees(header.project or caller.project):
        raise PermissionDeniedError(
            f"the token is for project {caller.project}; nothing can be made in another",
            reason="OTHER_PROJECT",
        )
    if header.offset < 0:
        raise field_error("header.offset", f"{header.offset} is less than 0")
    checked = Header(
        upload_id=header.upload_id,
        file_name=header.file_name,
        size_bytes=header.size_bytes,
        sha256=header.sha256,
        project=header.project or caller.project,
    )
    return checked, header.offset


def _data_of(message: pb.UploadFileRequest) -> bytes:
    if len(message.data) > MEBIBYTE:
        raise field_error(
            "data", f"has {len(message.data):,} bytes; at most 1 MiB may be in a message"
        )
    return message.data
