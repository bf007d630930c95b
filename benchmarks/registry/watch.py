"""How long rows take from their acknowledgement to the watchers.

python benchmarks/registry/watch.py [--seconds 3]
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import Table, arguments, quantile, run
from servers import new_job, postgres, registry, rows_of, stub_of

from vistaflow.api.registry.v1 import registry_pb2 as pb


async def deliver(
    address: str, everything: int, elsewhere: int, rate: float, seconds: float
) -> tuple[list[float], list[float], list[float]]:
    """How long rows take from their ack to watchers.

    Args:
        address: The registry's.
        everything: Watchers of all kits.
        elsewhere: Watchers of other kits, which should cost nothing.
        rate: Appends a second, of one row each.
        seconds: How long.

    Returns:
        Times in ms: for a watcher of the one kit written to, for watchers of all, and of the acks.
    """
    stubs = [stub_of(address) for _ in range(10)]
    stub = stub_of(address)
    kit_id, job_id = await new_job(stub)
    head = (await stub.GetServerInfo(pb.GetServerInfoRequest())).revision
    acked: dict[int, float] = {}
    one: dict[int, float] = {}
    every: list[tuple[int, float]] = []

    async def watch(
        stub: Any, request: pb.WatchStatesRequest, note: Callable[[int, float], object]
    ) -> None:
        async for response in stub.WatchStates(request):
            now = time.perf_counter()
            for state in response.delta.states:
                note(state.revision, now)

    def of_kit(kit_id: int) -> pb.WatchStatesRequest:
        wanted = pb.StateFilter(kit_ids=[kit_id])
        return pb.WatchStatesRequest(after_revision=head, filter=wanted)

    def sampled(revision: int, at: float) -> None:
        every.append((revision, at))

    def dropped(revision: int, at: float) -> None:
        pass

    of_all = pb.WatchStatesRequest(after_revision=head)
    calls = [watch(stub_of(address), of_kit(kit_id), one.__setitem__)]
    for number in range(everything):
        calls.append(watch(stubs[number % 10], of_all, sampled if number < 20 else dropped))
    for number in range(elsewhere):
        calls.append(watch(stubs[number % 10], of_kit(kit_id + 1 + number), dropped))
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(1.0 + len(tasks) / 200)
    acks: list[float] = []
    begin = time.perf_counter()
    for number in itertools.count():
        due = begin + number / rate
        if due > begin + seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked = time.perf_counter()
        answer = await stub.AppendStates(pb.AppendStatesRequest(states=rows_of(job_id, 1)))
        acked[answer.revision] = time.perf_counter()
        acks.append(1000 * (acked[answer.revision] - asked))
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert set(one) >= set(acked), "rows were lost"
    return (
        [1000 * (one[revision] - at) for revision, at in acked.items()],
        [1000 * (at - acked[revision]) for revision, at in every if revision in acked],
        acks,
    )


async def measure(home: Path) -> None:
    with postgres(home) as dsn:
        async with registry(dsn, home) as server:
            table = Table("delivery of 200 appends a second, ms after the ack")
            for everything, elsewhere in ((1, 0), (100, 0), (1, 1000)):
                one, every, _ = await deliver(
                    server.address, everything, elsewhere, 200.0, told.seconds
                )
                who = f"{everything} of all kits, {elsewhere} of other kits"
                table.add(f"one kit, p99; {who}", quantile(one, 0.99), "ms")
                table.add(f"all kits, p99; {who}", quantile(every, 0.99), "ms")


told = arguments(__doc__, seconds=3.0).parse_args()
if __name__ == "__main__":
    run(measure)
