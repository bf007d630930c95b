"""The processor time of the interceptors around a call, without gRPC's own.

python benchmarks/registry/interceptors.py [--rounds 15]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
from bench import Table, arguments, run

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.door.interceptor import Door, DoorSettings
from vistaflow_services.core.rpc.interceptor import ErrorInterceptor
from vistaflow_services.core.server.metrics import Metrics

CALLS = 2000
METHOD = f"/{pb.DESCRIPTOR.services_by_name['RegistryService'].full_name}/AppendStates"


class Context:
    """A call without a deadline of its own."""

    def time_remaining(self) -> None:
        return None

    def code(self) -> int:
        return 0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


async def answer(request: pb.AppendStatesRequest, context: object) -> pb.AppendStatesResponse:
    return pb.AppendStatesResponse(revision=1)


async def microseconds(interceptors: Sequence[grpc.aio.ServerInterceptor], rounds: int) -> float:
    """The least processor time a call of an empty method takes within these."""
    handler = grpc.unary_unary_rpc_method_handler(
        answer, pb.AppendStatesRequest.FromString, pb.AppendStatesResponse.SerializeToString
    )
    details: Any = SimpleNamespace(method=METHOD, invocation_metadata=())
    context = Context()

    async def innermost(_: Any) -> Any:
        return handler

    find: Any = innermost
    for interceptor in reversed(interceptors):

        def around(details: Any, interceptor: Any = interceptor, inside: Any = find) -> Any:
            return interceptor.intercept_service(inside, details)

        find = around
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(CALLS):
            rpc_handler = await find(details)
            response = await rpc_handler.unary_unary(rpc_handler.request_deserializer(b""), context)
            if rpc_handler.response_serializer:
                rpc_handler.response_serializer(response)
        best = min(best, time.process_time() - began)
    return 1e6 * best / CALLS


async def measure(home: Path) -> None:
    door = Door(DoorSettings())
    limited = Door(DoorSettings(rate_per_second=1e6, streams_per_caller=100))
    errors = ErrorInterceptor(default_timeout=60.0)
    metrics = Metrics()
    none = await microseconds([], options.rounds)
    table = Table("interceptors around a unary call, processor time of each")
    for what, interceptors in (
        ("door, no tokens asked for", [door]),
        ("door with limits of rate and streams", [limited]),
        ("errors and the default deadline", [errors]),
        ("door and errors: what every server has", [door, errors]),
        ("door, errors and metrics", [metrics.calls(), door, errors]),
    ):
        table.add(what, await microseconds(interceptors, options.rounds) - none, "us")


options = arguments(__doc__, rounds=15).parse_args()
if __name__ == "__main__":
    run(measure)
