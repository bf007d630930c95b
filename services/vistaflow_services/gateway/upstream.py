"""Calls of the other services with the rights of the caller.

A call shows the token of the request that it is made for (`callers.current()`), never the
gateway's own. That one is used to ask the registry where the services are, and for nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from vistaflow._rpc.credentials import secured_channel
from vistaflow._rpc.replicas import replicated
from vistaflow.aio._artifacts import DEFAULT_HOLDER, HOLDERS, JOBS
from vistaflow.api.artifacts.v1 import artifacts_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.errors import VistaError
from vistaflow_services.core import dial
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import InvalidError, UnavailableError
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.rpc.channels import client_arguments
from vistaflow_services.gateway.messages import invalid

MODULES: Final = (
    registry_pb2, pipeline_pb2, ingestion_pb2, doe_pb2, ml_pb2, optimize_pb2, query_pb2,
    artifacts_pb2, datasets_pb2, outbox_pb2,
)  # fmt: skip

METHODS: Final[dict[str, MethodDescriptor]] = {
    f"{service.full_name}/{method.name}": method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every RPC by its name, such as `vistaflow.api.doe.v1.DoeService/GetDesign`."""

ADDRESS_SECONDS: Final = 5.0
"""How long an address of a service is believed."""

CALL_SECONDS: Final = 60.0
"""Deadline of a unary call."""

_REGISTRY: Final = ("registry", "datasets", "outbox")
_READ: Final = "vistaflow.api.registry.v1.RegistryService/GetJob"


class Upstream:
    """The connections to the other services.

    Args:
        registry: Asked where the services are, with the gateway's own rights.
    """

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry
        self._channels: dict[str, tuple[str, grpc.aio.Channel]] = {}
        self._callables: dict[grpc.aio.Channel, dict[str, Any]] = {}
        self._addresses: dict[str, str] = {}
        self._asked_at = -ADDRESS_SECONDS

    async def close(self) -> None:
        """Ends the connections."""
        for _, channel in self._channels.values():
            await channel.close()

    async def unary(
        self, method: MethodDescriptor, request: Message, *, timeout: float = CALL_SECONDS
    ) -> Any:
        """Makes a call of one message each way.

        Raises:
            grpc.aio.AioRpcError: What the service answered.
            UnavailableError: The registry knows no such service.
        """
        service = await self.service_of(method, request)
        for last in (False, True):
            channel = await self.channel(service)
            try:
                return await self._callable(channel, method)(request, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                # It may have moved: another port after a restart.
                if last or error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                if not await self.moved(service):
                    raise
        raise AssertionError("unreachable")

    async def stream(self, method: MethodDescriptor, request: Message) -> Any:
        """Opens a call whose answer is a stream; read it with `read`."""
        service = await self.service_of(method, request)
        return self._callable(await self.channel(service), method)(request)

    async def messages(
        self, method: MethodDescriptor, request: Message, stack: contextlib.AsyncExitStack
    ) -> AsyncIterator[Any]:
        """The messages of a stream, which ends with the stack at the latest.

        Raises:
            grpc.aio.AioRpcError: The stream failed before its first message.
        """
        call = await self.stream(method, request)
        stack.callback(call.cancel)
        first = await call.read()

        async def all_messages() -> AsyncIterator[Any]:
            message = first
            while message is not grpc.aio.EOF:
                yield message
                message = await call.read()

        return all_messages()

    async def upload(self) -> Any:
        """Opens a call that takes a file."""
        method = METHODS["vistaflow.api.ingestion.v1.IngestionService/UploadFile"]
        return self._callable(await self.channel("ingestion"), method)()

    async def service_of(self, method: MethodDescriptor, request: Any) -> str:
        """The service that serves a request."""
        package = str(method.containing_service.file.package).split(".")[2]
        if package != "artifacts":
            return "registry" if package in _REGISTRY else package
        if getattr(request, "service", ""):
            known = await self._known()
            service = str(request.service)
            # Those who share the home of a service have its log.
            serves_logs = service in known and service not in ("registry", "gateway")
            return service if serves_logs else DEFAULT_HOLDER
        job_id = getattr(request, "job_id", "")
        if not job_id:
            # Of logs there is no URI.
            uri = getattr(request, "uri", None)
            if uri is None:
                raise invalid("job_id", "name a job, or a service in `service`")
            if not uri.startswith(JOBS):
                raise invalid("uri", f"it has to begin with {JOBS}")
            job_id = uri.removeprefix(JOBS).partition("/")[0]
        question = registry_pb2.GetJobRequest(job_id=job_id, page_size=1)
        job = (await self.unary(METHODS[_READ], question)).job
        return HOLDERS.get(job.job_type, DEFAULT_HOLDER)

    async def channel(self, service: str) -> grpc.aio.Channel:
        """The connection to a service."""
        if service == "registry":
            address = self._registry.address
        else:
            address = (await self._known()).get(service, "")
            if not address:
                self._asked_at = -ADDRESS_SECONDS
                raise UnavailableError(f"no {service} service is known; is the suite up?")
        known = self._channels.get(service)
        if known is not None and known[0] == address:
            return known[1]
        try:
            channel = replicated(address, _opened)
        except VistaError as error:
            raise InvalidError(error.message, reason=error.reason) from None
        self._channels[service] = address, channel
        if known is not None:
            self._callables.pop(known[1], None)
            # Calls that still use it end by themselves; the others are over at once.
            closing = asyncio.create_task(known[1].close(CALL_SECONDS))
            closing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return channel

    async def moved(self, service: str) -> bool:
        """Whether a service has another address by now."""
        before = self._addresses.get(service)
        self._asked_at = -ADDRESS_SECONDS
        return service != "registry" and (await self._known()).get(service) != before

    def _callable(self, channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
        known = self._callables.setdefault(channel, {})
        if method.full_name not in known:
            kind = ("stream" if method.client_streaming else "unary") + (
                "_stream" if method.server_streaming else "_unary"
            )
            known[method.full_name] = getattr(channel, kind)(
                f"/{method.containing_service.full_name}/{method.name}",
                request_serializer=_serialized,
                response_deserializer=_parser(method),
            )
        return known[method.full_name]

    async def _known(self) -> dict[str, str]:
        """The addresses of the services."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_at >= ADDRESS_SECONDS:
            info = await self._registry.server_info()
            newest: dict[str, registry_pb2.ServiceInfo] = {}
            for entry in info.services:
                # A service that was killed stays listed for a while, next to its successor.
                other = newest.get(entry.name)
                if entry.address and (other is None or _rank(entry) > _rank(other)):
                    newest[entry.name] = entry
            self._addresses = {name: entry.address for name, entry in newest.items()}
            self._asked_at = now
        return self._addresses


def _rank(entry: registry_pb2.ServiceInfo) -> tuple[bool, int]:
    return entry.status == "SERVING", entry.seen_at.ToNanoseconds()


def _opened(address: str) -> grpc.aio.Channel:
    return secured_channel(
        address,
        client_arguments(),
        token=lambda: callers.current().secret,
        environment=dial.environment(),
    )


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


@functools.cache
def _parser(method: MethodDescriptor) -> Any:
    return GetMessageClass(method.output_type).FromString
