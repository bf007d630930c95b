"""A registry whose answers are a script: it errs, stalls, cuts streams and repeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.datasets.v1 import datasets_pb2, datasets_pb2_grpc
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc

CUT = grpc.StatusCode.UNAVAILABLE
"""In the script of a watch: the stream breaks here."""
HANG = object()
"""In a script: nothing comes any more."""

Step = pb.WatchStatesResponse | grpc.StatusCode | object


class ScriptedRegistry(rpc.RegistryServiceServicer, datasets_pb2_grpc.DatasetServiceServicer):
    """Answers calls from lists of steps; the last step of a list answers for ever."""

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[Any] = []
        self.watches: list[pb.WatchStatesRequest] = []
        self.answers: list[Message | Callable[[Any], Any]] = [pb.GetServerInfoResponse()]
        self.streams: list[list[Step]] = []
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str = "127.0.0.1:0") -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        rpc.add_RegistryServiceServicer_to_server(self, self._server)
        datasets_pb2_grpc.add_DatasetServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def _answer(self, request: Any, context: Any) -> Any:
        copy = type(request)()
        copy.CopyFrom(request)
        self.requests.append(copy)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(context) if callable(answer) else answer

    async def WatchStates(
        self, request: pb.WatchStatesRequest, context: Any
    ) -> AsyncIterator[pb.WatchStatesResponse]:
        self.watches.append(request)
        steps = self.streams.pop(0) if self.streams else [HANG]
        for step in steps:
            if isinstance(step, grpc.StatusCode):
                await context.abort(step, "as the script says")
            elif step is HANG:
                await asyncio.Event().wait()
            else:
                yield step


for method in (
    *pb.DESCRIPTOR.services_by_name["RegistryService"].methods,
    *datasets_pb2.DESCRIPTOR.services_by_name["DatasetService"].methods,
):
    if not (method.client_streaming or method.server_streaming):
        setattr(ScriptedRegistry, method.name, ScriptedRegistry._answer)


def refuse(
    code: grpc.StatusCode, message: str = "no", *, details: Iterable[Message] = ()
) -> Callable[[Any], Any]:
    """A step that ends the call with a status, its details as grpc-status-details-bin."""

    async def answer(context: Any) -> None:
        status = status_pb2.Status(code=code.value[0], message=message)
        for each in details:
            packed = any_pb2.Any()
            packed.Pack(each)
            status.details.append(packed)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        await context.abort(code, message)

    return answer


def stall(seconds: float) -> Callable[[Any], Any]:
    """A step that answers too late."""

    async def answer(context: Any) -> pb.GetServerInfoResponse:
        await asyncio.sleep(seconds)
        return pb.GetServerInfoResponse()

    return answer


def info(reason: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="vistaflow")


def row(
    revision: int, kit_id: int = 1, status: str = "RUNNING", task: str = ""
) -> common_pb2.State:
    return common_pb2.State(
        revision=revision,
        kit_id=kit_id,
        job_id="00000000-0000-0000-0000-000000000001",
        job_type=common_pb2.JOB_TYPE_DOE,
        task_name=task,
        status=common_pb2.Status.Value(f"STATUS_{status}"),
    )


def delta(*revisions: int) -> pb.WatchStatesResponse:
    return pb.WatchStatesResponse(
        revision=max(revisions), delta=pb.Delta(states=[row(each) for each in revisions])
    )


def snapshot(revision: int, *revisions: int) -> pb.WatchStatesResponse:
    states = [row(each) for each in revisions]
    return pb.WatchStatesResponse(revision=revision, snapshot=pb.Snapshot(states=states))


def synced(revision: int, epoch: str = "e1") -> pb.WatchStatesResponse:
    return pb.WatchStatesResponse(revision=revision, synced=pb.Synced(epoch=epoch))


def bookmark(revision: int) -> pb.WatchStatesResponse:
    return pb.WatchStatesResponse(revision=revision, bookmark=pb.Bookmark(head_revision=revision))


def end(revision: int) -> pb.WatchStatesResponse:
    return pb.WatchStatesResponse(revision=revision, end=pb.End(reason="DRAINING"))
