"""A registry that does what a test tells it: it errs, vanishes, repeats and records."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf import any_pb2, wrappers_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2, registry_pb2_grpc
from vistaflow_services.core.errors import InvalidError, NotFoundError, UnavailableError
from vistaflow_services.core.server.shell import Server, make_server

NAME = "vistaflow.api.registry.v1.RegistryService"
LEASE_SECONDS = 1.5


def spec_of(**what: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(wrappers_pb2.StringValue(value=json.dumps(what)))
    return packed


class ScriptedRegistry(registry_pb2_grpc.RegistryServiceServicer):
    def __init__(self) -> None:
        self.address = "127.0.0.1:0"
        self.rows: list[common_pb2.State] = []
        self.heartbeats: list[registry_pb2.Heartbeat] = []
        self.releases: list[registry_pb2.Release] = []
        self.said: list[str] = []
        """What the worker said after its hello, in order: `beat`, `draining`, `release`, `end`."""
        self.hellos: list[registry_pb2.WorkerHello] = []
        self.created: list[registry_pb2.CreateJobRequest] = []
        self.announced: list[registry_pb2.ServiceInfo] = []
        self.jobs: dict[str, common_pb2.Job] = {}
        self.faults = 0
        self.refuse: Callable[[common_pb2.State], bool] = lambda row: False
        self.breaks: Callable[[common_pb2.State], bool] = lambda row: False
        """Which rows meet a bug of the registry."""
        self.broken: list[list[int]] = []
        """The seqs of the rows of each append that met one."""
        self.reject: Callable[[common_pb2.State], bool] = lambda row: False
        self.verdict = registry_pb2.VERDICT_ACCEPTED
        self._pending: list[registry_pb2.LeaseJobsResponse] = []
        self._changed = asyncio.Condition()
        self._server: Server | None = None

    async def start(self) -> None:
        self._server = make_server(NAME)
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(self, self._server)
        self.address = self._server.bind(self.address)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def until(self, holds: Callable[[], Any], seconds: float = 120) -> None:
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(holds)

    async def grant(
        self, *, attempt: int = 1, timeout: float = 0, job_id: str = "", **what: Any
    ) -> str:
        job = common_pb2.Job(
            kit_id=1,
            job_id=job_id or str(uuid.uuid4()),
            name="design",
            job_type=common_pb2.JOB_TYPE_DOE,
            attempt=attempt,
            spec=spec_of(**what),
        )
        if timeout:
            job.timeout.FromNanoseconds(int(timeout * 1e9))
        await self.tell(grant=registry_pb2.Grant(job=job))
        return job.job_id

    async def direct(self, job_id: str, action: registry_pb2.Action, attempt: int = 1) -> None:
        directive = registry_pb2.Directive(
            job_id=job_id, attempt=attempt, action=action, reason="so it is"
        )
        await self.tell(directive=directive)

    async def tell(self, **message: Any) -> None:
        async with self._changed:
            self._pending.append(registry_pb2.LeaseJobsResponse(**message))
            self._changed.notify_all()

    async def _note(self, kept: list[Any], *messages: Any) -> None:
        async with self._changed:
            kept.extend(messages)
            self._changed.notify_all()

    async def LeaseJobs(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async def listen() -> None:
            async for request in requests:
                if request.HasField("heartbeat"):
                    self.said.append("draining" if request.heartbeat.draining else "beat")
                    await self._note(self.heartbeats, request.heartbeat)
                elif request.HasField("release"):
                    self.said.append("release")
                    await self._note(self.releases, request.release)
            await self._note(self.said, "end")

        first = await anext(aiter(requests))
        await self._note(self.hellos, first.hello)
        welcome = registry_pb2.Welcome()
        welcome.lease.FromNanoseconds(int(LEASE_SECONDS * 1e9))
        yield registry_pb2.LeaseJobsResponse(welcome=welcome)
        listening = asyncio.create_task(listen())
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._pending or self.said[-1:] == ["end"])
                    if not self._pending:
                        return
                    message = self._pending.pop(0)
                yield message
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await listening

    async def AppendStates(self, request: Any, context: Any) -> Any:
        if self.faults:
            self.faults -= 1
            raise UnavailableError("the database restarts")
        if any(self.breaks(each) for each in request.states):
            self.broken.append([each.seq for each in request.states])
            raise RuntimeError("a bug")
        if any(self.refuse(each) for each in request.states):
            raise InvalidError("a row is malformed")
        await self._note(self.rows, *request.states)
        result = registry_pb2.AppendResult(verdict=self.verdict)
        rejected = registry_pb2.AppendResult(
            verdict=registry_pb2.VERDICT_REJECTED, detail="it may not"
        )
        results = [rejected if self.reject(each) else result for each in request.states]
        return registry_pb2.AppendStatesResponse(results=results)

    async def GetJob(self, request: Any, context: Any) -> Any:
        if request.job_id not in self.jobs:
            raise NotFoundError(f"no job {request.job_id}")
        return registry_pb2.GetJobResponse(job=self.jobs[request.job_id])

    async def CreateJob(self, request: Any, context: Any) -> Any:
        self.created.append(request)
        if self.faults:
            self.faults -= 1
            raise UnavailableError("the database restarts")
        job = common_pb2.Job(kit_id=1, job_id=str(uuid.uuid4()), job_type=request.job.job_type)
        return registry_pb2.CreateJobResponse(job=job)

    async def AnnounceService(self, request: Any, context: Any) -> Any:
        await self._note(self.announced, request.service)
        return registry_pb2.AnnounceServiceResponse()


def words(rows: list[common_pb2.State], job_id: str) -> list[tuple[int, str, str]]:
    """The rows of a job as (seq, task, status)."""
    return [
        (each.seq, each.task_name, common_pb2.Status.Name(each.status).removeprefix("STATUS_"))
        for each in rows
        if each.job_id == job_id
    ]


__all__ = ["LEASE_SECONDS", "ScriptedRegistry", "grpc", "spec_of", "words"]
