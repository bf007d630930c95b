"""The connections of the asynchronous client: the registry, and the services it lists."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import Any, Final, Self

import grpc

from vistaflow._machine.local import reach
from vistaflow._rpc.channel import call, open_channel
from vistaflow._rpc.credentials import CA
from vistaflow._rpc.messages import is_number
from vistaflow._rpc.replicas import Newest, addresses_of
from vistaflow._rpc.unreachable import why
from vistaflow.api.artifacts.v1 import artifacts_pb2_grpc
from vistaflow.api.datasets.v1 import datasets_pb2_grpc
from vistaflow.api.doe.v1 import doe_pb2_grpc
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc
from vistaflow.api.ml.v1 import ml_pb2_grpc
from vistaflow.api.optimize.v1 import optimize_pb2_grpc
from vistaflow.api.outbox.v1 import outbox_pb2_grpc
from vistaflow.api.pipeline.v1 import pipeline_pb2_grpc
from vistaflow.api.query.v1 import query_pb2_grpc
from vistaflow.api.registry.v1 import registry_pb2, registry_pb2_grpc
from vistaflow.errors import CanceledError, UnavailableError, from_rpc, invalid

DEFAULT_TIMEOUT_SECONDS: Final = 10.0
ANNOUNCED_SECONDS: Final = 4.0
"""Time after its start within which a registry may not know all services yet, in seconds."""

_STUBS: Final[dict[str, Any]] = {
    "pipeline": pipeline_pb2_grpc.PipelineServiceStub,
    "ingestion": ingestion_pb2_grpc.IngestionServiceStub,
    "doe": doe_pb2_grpc.DoeServiceStub,
    "ml": ml_pb2_grpc.MlServiceStub,
    "optimize": optimize_pb2_grpc.OptimizeServiceStub,
    "query": query_pb2_grpc.QueryServiceStub,
}


class _Stage:
    """The connection to a stage service, which several calls share."""

    def __init__(self, service: str, address: str, token: str | Callable[[], str]) -> None:
        self.address = address
        self.channel = open_channel(address, token)
        self.stub: Any = _STUBS[service](self.channel)
        self.artifacts: Any = artifacts_pb2_grpc.ArtifactServiceStub(self.channel)
        self.calls = 0
        """Calls under way."""
        self.left = False
        """Whether the service has moved or stopped; the last call then closes the channel."""


class Calls:
    """The connections of a client: the registry's address leads to all other services."""

    def __init__(
        self, address: str = "", *, timeout: float = DEFAULT_TIMEOUT_SECONDS, token: str = ""
    ) -> None:
        for name, value in (("address", address), ("token", token)):
            if not isinstance(value, str):
                raise invalid(name, f"{value!r} is not a text")
        if not is_number(timeout) or not timeout > 0:
            raise invalid("timeout", f"is {timeout!r}; give a number of seconds above 0")
        self.address, self._token = reach(address, token)
        self._timeout = timeout
        self._channel = open_channel(self.address, self._token)
        self._registry = registry_pb2_grpc.RegistryServiceStub(self._channel)
        self._at_registry: dict[str, Any] = {
            "registry": self._registry,
            "datasets": datasets_pb2_grpc.DatasetServiceStub(self._channel),
            "outbox": outbox_pb2_grpc.OutboxServiceStub(self._channel),
        }
        """The services that are served at the registry's address."""
        self._newest = Newest(len(addresses_of(self.address)))
        self._stages: dict[str, _Stage] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        for stage in self._stages.values():
            await stage.channel.close()
        await self._channel.close()

    async def server_info(self) -> registry_pb2.GetServerInfoResponse:
        """The registry's version, limits and revision, and the addresses of the other services."""
        request = registry_pb2.GetServerInfoRequest()
        info: registry_pb2.GetServerInfoResponse = await self._call(
            "registry", "GetServerInfo", request
        )
        return info

    async def _pages(
        self, service: str, method: str, request: Any, field: str, limit: int = 0
    ) -> AsyncIterator[Any]:
        count = 0
        while True:
            response = await self._call(service, method, request)
            for message in getattr(response, field):
                yield message
                count += 1
                if count == limit:
                    return
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    async def _call(
        self,
        service: str,
        method: str,
        request: Any,
        *,
        timeout: float | None = None,
        stub: str = "stub",
    ) -> Any:
        timeout = timeout or self._timeout
        if service in self._at_registry:
            bound = getattr(self._at_registry[service], method)
            return await self._call_registry(bound, request, timeout)
        for last in (False, True):
            async with self._stage(service) as stage:
                try:
                    bound = getattr(getattr(stage, stub), method)
                    return await call(bound, request, timeout=timeout)
                except UnavailableError as error:
                    # It may have moved: another port after a restart.
                    self._leave(service, stage)
                    if last or error.reason or (await self._address(service)) == stage.address:
                        raise
        raise AssertionError("unreachable")

    async def _stream(
        self, service: str, method: str, request: Any, *, stub: str = "stub"
    ) -> AsyncGenerator[Any, None]:
        """The messages of a stream of a stage service."""
        for last in (False, True):
            has_begun = False
            async with self._stage(service) as stage:
                stream = getattr(getattr(stage, stub), method)(request)
                try:
                    async for message in stream:
                        has_begun = True
                        yield message
                    return
                except grpc.aio.UsageError:
                    raise CanceledError("the client was closed", reason="CLOSED") from None
                except grpc.aio.AioRpcError as error:
                    translated = from_rpc(error)
                    if not isinstance(translated, UnavailableError):
                        raise translated from None
                    # It may have moved: another port after a restart.
                    self._leave(service, stage)
                    if has_begun or last or translated.reason:
                        raise translated from None
                finally:
                    stream.cancel()

    async def _call_registry(self, method: Any, request: Any, timeout: float) -> Any:
        waits = self._newest.ask(request)
        try:
            response = await call(method, request, timeout=timeout)
            self._newest.note(response)
            return response
        except UnavailableError as error:
            if waits and error.reason == "REVISION_NOT_REACHED":
                self._newest.forget()
            if error.reason:
                raise
            cause = why(error.message, secured=bool(os.environ.get(CA)))
            raise UnavailableError(
                f"no registry answers at {self.address}" + (f": {cause}" if cause else ""),
                reason="NOT_REACHED" if cause else "",
            ) from None

    @contextlib.asynccontextmanager
    async def _stage(self, service: str) -> AsyncIterator[_Stage]:
        """The connection to a stage service, open for as long as the block runs."""
        if service not in self._stages:
            address = await self._address(service)
            # A concurrent call may have opened it meanwhile.
            if service not in self._stages:
                self._stages[service] = _Stage(service, address, self._token)
        stage = self._stages[service]
        stage.calls += 1
        try:
            yield stage
        finally:
            stage.calls -= 1
            if stage.left and not stage.calls:
                await stage.channel.close()

    def _leave(self, service: str, stage: _Stage) -> None:
        """Makes later calls look the address up again; the last open call closes the channel."""
        stage.left = True
        if self._stages.get(service) is stage:
            del self._stages[service]

    async def _address(self, service: str) -> str:
        end = time.monotonic() + min(ANNOUNCED_SECONDS, self._timeout)
        while True:
            info = await self.server_info()
            listed = [entry for entry in info.services if entry.name == service and entry.address]
            if listed:
                # A service that was killed stays listed for a while, next to its successor.
                serving = [entry for entry in listed if entry.status == "SERVING"]
                newest = max(serving or listed, key=lambda entry: entry.seen_at.ToNanoseconds())
                return newest.address
            if time.monotonic() >= end:
                break
            await asyncio.sleep(0.2)
        raise UnavailableError(
            f"the registry at {self.address} knows no {service} service; is the suite up?"
        )
