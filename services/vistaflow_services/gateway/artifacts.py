"""Files of jobs.

Nothing that a job wrote runs in a page: what is neither a picture nor plain text is a download, and
all of it is sandboxed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from vistaflow.api.artifacts.v1 import artifacts_pb2
from vistaflow_services.gateway.answers import HttpError
from vistaflow_services.gateway.gate import Streaming, held
from vistaflow_services.gateway.rows import attachment
from vistaflow_services.gateway.upstream import METHODS, Upstream

SHOWN: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "text/plain"})
"""Media types that a browser shows. SVG is not among them: it may contain scripts."""

_METHOD: Final = METHODS["vistaflow.api.artifacts.v1.ArtifactService/ReadArtifact"]
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Artifacts:
    """Serves files of jobs.

    Args:
        upstream: The services.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def read(self, request: Request) -> Response:
        """A file, or the range of it that `Range` names.

        Raises:
            HttpError: The range is beyond the end.
        """
        uri = f"artifact://{request.path_params['path']}"
        asked = _RANGE.fullmatch(request.headers.get("range", ""))
        if asked is None or not any(asked.groups()) or "if-range" in request.headers:
            return await self._send(request, uri, None)
        async with contextlib.AsyncExitStack() as stack:
            size = (await self._first(uri, 0, 1, stack))[0].artifact.size_bytes
        begin, end = _bounds(asked, size)
        if begin >= size or end < begin:
            raise HttpError(
                416, f"the file has {size} bytes", reason="RANGE",
                headers={"content-range": f"bytes */{size}"},
            )  # fmt: skip
        return await self._send(request, uri, (begin, end))

    async def _send(self, request: Request, uri: str, part: tuple[int, int] | None) -> Response:
        begin, end = part or (0, -1)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(held(request))
            first, others = await self._first(uri, begin, end + 1 - begin if part else 0, stack)
            artifact = first.artifact
            kind = artifact.content_type.partition(";")[0].strip().lower()
            headers = {
                "accept-ranges": "bytes",
                "cache-control": "private, no-cache",
                "content-security-policy": "default-src 'none'; sandbox",
                "content-length": str(end + 1 - begin if part else artifact.size_bytes),
            }
            if artifact.sha256:
                headers["etag"] = f'"{artifact.sha256}"'
            if part:
                headers["content-range"] = f"bytes {begin}-{end}/{artifact.size_bytes}"
            if kind not in SHOWN:
                headers["content-disposition"] = attachment(PurePosixPath(uri).name)
            elif kind == "text/plain":
                kind = "text/plain; charset=utf-8"

            async def blocks() -> AsyncIterator[bytes]:
                yield first.data
                async for message in others:
                    yield message.data

            return Streaming(
                blocks(), stack.pop_all(), status_code=206 if part else 200,
                media_type=kind, headers=headers,
            )  # fmt: skip
        raise AssertionError("unreachable")

    async def _first(
        self, uri: str, offset: int, length: int, stack: contextlib.AsyncExitStack
    ) -> tuple[Any, AsyncIterator[Any]]:
        request = artifacts_pb2.ReadArtifactRequest(uri=uri, offset=offset, length=length)
        messages = await self._upstream.messages(_METHOD, request, stack)
        return await anext(messages), messages


def _bounds(asked: re.Match[str], size: int) -> tuple[int, int]:
    """The first and the last byte of a range."""
    begin, end = asked.groups()
    if not begin:
        return max(0, size - int(end)), size - 1
    return int(begin), min(int(end), size - 1) if end else size - 1
