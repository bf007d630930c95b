"""Every RPC by its descriptor, and by the paths of its `google.api.http` option."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import grpc
from google.api import annotations_pb2
from google.protobuf import duration_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vistaflow.api.common.v1 import access_pb2, common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import InvalidError, NotFoundError
from vistaflow_services.core.lru import Lru
from vistaflow_services.gateway.answers import HttpError, described, unchanged
from vistaflow_services.gateway.events import Events
from vistaflow_services.gateway.gate import Streaming, body_of, ended_by_caller, held
from vistaflow_services.gateway.messages import (
    invalid,
    message_from,
    parsed_json,
    to_json,
    values_of,
)
from vistaflow_services.gateway.upstream import CALL_SECONDS, METHODS, Upstream

TIMEOUT_HEADER: Final = "request-timeout"
"""Seconds that a call may take, at most 600."""

TEXT_BYTES: Final = 16 << 20
"""What the JSON of kits may take, with the messages that it is of."""

EVENT_STREAM: Final = "text/event-stream"
PICTURE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""Nothing in an SVG that is opened by itself runs."""

MOST_WAIT_SECONDS: Final = 60
_WATCH: Final = "vistaflow.api.registry.v1.RegistryService/WatchStates"


class Rpcs:
    """Answers requests by calling RPCs.

    Args:
        upstream: The services.
        events: Serves watches that a reader wants as server-sent events.
    """

    def __init__(self, upstream: Upstream, events: Events) -> None:
        self._upstream = upstream
        self._events = events
        self._texts: Lru[bytes, str] = Lru(TEXT_BYTES)

    def routes(self) -> Iterator[Route]:
        """The paths of all RPCs."""
        yield Route("/v1/rpc/{rpc:path}", self._by_name, methods=["GET", "POST"])
        rules = [(method, *rule) for method in METHODS.values() for rule in http_rules(method)]
        # A path without variables comes before those that it could be a value in.
        for method, verb, path in sorted(rules, key=lambda rule: rule[2].count("{")):
            yield Route(path, self._endpoint(method), methods=[verb])

    async def _by_name(self, request: Request) -> Response:
        name = request.path_params["rpc"]
        method = METHODS.get(name)
        if method is None:
            raise NotFoundError(f"there is no RPC {name[:200]}; write PACKAGE.SERVICE/METHOD")
        if method.client_streaming:
            raise HttpError(501, f"{method.name} takes a stream; use gRPC", reason="STREAM")
        if request.method != "POST" and not is_read_only(method):
            raise HttpError(
                405, f"{method.name} changes something: use POST", reason="METHOD",
                headers={"allow": "POST"},
            )  # fmt: skip
        return await self._call(method, request)

    def _endpoint(self, method: MethodDescriptor) -> Any:
        async def endpoint(request: Request) -> Response:
            return await self._call(method, request)

        return endpoint

    async def _call(self, method: MethodDescriptor, request: Request) -> Response:
        message = message_from(method.input_type, await self._values(method, request))
        if method.server_streaming:
            if wants_events(request) and _WATCH.endswith(f"/{method.name}"):
                return await self._events.watch(request, message)
            return await self._streamed(method, request, message)
        seconds, timeout = _waiting(method, request), timeout_of(request)
        async with ended_by_caller(request):
            answer = await self._upstream.unary(method, message, timeout=timeout)
            if seconds and _job_of(answer).status < common_pb2.STATUS_FINISHED:
                with held(request):
                    await self._wait(next(iter(request.path_params.values())), seconds)
                answer = await self._upstream.unary(method, message, timeout=timeout)
        if method.name == "GetKit" and request.method == "GET":
            return self._kit(request, answer)
        headers = {"cache-control": "no-store"}
        if method.name == "DrawPicture" and wants_file(request, answer.media_type):
            headers["content-security-policy"] = PICTURE_POLICY
            return Response(answer.content, headers=headers, media_type=answer.media_type)
        return Response(to_json(answer), headers=headers, media_type="application/json")

    def _kit(self, request: Request, answer: registry_pb2.GetKitResponse) -> Response:
        """A kit; its JSON, which costs a hundred times what its bytes do, is written once."""
        revision = answer.kit.revision
        kit = answer.kit.SerializeToString(deterministic=True)
        digest = hashlib.blake2b(kit + answer.next_page_token.encode(), digest_size=8).hexdigest()
        # By all that the registry answered to this caller: no other's rights are looked at. The
        # log's revision is left out: what is known as of an earlier one is still so.
        text = self._texts.get(kit)
        if text is None:
            text = to_json(answer.kit)
            self._texts.put(kit, text, len(kit) + len(text))
        answer.ClearField("kit")
        others = to_json(answer)[1:]
        body = f'{{"kit": {text}{"" if others == "}" else ", "}{others}'
        kind = "application/json"
        return unchanged(request, Response(body, media_type=kind), f"{revision}.{digest}")

    async def _values(self, method: MethodDescriptor, request: Request) -> dict[str, Any]:
        parameters = [
            (name, text)
            for name, text in request.query_params.multi_items()
            if name != "wait" or not _may_wait(method, request)
        ]
        values = parsed_json(await body_of(request)) if request.method != "GET" else {}
        if request.method == "GET":
            await body_of(request, 0)
        values |= values_of(method.input_type, parameters)
        path = {name: text for name, text in request.path_params.items() if name != "rpc"}
        return values | values_of(method.input_type, path.items())

    async def _wait(self, job_id: str, seconds: float) -> None:
        """Waits until a job has ended, at most so long; it is watched, not polled."""
        watch = registry_pb2.WatchStatesRequest(include_snapshot=True)
        watch.filter.job_ids.append(job_id)
        with contextlib.suppress(TimeoutError):
            async with contextlib.AsyncExitStack() as stack, asyncio.timeout(seconds):
                async for event in await self._upstream.messages(METHODS[_WATCH], watch, stack):
                    for row in (*event.snapshot.states, *event.delta.states):
                        if not row.task_name and row.status >= common_pb2.STATUS_FINISHED:
                            return

    async def _streamed(
        self, method: MethodDescriptor, request: Request, message: Message
    ) -> Response:
        """The messages of a stream, one JSON object a line or an event."""
        is_event = wants_events(request)
        before, after = ("data: ", "\n\n") if is_event else ("", "\n")
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(held(request))
            messages = await self._upstream.messages(method, message, stack)

            async def lines() -> AsyncIterator[str]:
                try:
                    async for part in messages:
                        yield f"{before}{to_json(part)}{after}"
                except grpc.aio.AioRpcError as error:
                    if not is_event:
                        raise
                    yield f"event: error\ndata: {json.dumps(described(error))}\n\n"

            kind = EVENT_STREAM if is_event else "application/x-ndjson"
            return Streaming(
                lines(), stack.pop_all(), media_type=kind, headers={"cache-control": "no-store"}
            )
        raise AssertionError("unreachable")


def _may_wait(method: MethodDescriptor, request: Request) -> bool:
    """Whether `?wait=30s` has a meaning: of the paths of one job and of one query."""
    return method.name in ("GetJob", "GetQuery") and "rpc" not in request.path_params


def _waiting(method: MethodDescriptor, request: Request) -> float:
    """Seconds to wait for the end of what is asked for.

    Raises:
        InvalidError: `wait` is no duration of at most 60 s.
    """
    text = request.query_params.get("wait", "")
    if not text or not _may_wait(method, request):
        return 0.0
    wait = duration_pb2.Duration()
    try:
        wait.FromJsonString(text)
    except ValueError:
        wait.seconds = -1
    if not 0 <= wait.ToNanoseconds() <= MOST_WAIT_SECONDS * 1e9:
        raise invalid("wait", f"write seconds such as 30s, at most {MOST_WAIT_SECONDS}s")
    return wait.ToNanoseconds() / 1e9


def _job_of(answer: Any) -> Any:
    return answer.query if "query" in answer.DESCRIPTOR.fields_by_name else answer.job


def http_rules(method: MethodDescriptor) -> Iterator[tuple[str, str]]:
    """The verbs and paths of an RPC."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        verb = binding.WhichOneof("pattern")
        if verb:
            yield verb.upper(), getattr(binding, verb)


def is_read_only(method: MethodDescriptor) -> bool:
    """Whether a viewer may make a call: such calls change nothing."""
    access = method.GetOptions().Extensions[access_pb2.access]
    return bool(access.role == access_pb2.ROLE_VIEWER)


def wants_events(request: Request) -> bool:
    """Whether the answer should be server-sent events."""
    return EVENT_STREAM in request.headers.get("accept", "")


def wants_file(request: Request, media_type: str) -> bool:
    """Whether the answer should be a file itself, not JSON that contains it.

    Browsers name kinds of pictures for `<img>` and for what is opened in a tab.
    """
    accept = request.headers.get("accept", "")
    return media_type in accept or (media_type.startswith("image/") and "image/" in accept)


def timeout_of(request: Request) -> float:
    """Seconds that a call may take.

    Raises:
        InvalidError: The header is no number of seconds from above 0 to 600.
    """
    text = request.headers.get(TIMEOUT_HEADER, "")
    try:
        seconds = float(text or CALL_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 600:
        raise InvalidError(f"{TIMEOUT_HEADER}: write seconds, above 0 and at most 600")
    return seconds
