"""What the interceptors of a server add to a call, between real servers.

    python benchmarks/registry/interceptors.py [--seconds 2] [--rounds 7]

Servers that answer an empty append, each in a process of its own: gRPC alone, and then with what
every server has, one part more at a time. The figure is the processor time of the server's process
a call, of its least turn, as other load only adds to it. Without gRPC around them, interceptors
look cheaper than they are: each is a coroutine more that gRPC awaits for every call.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from bench import Table, arguments, run
from servers import Running, process, stub_of

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.door.interceptor import Door, DoorSettings
from vistaflow_services.core.rpc.interceptor import ErrorInterceptor
from vistaflow_services.core.server.metrics import Metrics

SERVICE = pb.DESCRIPTOR.services_by_name["RegistryService"].full_name
CALLERS = 4

VARIANTS = {
    "grpc": "gRPC alone",
    "door": "door, no tokens asked for",
    "limits": "door with limits of rate and streams",
    "errors": "errors and the default deadline",
    "both": "door and errors: what every server has",
    "metrics": "door, errors and metrics",
}


def interceptors(variant: str) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of a variant, outermost first."""
    door = Door(DoorSettings())
    errors = ErrorInterceptor(default_timeout=60.0)
    return {
        "grpc": lambda: [],
        "door": lambda: [door],
        "limits": lambda: [Door(DoorSettings(rate_per_second=1e6, streams_per_caller=100))],
        "errors": lambda: [errors],
        "both": lambda: [door, errors],
        "metrics": lambda: [Metrics().calls(), door, errors],
    }[variant]()


async def answer(request: pb.AppendStatesRequest, context: object) -> pb.AppendStatesResponse:
    return pb.AppendStatesResponse(revision=1)


async def serve(variant: str, file: Path) -> None:
    server = grpc.aio.server(interceptors=interceptors(variant))
    handler = grpc.unary_unary_rpc_method_handler(
        answer, pb.AppendStatesRequest.FromString, pb.AppendStatesResponse.SerializeToString
    )
    server.add_registered_method_handlers(SERVICE, {"AppendStates": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    file.write_text(f"127.0.0.1:{port}")
    await server.wait_for_termination()


@contextlib.asynccontextmanager
async def serving(variant: str, home: Path) -> AsyncIterator[Running]:
    file = home / f"{variant}.address"
    async with process(__file__, "--serve", variant, str(file), address_file=file) as running:
        yield running


async def microseconds(server: Running, seconds: float) -> float:
    """The processor time of a server for a call."""
    stubs = [stub_of(server.address) for _ in range(CALLERS)]
    request = pb.AppendStatesRequest()
    for stub in stubs:
        await stub.AppendStates(request)
    calls = 0

    async def call(stub: Any) -> None:
        nonlocal calls
        while time.perf_counter() < end:
            await stub.AppendStates(request)
            calls += 1

    used = server.cpu_seconds()
    end = time.perf_counter() + seconds
    await asyncio.gather(*map(call, stubs))
    return 1e6 * (server.cpu_seconds() - used) / calls


async def measure(home: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers = {
            variant: await stack.enter_async_context(serving(variant, home)) for variant in VARIANTS
        }
        least = dict.fromkeys(servers, float("inf"))
        for number in range(options.rounds):
            for variant in list(servers)[:: -1 if number % 2 else 1]:
                figure = await microseconds(servers[variant], options.seconds)
                least[variant] = min(least[variant], figure)
    table = Table("processor time of a server for an empty call, the least of its turns")
    table.add(VARIANTS["grpc"], least["grpc"], "us")
    for variant, what in list(VARIANTS.items())[1:]:
        table.add(what, least[variant], "us", against=least["grpc"], of="gRPC alone")


parser = arguments(__doc__, rounds=7)
if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve(sys.argv[2], Path(sys.argv[3])))
    else:
        options = parser.parse_args()
        run(measure)
