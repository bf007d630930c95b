"""Serves the watches with messages that are bytes already, past the generated servicer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import callers
from vistaflow_services.core.interceptor import Context
from vistaflow_services.registry.watch import Event, WatchService
from vistaflow_services.registry.watch_many import WatchMany


def serve_bytes(service: WatchService, server: grpc.aio.Server) -> None:
    """Lets the watches answer with bytes; call it after the servicer was added to the server."""

    async def watch(request: pb.WatchStatesRequest, context: Context) -> None:
        callers.came_from(context.peer())
        await service.watch(request, context.write)

    async def watch_many(
        requests: AsyncIterator[pb.WatchManyRequest], context: Context
    ) -> AsyncIterator[bytes]:
        callers.came_from(context.peer())
        async with contextlib.aclosing(WatchMany(service).messages(requests)) as messages:
            async for message in messages:
                yield message

    def serialize(message: Event) -> bytes:
        return message if isinstance(message, bytes) else message.SerializeToString()

    one = grpc.unary_stream_rpc_method_handler(watch, pb.WatchStatesRequest.FromString, serialize)
    many: Any = grpc.stream_stream_rpc_method_handler(
        watch_many, pb.WatchManyRequest.FromString, None
    )
    name = pb.DESCRIPTOR.services_by_name["RegistryService"].full_name
    server.add_registered_method_handlers(name, {"WatchStates": one, "WatchMany": many})
