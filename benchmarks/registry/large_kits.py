"""GetKit by the number of tasks, and what it does to others.

    python benchmarks/registry/large_kits.py [--tasks 1000,5000,8000,16000,64000] [--seconds 2]

For each size: the first read of all pages, a read of them without a change since, and one after a
row of one task. Then another caller appends to a kit of its own, alone and while two others read
the kit ten times a second at most, with a row appended to it between two reads. Answers are not
parsed, so that a reader takes no time of its own. The longest turn of the registry's event loop is
in processor time, on which other load has no effect.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from bench import Table, arguments, quantile, run
from servers import METADATA, Running, new_job, postgres, stub_of
from stalls import timed_registry

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb

GET_KIT = f"/{pb.DESCRIPTOR.services_by_name['RegistryService'].full_name}/GetKit"
A_PAGE = 1_000
"""Rows of an append."""
READERS = 2
PAUSE = 0.1
"""Seconds between two reads of a reader: without it faster reads would be more reads."""
MOST_MS = 100.0


def row(job_id: str, task: str) -> pb.AppendStatesRequest:
    """An append of one row."""
    state = common.State(job_id=job_id, task_name=task, status=common.STATUS_RUNNING)
    state.metadata.update(METADATA)
    return pb.AppendStatesRequest(states=[state])


async def kit_of(stub: Any, tasks: int) -> tuple[int, str]:
    """A kit with one job of so many tasks."""
    kit_id, job_id = await new_job(stub, f"{tasks} tasks")
    for start in range(0, tasks, A_PAGE):
        request = pb.AppendStatesRequest()
        for number in range(start, min(tasks, start + A_PAGE)):
            request.MergeFrom(row(job_id, f"task-{number}"))
        await stub.AppendStates(request)
    return kit_id, job_id


class Reader:
    """Reads a kit, page by page, without parsing more of an answer than its token."""

    def __init__(self, address: str, kit_id: int) -> None:
        channel = grpc.aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._call = channel.unary_unary(
            GET_KIT, request_serializer=pb.GetKitRequest.SerializeToString
        )
        self._kit_id = kit_id

    async def first_page(self) -> bytes:
        """The first page in wire form."""
        answer: bytes = await self._call(pb.GetKitRequest(kit_id=self._kit_id))
        return answer

    async def all(self) -> None:
        """Every page."""
        token = ""
        while True:
            request = pb.GetKitRequest(kit_id=self._kit_id, page_token=token)
            token = pb.GetKitResponse.FromString(await self._call(request)).next_page_token
            if not token:
                return


async def milliseconds(call: Callable[[], Awaitable[object]]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    await call()
    return 1000 * (time.perf_counter() - began)


async def longest_turn(registry: Running, turns: Path) -> float:
    """The longest turn of the event loop since the last question, in ms of processor time."""
    turns.unlink(missing_ok=True)
    registry.process.send_signal(signal.SIGUSR1)
    for _ in range(3000):
        if turns.exists():
            return float(turns.read_text())
        await asyncio.sleep(0.01)
    raise SystemExit("the registry does not tell how long its turns are")


async def appends(stub: Any, job_id: str, seconds: float) -> list[float]:
    """The waits of one caller that appends a row and pauses, in ms."""
    waits = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        waits.append(await milliseconds(lambda: stub.AppendStates(row(job_id, "neighbour"))))
        await asyncio.sleep(0.002)
    return waits


async def of_size(registry: Running, turns: Path, tasks: int) -> None:
    """Measures kits of so many tasks."""
    stub, other = stub_of(registry.address), stub_of(registry.address)
    _, other_job = await new_job(other)
    kit_id, job_id = await kit_of(stub, tasks)
    reader = Reader(registry.address, kit_id)
    alone = await appends(other, other_job, options.seconds / 2)

    async def change() -> None:
        await stub.AppendStates(row(job_id, "task-7"))

    async def read_on() -> None:
        while True:
            await reader.first_page()
            await change()
            await asyncio.sleep(PAUSE)

    await longest_turn(registry, turns)
    first = await milliseconds(reader.all)
    again = quantile([await milliseconds(reader.all) for _ in range(9)], 0.5)
    changed = []
    for _ in range(9):
        await change()
        changed.append(await milliseconds(reader.first_page))
    page = len(await reader.first_page())
    reading = [asyncio.create_task(read_on()) for _ in range(READERS)]
    beside = await appends(other, other_job, options.seconds)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    turn = await longest_turn(registry, turns)
    table = Table(f"a kit of {tasks:,} tasks, first page {page / 2**20:.1f} MiB")
    table.add("first read of all pages", first, "ms")
    table.add("all pages again", again, "ms", against=first)
    table.add("first page after a row", quantile(changed, 0.5), "ms", against=first)
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        table.add(
            f"append of another caller meanwhile: {name}",
            quantile(beside, part),
            "ms",
            against=quantile(alone, part),
            of="alone",
        )
    table.add("longest turn of the event loop", turn, "ms", most=MOST_MS, absolute=True)


async def measure(home: Path) -> None:
    with postgres(home) as dsn:
        async with timed_registry(dsn, home) as (registry, turns):
            for tasks in map(int, options.tasks.split(",")):
                await of_size(registry, turns, tasks)


parser = arguments(__doc__)
parser.add_argument("--tasks", default="1000,5000,8000,16000,64000", help="sizes of kits")
if __name__ == "__main__":
    options = parser.parse_args()
    run(measure)
