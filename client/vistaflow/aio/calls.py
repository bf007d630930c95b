"""How the asynchronous client finds the service that a call is for, and calls it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Final, Self

from vistaflow.api.doe.v1 import doe_pb2_grpc
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc
from vistaflow.api.ml.v1 import ml_pb2_grpc
from vistaflow.api.optimize.v1 import optimize_pb2_grpc
from vistaflow.api.pipeline.v1 import pipeline_pb2_grpc
from vistaflow.api.registry.v1 import registry_pb2, registry_pb2_grpc
from vistaflow.channel import call, open_channel
from vistaflow.credentials import CA
from vistaflow.errors import UnavailableError
from vistaflow.local import reach
from vistaflow.replicas import Newest, addresses_of
from vistaflow.unreachable import why

DEFAULT_TIMEOUT_SECONDS: Final = 10.0
ANNOUNCED_SECONDS: Final = 4.0
"""How long a registry may have started ago and not know yet where every service is."""

_STUBS: Final[dict[str, Any]] = {
    "pipeline": pipeline_pb2_grpc.PipelineServiceStub,
    "ingestion": ingestion_pb2_grpc.IngestionServiceStub,
    "doe": doe_pb2_grpc.DoeServiceStub,
    "ml": ml_pb2_grpc.MlServiceStub,
    "optimize": optimize_pb2_grpc.OptimizeServiceStub,
}


class _Stage:
    """The connection to a stage service, which several calls share."""

    def __init__(self, service: str, address: str, token: str | Callable[[], str]) -> None:
        self.address = address
        self.channel = open_channel(address, token)
        self.stub: Any = _STUBS[service](self.channel)
        self.calls = 0
        """Calls under way."""
        self.left = False
        """Whether the service has moved or stopped; the last call then closes the channel."""


class Calls:
    """The connections of a client; needs the registry's address only, the others it asks for."""

    def __init__(
        self, address: str = "", *, timeout: float = DEFAULT_TIMEOUT_SECONDS, token: str = ""
    ) -> None:
        self.address, self._token = reach(address, token)
        self._timeout = timeout
        self._channel = open_channel(self.address, self._token)
        self._registry = registry_pb2_grpc.RegistryServiceStub(self._channel)
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
        """What the registry is, and where the other services are."""
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
            for each in getattr(response, field):
                yield each
                count += 1
                if count == limit:
                    return
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    async def _call(
        self, service: str, method: str, request: Any, *, timeout: float | None = None
    ) -> Any:
        timeout = timeout or self._timeout
        if service == "registry":
            return await self._call_registry(method, request, timeout)
        for last in (False, True):
            async with self._stage(service) as stage:
                try:
                    return await call(getattr(stage.stub, method), request, timeout=timeout)
                except UnavailableError as error:
                    # It may have moved: another port after a restart.
                    self._leave(service, stage)
                    if last or error.reason or (await self._address(service)) == stage.address:
                        raise
        raise AssertionError("unreachable")

    async def _call_registry(self, method: str, request: Any, timeout: float) -> Any:
        waits = self._newest.ask(request)
        try:
            response = await call(getattr(self._registry, method), request, timeout=timeout)
            self._newest.note(response)
            return response
        except UnavailableError as error:
            if waits and error.reason == "REVISION_NOT_REACHED":
                self._newest.forget()
            if error.reason:
                raise
            told = why(error.message, secured=bool(os.environ.get(CA)))
            raise UnavailableError(
                f"no registry answers at {self.address}" + (f": {told}" if told else ""),
                reason="NOT_REACHED" if told else "",
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
            known = [each for each in info.services if each.name == service and each.address]
            if known:
                # One that was killed is listed for a while beside the one that took its place.
                serving = [each for each in known if each.status == "SERVING"]
                newest = max(serving or known, key=lambda each: each.seen_at.ToNanoseconds())
                return newest.address
            if time.monotonic() >= end:
                break
            await asyncio.sleep(0.2)
        raise UnavailableError(
            f"the registry at {self.address} knows no {service} service; is the suite up?"
        )
