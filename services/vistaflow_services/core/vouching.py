"""Asks the registry for the bearers of tokens, in the services that do not store them."""

from __future__ import annotations

import grpc

from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.door.access import role_of
from vistaflow_services.core.door.callers import Caller, Validity
from vistaflow_services.core.door.tokens import Tokens, invalid
from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.core.registry_client import TRY_SECONDS, RegistryClient


def vouched(registry: RegistryClient) -> Tokens:
    """The bearers of tokens, looked up in the registry."""

    async def find(text: str) -> Caller:
        try:
            info = await registry.stub.GetServerInfo(
                registry_pb2.GetServerInfoRequest(),
                timeout=TRY_SECONDS,
                metadata=(("authorization", f"Bearer {text}"),),
            )
        except grpc.aio.AioRpcError as failure:
            if failure.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise invalid() from None
            raise UnavailableError("the registry does not answer whose the token is") from None
        return _caller(info, text)

    return Tokens(find)


def _caller(info: registry_pb2.GetServerInfoResponse, text: str) -> Caller:
    role = role_of(info.caller.role)
    if not info.HasField("caller") or role is None:
        raise UnavailableError(
            "the registry asks for no tokens and so knows none: VISTAFLOW_AUTH must be the same "
            "for every service",
            reason="AUTH_DIFFERS",
        )
    seconds = None
    if info.caller.HasField("expires_at"):
        left = info.caller.expires_at.ToNanoseconds() - info.now.ToNanoseconds()
        seconds = max(0.0, left / 1e9)
    return Caller(
        token_id=info.caller.token_id,
        name=info.caller.name,
        project=info.caller.project,
        role=role,
        scopes=tuple(info.caller.scopes),
        secret=text,
        validity=Validity(seconds),
    )
