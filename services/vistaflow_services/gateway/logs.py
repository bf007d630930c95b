"""What jobs printed, as text or as server-sent events."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Final

import grpc
from starlette.requests import Request
from starlette.responses import Response

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.gateway.answers import described
from vistaflow_services.gateway.gate import Streaming, held
from vistaflow_services.gateway.messages import message_from, values_of
from vistaflow_services.gateway.rpc import EVENT_STREAM, wants_events
from vistaflow_services.gateway.upstream import METHODS, Upstream

_METHOD: Final = METHODS["vistaflow.api.artifacts.v1.ArtifactService/ReadLogs"]


class Logs:
    """Serves logs of jobs and of services.

    Args:
        upstream: The services.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def read(self, request: Request) -> Response:
        """Streams a log, with `follow=true` until the job has ended.

        An event has `ATTEMPT.BYTES` as its id: where a reader that comes back goes on.
        """
        values = values_of(_METHOD.input_type, request.query_params.multi_items())
        values |= request.path_params
        last_id = request.headers.get("last-event-id", "")
        if last_id:
            attempt, _, offset = last_id.partition(".")
            if not (attempt.isdigit() and offset.isdigit()):
                raise InvalidError("Last-Event-ID: has to be the id of an event of this log")
            # Of a job whose attempts are all read, those after this one follow when it has ended.
            values |= {"attempt": attempt, "offset": offset}
        message = message_from(_METHOD.input_type, values)
        is_event = wants_events(request)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(held(request))
            parts = await self._upstream.messages(_METHOD, message, stack)

            async def blocks() -> AsyncIterator[bytes]:
                decoders: dict[int, codecs.IncrementalDecoder] = {}
                try:
                    async for part in parts:
                        if not is_event:
                            yield part.data
                            continue
                        decoder = decoders.get(part.attempt)
                        if decoder is None:
                            decoder = codecs.getincrementaldecoder("utf-8")("replace")
                            decoders[part.attempt] = decoder
                        text = decoder.decode(part.data)
                        # A character may continue in the next message: it is read again whole.
                        rest = len(decoder.getstate()[0])
                        place = f"{part.attempt}.{part.offset + len(part.data) - rest}"
                        data = json.dumps({"attempt": part.attempt, "text": text})
                        yield f"id: {place}\ndata: {data}\n\n".encode()
                    if is_event:
                        yield b"event: end\ndata: {}\n\n"
                except grpc.aio.AioRpcError as error:
                    if not is_event:
                        raise
                    yield f"event: error\ndata: {json.dumps(described(error))}\n\n".encode()

            return Streaming(
                blocks(),
                stack.pop_all(),
                media_type=EVENT_STREAM if is_event else "text/plain; charset=utf-8",
                headers={"cache-control": "no-store", "x-accel-buffering": "no"},
            )
        raise AssertionError("unreachable")
