"""Other services as the pipeline asks them: found in the registry, in the name of the caller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from vistaflow_services.core.dial import open_channel
from vistaflow_services.core.errors import ServiceError, UnavailableError
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.rpc.status import error_of

TIMEOUT_SECONDS = 5.0
CHECK_SECONDS = 30.0
"""How long the check of a request may take: files and datasets are looked up."""

Answer = TypeVar("Answer", bound=Message)


async def address_of(registry: RegistryClient, name: str, purpose: str) -> str:
    """Where a service listens.

    Args:
        registry: Knows the services that are up.
        name: Such as `doe`.
        purpose: What it is needed for, for the error.

    Raises:
        UnavailableError: None is up.
    """
    info = await registry.server_info(patience=TIMEOUT_SECONDS)
    services = [service for service in info.services if service.name == name and service.address]
    if services:
        # A service that was killed is listed for a while, together with its successor.
        services.sort(
            key=lambda service: (service.status == "SERVING", service.seen_at.ToNanoseconds())
        )
        return services[-1].address
    raise UnavailableError(f"no {name.upper()} service is up; it is needed to {purpose}")


async def streamed(
    address: str, stub: Callable[[Any], Any], method: str, request: Message
) -> AsyncIterator[Any]:
    """The messages of a service's stream.

    Raises:
        ServiceError: What it said, or that it does not answer.
    """
    async with open_channel(address) as channel:
        try:
            async for message in getattr(stub(channel), method)(
                request, timeout=CHECK_SECONDS, wait_for_ready=True
            ):
                yield message
        except grpc.aio.AioRpcError as failure:
            error: ServiceError = error_of(failure)
            raise error from None


async def asked(
    address: str, stub: Callable[[Any], Any], method: str, request: Message | Iterator[Message]
) -> Any:
    """The answer of a service.

    Raises:
        ServiceError: What it said, or that it does not answer.
    """
    async with open_channel(address) as channel:
        try:
            return await getattr(stub(channel), method)(
                request, timeout=CHECK_SECONDS, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as failure:
            error: ServiceError = error_of(failure)
            raise error from None
