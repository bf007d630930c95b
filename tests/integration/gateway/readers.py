"""A gateway in front of a registry, and HTTP clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.gateway.__main__ import Gateway, build
from vistaflow_services.gateway.config import Config


@dataclass(frozen=True, kw_only=True)
class Served:
    """A gateway that serves."""

    gateway: Gateway
    registry: RegistryClient
    http: httpx.AsyncClient

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.gateway.address.rpartition(":")[2])

    async def kit(self, project: str = "") -> registry_pb2.Kit:
        """A kit with one job that runs, and that the test does."""
        request = registry_pb2.CreateKitRequest(
            name="a", project=project, jobs=[registry_pb2.NewJob(name="work", job_type=2)]
        )
        kit = (await self.registry.create_kit(request)).kit
        await self._append(
            common_pb2.State(job_id=kit.jobs[0].job_id, seq=1, status=common_pb2.STATUS_RUNNING)
        )
        return kit

    async def append(self, kit: registry_pb2.Kit, first: int, count: int, text: str = "") -> None:
        """Appends rows of so many tasks."""
        await self._append(
            *(
                common_pb2.State(
                    job_id=kit.jobs[0].job_id,
                    seq=1 + number,
                    task_name=f"t{number}",
                    status=common_pb2.STATUS_RUNNING,
                    reason=text,
                )
                for number in range(first, first + count)
            )
        )

    async def _append(self, *rows: common_pb2.State) -> None:
        answer = await self.registry.append(rows)
        assert {each.verdict for each in answer.results} == {registry_pb2.VERDICT_ACCEPTED}, answer

    async def log(self, kit: registry_pb2.Kit) -> list[int]:
        """The revisions of a kit in the log."""
        request = registry_pb2.ListStatesRequest(page_size=5000)
        request.filter.kit_ids.append(kit.kit_id)
        answer = await self.registry.call(self.registry.stub.ListStates, request)
        return [row.revision for row in answer.states]


@dataclass
class Reader:
    """What an event stream brought."""

    rows: list[int] = field(default_factory=list)
    snapshot: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    last_id: str = ""

    async def read(
        self, http: httpx.AsyncClient, path: str, until: Callable[[Reader], bool]
    ) -> None:
        """Reads until a condition holds or the stream ends, from where it stopped before."""
        headers = {"last-event-id": self.last_id} if self.last_id else {}
        async with http.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            kind = ""
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "event":
                    kind = value
                    self.kinds.append(kind)
                elif name == "data":
                    self.note(kind, json.loads(value))
                    if until(self):
                        return

    def note(self, kind: str, event: dict[str, Any]) -> None:
        """Takes one event."""
        if kind in ("delta", "snapshot"):
            revisions = [int(row["revision"]) for row in event[kind].get("states", ())]
            (self.rows if kind == "delta" else self.snapshot).extend(revisions)


@contextlib.asynccontextmanager
async def gateway_serving(address: str, home: Path, **settings: Any) -> AsyncIterator[Served]:
    """A gateway in front of the registry at an address."""
    registry = RegistryClient(address, actor="test")
    gateway = build(Config(listen="127.0.0.1:0", **settings), home, registry)
    stop = asyncio.Event()
    task = asyncio.create_task(gateway.serve(stop))
    limits = httpx.Limits(max_connections=None)
    try:
        async with httpx.AsyncClient(
            base_url=f"{'https' if gateway.tls else 'http'}://{gateway.address}",
            timeout=120,
            trust_env=False,
            limits=limits,
            verify=ssl.create_default_context(cafile=os.environ.get("VISTAFLOW_TLS_CA")),
        ) as http:
            while (await http.get("/healthz")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            yield Served(gateway=gateway, registry=registry, http=http)
    finally:
        stop.set()
        await task
        await registry.close()
