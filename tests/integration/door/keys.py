"""Tokens for tests, and calls that show them."""

from __future__ import annotations

import uuid
from typing import Any

import grpc

from vistaflow._rpc.credentials import BearerChannel
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow_services.core.door.callers import Role
from vistaflow_services.registry.__main__ import Registry

DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


class Keys:
    """Makes tokens of a registry, as the command on its machine does."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.store = registry.token_store

    async def make(self, role: str, project: str = "", *, seconds: float | None = None) -> str:
        """The text of a new token."""
        _, text, _ = await self.store.create(
            name=f"{role} of {project or 'everything'}",
            project=project,
            role=Role(role),
            created_by="test",
            seconds=seconds,
            scopes=["dataset:mine.whisky@final:read"] if role == "READER" else (),
        )
        return text

    def channel(self, token: str = "", address: str = "") -> grpc.aio.Channel:
        """A channel whose calls show a token."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.insecure_channel(address or self.registry.address, options=options)
        return BearerChannel(channel, lambda: token) if token else channel

    async def stub(self, role: str, project: str = "") -> Any:
        """The registry's calls, with a new token."""
        stub: Any = RegistryServiceStub(self.channel(await self.make(role, project)))
        return stub


def id_of(token: str) -> str:
    """The id in a token's text."""
    return str(uuid.UUID(token.split(".")[1]))


async def code_of(call: Any) -> grpc.StatusCode:
    """What a call ends with; for a stream, what it begins with."""
    try:
        if hasattr(call, "read"):
            await call.read()
            call.cancel()
            return grpc.StatusCode.OK
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def new_kit(stub: Any, **fields: Any) -> pb.Kit:
    """A kit with one external job."""
    request = pb.CreateKitRequest(name="a", jobs=[pb.NewJob(name="work", job_type=2)], **fields)
    kit: pb.Kit = (await stub.CreateKit(request)).kit
    return kit
