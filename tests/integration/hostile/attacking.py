"""Calls that no decent client makes, and what came of them."""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.rpc import error_details_pb2
from grpc_status import rpc_status

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
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.server.shell import Server, make_server
from vistaflow_services.core.stage import Stage, StageService

MODULES = (
    registry_pb2,
    pipeline_pb2,
    ingestion_pb2,
    doe_pb2,
    ml_pb2,
    optimize_pb2,
    query_pb2,
    artifacts_pb2,
    datasets_pb2,
    schedules_pb2,
    outbox_pb2,
)
STAGES = ("pipeline", "ingestion", "doe", "ml", "optimize", "query")

Code = grpc.StatusCode

ANSWERS = {
    Code.OK,
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.ALREADY_EXISTS,
    Code.FAILED_PRECONDITION,
    Code.OUT_OF_RANGE,
    Code.RESOURCE_EXHAUSTED,
    Code.ABORTED,
    Code.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED,
}
"""What a caller may be told. INTERNAL and UNKNOWN are bugs of ours."""

LEAK = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|/(work|home|tmp|usr|var)/|psycopg|postgres"
    r"|SELECT |INSERT |UPDATE |vistadb_|Error\(|object at 0x",
    re.IGNORECASE,
)
"""What tells of the insides of a server."""

WAITING = "waiting"
"""Stands for a stream that says nothing and does not end."""


@dataclass(kw_only=True)
class Outcome:
    """How a call ended; for a stream, how it began."""

    code: Code
    told: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    """Violations, by field."""
    bad: str = ""
    """What no caller must be told; empty if there is nothing."""


@dataclass(kw_only=True)
class Suite:
    """Every service, and a channel to each."""

    channels: dict[str, grpc.aio.Channel]
    addresses: dict[str, str]
    servers: list[Server]
    clients: list[RegistryClient]
    home: Path
    job_id: str = ""

    @classmethod
    async def start(cls, registry: str, home: Path) -> Suite:
        """Serves the stages beside a registry, and makes one kit."""
        addresses = dict.fromkeys(
            ("RegistryService", "DatasetService", "ScheduleService", "OutboxService"), registry
        )
        servers, clients = [], []
        for name in STAGES:
            module = importlib.import_module(f"vistaflow_services.{name}.__main__")
            service: StageService = module.SERVICE
            client = RegistryClient(registry, actor=name)
            server = make_server(*service.all_service_names)
            service.add_to(server, Stage(name, service.config(), client, home))
            address = server.bind("127.0.0.1:0")
            await server.start()
            await client.announce(name, address, "0", "SERVING")
            addresses[service.service_names[0].rpartition(".")[2]] = address
            addresses["ArtifactService"] = address  # which every stage serves
            servers.append(server)
            clients.append(client)
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ]
        channels = {
            name: grpc.aio.insecure_channel(address, options=options)
            for name, address in addresses.items()
        }
        made = cls(
            channels=channels, addresses=addresses, servers=servers, clients=clients, home=home
        )
        made.job_id = await made.smoke()
        return made

    async def stop(self) -> None:
        """Ends it."""
        await asyncio.gather(*(each.close() for each in self.channels.values()))
        await asyncio.gather(*(server.stop(0) for server in self.servers))
        await asyncio.gather(*(client.close() for client in self.clients))

    async def smoke(self) -> str:
        """Makes a kit, moves its job and reads it, as decent clients do; the job's id."""
        stub: Any = RegistryServiceStub(self.channels["RegistryService"])
        new = registry_pb2.CreateKitRequest(
            name="smoke", jobs=[registry_pb2.NewJob(name="work", job_type=2)]
        )
        kit = (await stub.CreateKit(new, timeout=60)).kit
        row = registry_pb2.AppendStatesRequest()
        row.states.add(job_id=kit.jobs[0].job_id, status=3)
        answer = await stub.AppendStates(row, timeout=60)
        assert answer.results[0].verdict == registry_pb2.VERDICT_ACCEPTED
        read = registry_pb2.GetKitRequest(kit_id=kit.kit_id, min_revision=answer.revision)
        assert (await stub.GetKit(read, timeout=60)).kit.jobs[0].status == 3
        for name in STAGES:
            service = next(s for s in services() if s.name.lower() == f"{name}service")
            info = await self.call(service.methods[0], b"\xff")
            assert info.code is Code.INVALID_ARGUMENT
        return str(kit.jobs[0].job_id)

    async def call(
        self, method: MethodDescriptor, *bodies: bytes, seconds: float = 100.0
    ) -> Outcome:
        """Sends raw bytes to a method; to a stream, one message after the other."""
        channel = self.channels[method.containing_service.name]
        path = f"/{method.containing_service.full_name}/{method.name}"
        try:
            if method.client_streaming:
                call: Any = channel.stream_stream(path)(each(bodies), timeout=seconds)
                return await _first(method, call)
            if method.server_streaming:
                return await _first(method, channel.unary_stream(path)(bodies[0], timeout=seconds))
            answer = await channel.unary_unary(path)(bodies[0], timeout=seconds)
            method.output_type._concrete_class.FromString(answer)
        except grpc.aio.AioRpcError as error:
            return _judged(error)
        return Outcome(code=Code.OK)

    async def call_all(
        self,
        calls: Sequence[tuple[MethodDescriptor, Sequence[bytes]]],
        *,
        at_once: int = 32,
        seconds: float = 100.0,
    ) -> list[Outcome]:
        """Makes many calls, some at once."""
        room = asyncio.Semaphore(at_once)

        async def one(method: MethodDescriptor, bodies: Sequence[bytes]) -> Outcome:
            async with room:
                return await self.call(method, *bodies, seconds=seconds)

        return await asyncio.gather(*(one(*each) for each in calls))


async def each(bodies: Sequence[bytes]) -> AsyncIterator[bytes]:
    for body in bodies:
        yield body


async def _first(method: MethodDescriptor, call: Any) -> Outcome:
    """What a stream begins with, or the complaint that it ends with."""
    seen = Outcome(code=Code.OK)
    while (answer := await call.read()) is not grpc.aio.EOF:
        message = method.output_type._concrete_class.FromString(answer)
        if method.name == "WatchMany" and message.event.HasField("end"):
            reason = message.event.end.reason
            if message.event.end.code == registry_pb2.END_REASON_EPOCH_CHANGED:
                seen = Outcome(code=Code.FAILED_PRECONDITION, told=reason)
            elif message.event.end.code == registry_pb2.END_REASON_INVALID:
                found = {reason.partition(":")[0]: reason}
                seen = Outcome(code=Code.INVALID_ARGUMENT, told=reason, fields=found)
            break
        if method.name not in ("StreamStates", "LeaseJobs"):
            break
    call.cancel()
    return seen


def _judged(error: grpc.aio.AioRpcError) -> Outcome:
    told = error.details() or ""
    outcome = Outcome(code=error.code(), told=told)
    status = rpc_status.from_call(error)
    texts = [told]
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            outcome.fields |= {each.field: each.description for each in bad.field_violations}
            texts += outcome.fields.values()
    if error.code() not in ANSWERS:
        outcome.bad = f"{error.code().name}: {told}"
    for text in texts:
        leak = LEAK.search(text)
        if leak:
            outcome.bad = f"tells {leak[0]!r}: {text[:300]}"
    return outcome


def services() -> Iterator[ServiceDescriptor]:
    """Every service."""
    for module in MODULES:
        yield from module.DESCRIPTOR.services_by_name.values()


def methods() -> list[MethodDescriptor]:
    """Every method of every service."""
    return [method for service in services() for method in service.methods]
