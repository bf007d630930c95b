"""Files of callers: `PUT /v1/files/NAME` with the file as its body.

An upload begins with its size and its SHA-256. A caller who sends both (`content-length`,
`?sha256=`) has its file passed on as it comes. The file of another is kept on disk until it is
there, up to `VISTAFLOW_GATEWAY_UPLOAD_MIB`. The same file under the same name is one upload: of one
that broke off, the bytes that are there already are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import grpc
from starlette.requests import Request
from starlette.responses import Response

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core.names import UPLOAD_ACCEPTED, is_sha256
from vistaflow_services.gateway.answers import HttpError, json_answer
from vistaflow_services.gateway.gate import held
from vistaflow_services.gateway.messages import to_values
from vistaflow_services.gateway.upstream import METHODS, Upstream

BLOCK_BYTES: Final = 1 << 20
IDLE_SECONDS: Final = 60.0
"""Longest time for the next bytes of a file to arrive."""

_GET: Final = METHODS["vistaflow.api.ingestion.v1.IngestionService/GetUpload"]


class Uploads:
    """Takes files.

    Args:
        upstream: The services.
        folder: Where files are kept that come without a SHA-256.
        most_bytes: Largest of those.
    """

    def __init__(self, upstream: Upstream, folder: Path, most_bytes: int) -> None:
        self._upstream = upstream
        self._folder = folder
        self._most_bytes = most_bytes

    async def put(self, request: Request) -> Response:
        """Takes a file; answers with the upload.

        Raises:
            HttpError: It is too large to come without a SHA-256.
        """
        name = request.path_params["file"]
        sha256 = request.query_params.get("sha256", "").lower()
        length = request.headers.get("content-length", "")
        with held(request):
            if is_sha256(sha256) and length.isdigit():
                return await self._send(name, sha256, int(length), _body(request))
            if length.isdigit() and int(length) > self._most_bytes:
                raise self._too_large()
            await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder, prefix="upload-") as file:
                digest, size = hashlib.sha256(), 0
                async for block in _body(request):
                    size += len(block)
                    if size > self._most_bytes:
                        raise self._too_large()
                    digest.update(block)
                    await asyncio.to_thread(file.write, block)
                await asyncio.to_thread(file.seek, 0)

                async def blocks() -> AsyncIterator[bytes]:
                    while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                        yield block

                return await self._send(name, digest.hexdigest(), size, blocks())

    async def _send(
        self, name: str, sha256: str, size: int, blocks: AsyncIterator[bytes]
    ) -> Response:
        upload_id = hashlib.sha256(f"{sha256} {name}".encode()).hexdigest()[:32]
        there = 0
        try:
            answer = await self._upstream.unary(_GET, pb.GetUploadRequest(upload_id=upload_id))
            there = answer.upload.received_bytes
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
        header = pb.UploadHeader(
            upload_id=upload_id, file_name=name, size_bytes=size, sha256=sha256, offset=there
        )
        call = await self._upstream.upload()
        try:
            # The service may end the call before all was sent. A write that meets that end fails
            # with an error of gRPC's own: only the answer says why.
            with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                await call.write(pb.UploadFileRequest(header=header))
                if UPLOAD_ACCEPTED in dict(await call.initial_metadata()):
                    async for block in blocks:
                        skipped = min(there, len(block))
                        there -= skipped
                        if skipped < len(block):
                            await call.write(pb.UploadFileRequest(data=block[skipped:]))
                    await call.done_writing()
            answer = await call
        finally:
            call.cancel()
        upload = to_values(answer.upload)
        return json_answer({"upload": upload, "file_name": f"upload:{upload_id}"}, 201)

    def _too_large(self) -> HttpError:
        return HttpError(
            413,
            f"a file of more than {self._most_bytes:,} bytes comes with its SHA-256: "
            "PUT /v1/files/NAME?sha256=…",
            reason="SHA256_REQUIRED",
            headers={"connection": "close"},
        )


async def _body(request: Request) -> AsyncIterator[bytes]:
    """The body in blocks of at most 1 MiB."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                block = await anext(stream, None)
        except TimeoutError:
            raise HttpError(408, "the file stopped arriving", reason="BODY_TOO_SLOW") from None
        if block is None:
            return
        for begin in range(0, len(block), BLOCK_BYTES):
            yield block[begin : begin + BLOCK_BYTES]
