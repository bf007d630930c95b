"""Revisions are commit order, however long commits take on either of two replicas."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from process import RegistryProcess
from traffic import Watcher, Writer, appends_of, connect, external_job, head_of, until
from watch_checker import judge

ROWS = 100_000
WRITERS = 16
PAUSES = {
    "VISTAFLOW_FAILPOINT": ";".join(
        f"{point}=sleep(0.005)%0.3" for point in ("append.before_commit", "append.after_commit")
    )
}


@pytest.mark.slow
async def test_a_hundred_thousand_rows_of_two_slow_replicas_reach_every_watch(
    database: str, tmp_path: Path
) -> None:
    replicas = []
    for number in range(2):
        home = tmp_path / str(number)
        home.mkdir()
        replica = RegistryProcess(database, home, variables=PAUSES)
        replicas.append(await replica.start())
    connections = [connect(replicas[n % 2].address) for n in range(WRITERS + 3)]
    stubs: list[Any] = [stub for _, stub in connections]
    writers = []
    for number, stub in enumerate(stubs[:WRITERS]):
        _, job_id = await external_job(stub)
        writers.append(Writer(stub, job_id, seed=number, sizes=(1, 20, 100)))
    start = 2 * WRITERS
    watchers = [Watcher(stub, after=start) for stub in stubs[WRITERS:]]
    watching = [asyncio.create_task(w.watch_until(lambda: False)) for w in watchers]

    def written() -> bool:
        return sum(writer.row_count for writer in writers) >= ROWS

    async with asyncio.timeout(300):
        await asyncio.gather(*(writer.write_until(written, patience=60) for writer in writers))
    head = head_of(writers)
    await until(lambda: all(watcher.at >= head for watcher in watchers), seconds=120)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    appends = appends_of(writers)
    assert sum(map(len, appends)) == head - start >= ROWS
    for watcher in watchers:
        assert judge(watcher.messages, appends, after=start).told() == {}
    for channel, _ in connections:
        await channel.close()
    for replica in replicas:
        await replica.stop()
