"""Unary calls to a server that goes away in the middle of them."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from vistaflow._rpc.channel import call
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc
from vistaflow.errors import CanceledError


class Dropping(rpc.RegistryServiceServicer):
    """Ends the first calls as a server does that shuts down before it has begun with them."""

    def __init__(self) -> None:
        self.drops = 2
        self.request_ids: list[str] = []

    async def AppendStates(self, request: Any, context: Any) -> pb.AppendStatesResponse:
        self.request_ids.append(request.request_id)
        await self._drop(context)
        return pb.AppendStatesResponse(revision=7)

    async def RevokeToken(self, request: Any, context: Any) -> pb.RevokeTokenResponse:
        await self._drop(context)
        return pb.RevokeTokenResponse()

    async def _drop(self, context: Any) -> None:
        if self.drops:
            self.drops -= 1
            await context.abort(grpc.StatusCode.CANCELLED, "")


async def test_a_call_that_the_server_dropped_is_made_again_if_it_may_be() -> None:
    servicer, server = Dropping(), grpc.aio.server()
    rpc.add_RegistryServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = rpc.RegistryServiceStub(channel)
        answer = await call(stub.AppendStates, pb.AppendStatesRequest(), timeout=60)
        assert answer.revision == 7
        assert len(servicer.request_ids) == 3
        assert len(set(servicer.request_ids)) == 1
        servicer.drops = 1
        with pytest.raises(CanceledError):
            await call(stub.RevokeToken, pb.RevokeTokenRequest(), timeout=60)
    await server.stop(0)
