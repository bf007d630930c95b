"""The gateway against gRPC: watches of many readers, unary calls, memory.

    python benchmarks/gateway.py [--readers 200 1000] [--seconds 4] [--rounds 2]

One writer appends ten rows a second to one kit. As many readers follow it as server-sent events of
the gateway and, in turns, as gRPC watches of the registry; the readers are processes of their own.
It fails unless every reader gets every row once and in order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent / "registry"))
from bench import Run, Table, arguments, interleave, quantile, run
from memory import write
from servers import Running, new_job, postgres, process, registry, stub_of
from watch import Load

from vistaflow.api.registry.v1 import registry_pb2 as pb

RATE = 10.0
CALLS = 400
SAMPLED = 100
"""Readers whose deliveries are timed; of the others every row is looked at too."""


@contextlib.asynccontextmanager
async def gateway(address: str, home: Path) -> AsyncIterator[Running]:
    """The gateway in front of a registry."""
    file = home / "gateway.address"
    env = {
        "VISTAFLOW_GATEWAY_LISTEN": "127.0.0.1:0",
        "VISTAFLOW_GATEWAY_ADDRESS_FILE": str(file),
        # One caller may have half of three quarters of these as streams.
        "VISTAFLOW_GATEWAY_MAX_CONNECTIONS": "4000",
        "VISTAFLOW_REGISTRY": address,
        "VISTAFLOW_HOME": str(home / "gateway"),
    }

    async def healthy(address: str) -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            while (await http.get(f"http://{address}/healthz")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    command = ("-m", "vistaflow_services.gateway")
    async with process(*command, address_file=file, env=env, ready=healthy) as running:
        yield running


@functools.lru_cache(1024)
def revisions(line: bytes) -> list[int]:
    """Those of the rows of an event; all readers get the same bytes, which are parsed once."""
    return [int(row["revision"]) for row in json.loads(line[6:])["delta"].get("states", ())]


class Reader(asyncio.Protocol):
    """A reader of server-sent events."""

    def __init__(self, crowd: Events, number: int) -> None:
        self._crowd, self._number = crowd, number
        self._rest = b""
        self._times = crowd.got.setdefault(str(number), []) if number < SAMPLED else []
        self.before = 0

    def data_received(self, data: bytes) -> None:
        """Looks at every row."""
        arrival, crowd = time.monotonic(), self._crowd
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"event: synced"):
                crowd.begun += 1
            elif line.startswith(b"data: ") and b'"delta"' in line:
                for revision in revisions(line):
                    crowd.disorder += revision <= self.before
                    self.before = revision
                    crowd.counts[self._number] += 1
                    self._times.append((revision, arrival))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails: only the end of the process ends a stream."""
        raise SystemExit("a stream ended before its time")


class Events:
    """Readers of server-sent events, in this process."""

    def __init__(self, address: str, head: int, count: int) -> None:
        self._address = address
        self._head = head
        self.counts = [0] * count
        self.got: dict[str, list[tuple[int, float]]] = {}
        self.disorder = 0
        self.begun = 0

    async def run(self) -> None:
        """Reads until the revision that standard input names, and prints what was seen."""
        host, _, port = self._address.rpartition(":")
        path = f"/v1/events?after_revision={self._head}"
        readers = []
        for number in range(len(self.counts)):
            transport, reader = await asyncio.get_running_loop().create_connection(
                lambda number=number: Reader(self, number),  # type: ignore[misc]
                host,
                int(port),
            )
            transport.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            readers.append(reader)
        while self.begun < len(readers):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        print("ready", flush=True)
        last = int(await asyncio.to_thread(sys.stdin.readline))
        while any(reader.before < last for reader in readers):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        seen = {"counts": self.counts, "disorder": self.disorder, "got": self.got}
        print(json.dumps(seen), flush=True)


async def quiet(running: Sequence[Running]) -> float:
    """Waits until the servers have nothing to do; the processor time that they have used.

    Readers have begun before the work of their arrival is over: the watch that each began with is
    still to be ended. Rows would wait behind it, and it would count as that of the rows.
    """
    used = 0.0
    while True:
        before, used = used, sum(one.cpu_seconds() for one in running)
        if used - before <= 0.02:
            return used
        await asyncio.sleep(0.5)


async def turn(
    server: Running, front: Running | None, kits: Path, readers: int
) -> dict[str, float]:
    """Figures of one turn, times in ms; without a gateway the readers are gRPC watches."""
    head = (await stub_of(server.address).GetServerInfo(pb.GetServerInfoRequest())).revision
    running = [one for one in (server, front) if one is not None]
    before = sum(one.cpu_seconds() for one in running)
    common = {"address": server.address, "kits": kits}
    if front is None:
        # A connection each, as readers have that are programs of their own.
        crowd = await Load.start("watch", watchers=readers, connections=readers, of="all", **common)
    else:
        crowd = await Load.start(
            "read", script=__file__, address=front.address, head=head, readers=readers
        )
    writer = await Load.start("write", rate=RATE, seconds=options.seconds, **common)
    used = await quiet(running)
    arrival = used - before
    appends = (await writer.end())["appends"]
    # The last rows may still be on their way to the readers.
    await asyncio.sleep(0.5)
    used = sum(one.cpu_seconds() for one in running) - used
    memory = front.memory_mib() if front is not None else server.memory_mib()
    seen = await crowd.end(str(appends[-1][1]))
    rows = len(appends) + 1  # and the one with which the writer began
    if set(seen["counts"]) != {rows} or seen["disorder"]:
        raise SystemExit(f"{min(seen['counts'])} to {max(seen['counts'])} of {rows} rows came")
    acked = {revision: ack for _, revision, _, ack in appends}
    delays = [
        1000 * (arrival_time - acked[revision])
        for got in seen["got"].values()
        for revision, arrival_time in got
        if revision in acked
    ]
    return {
        "arrival": 1000 * arrival / readers,
        "cpu": 1000 * used / len(appends),
        "p50": quantile(delays, 0.5),
        "p99": quantile(delays, 0.99),
        "memory": memory,
    }


async def unary(server: Running, front: Running, kit_id: int) -> dict[str, float]:
    """Processor time of a call of GetKit in ms, over gRPC and over HTTP."""
    stub, used = stub_of(server.address), server.cpu_seconds()
    for _ in range(CALLS):
        await stub.GetKit(pb.GetKitRequest(kit_id=kit_id))
    grpc = server.cpu_seconds() - used
    used = server.cpu_seconds() + front.cpu_seconds()
    async with httpx.AsyncClient(base_url=f"http://{front.address}", trust_env=False) as http:
        for _ in range(CALLS):
            (await http.get(f"/v1/kits/{kit_id}")).raise_for_status()
    over_http = server.cpu_seconds() + front.cpu_seconds() - used
    return {"grpc": 1000 * grpc / CALLS, "http": 1000 * over_http / CALLS}


async def deaf(server: Running, front: Running, job_id: str) -> float:
    """MiB by which the gateway grows under a reader that never reads, while 20 MB go by."""
    host, _, port = front.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1 << 10)
    writer.write(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await asyncio.sleep(1)
    before, most = front.memory_mib(), 0.0
    for _ in range(20):
        await write(stub_of(server.address), job_id, 1_000)
        most = max(most, front.memory_mib())
    writer.close()
    return most - before


async def measure(home: Path) -> None:
    with postgres(home) as dsn:
        async with registry(dsn, home) as server, gateway(server.address, home) as front:
            stub = stub_of(server.address)
            kit_id, job_id = await new_job(stub)
            kits = home / "kits"
            kits.write_text(json.dumps([(kit_id, job_id)]))
            table = Table("the gateway against gRPC")
            calls = await interleave({"calls": lambda: unary(server, front, kit_id)}, 3)
            beyond = calls["calls"]["http"] - calls["calls"]["grpc"]
            grpc = calls["calls"]["grpc"]
            table.add("GetKit over gRPC: processor", grpc, "ms a call")
            table.add("over HTTP beyond that", beyond, "ms a call", most=0.8, absolute=True)
            for readers in options.readers:
                variants: dict[str, Run] = {
                    "sse": lambda count=readers: turn(server, front, kits, count),  # type: ignore[misc]
                    "grpc": lambda count=readers: turn(server, None, kits, count),  # type: ignore[misc]
                }
                got = await interleave(variants, options.rounds)
                sse, watch = got["sse"], got["grpc"]
                name = f"{readers:,} readers"
                cpu = {"against": watch["cpu"], "of": "gRPC"}
                table.add(
                    f"{name}: processor of an arrival",
                    sse["arrival"],
                    "ms",
                    against=watch["arrival"],
                    of="gRPC",
                )
                table.add(f"{name}: processor a row", sse["cpu"], "ms", most=0.5, **cpu)
                table.add(f"{name}: p50", sse["p50"], "ms", against=watch["p50"], of="gRPC")
                table.add(f"{name}: p99", sse["p99"], "ms", against=watch["p99"], of="gRPC", most=1)
                table.add(
                    f"{name}: memory of the gateway", sse["memory"], "MiB", most=150, absolute=True
                )
            growth = await deaf(server, front, job_id)
            table.add("growth under one that never reads", growth, "MiB", most=20, absolute=True)


parser = arguments(__doc__, seconds=4.0, rounds=2)
parser.add_argument("--readers", type=int, nargs="+", default=[200, 1000], help="of an event")
if __name__ == "__main__" and sys.argv[1:2] == ["read"]:
    reading = argparse.ArgumentParser()
    reading.add_argument("--address")
    reading.add_argument("--head", type=int)
    reading.add_argument("--readers", type=int)
    own = reading.parse_args(sys.argv[2:])
    asyncio.run(Events(own.address, own.head, own.readers).run())
elif __name__ == "__main__":
    options = parser.parse_args()
    run(measure)
