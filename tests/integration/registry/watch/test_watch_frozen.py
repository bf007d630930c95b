"""Clients that only watch, held by a replica that is frozen: nobody hangs up, and nothing comes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from process import RegistryProcess
from traffic import Writer, connect, external_job, head_of, until

from vistaflow import aio
from vistaflow._rpc.replicas import ReplicaChannel
from vistaflow.models import Delta

LONGEST_SECONDS = 40.0
"""Keepalive needs 15 s to notice that nobody answers any more, a new connection 5 s."""


@pytest.fixture
async def pair(database: str, tmp_path: Path) -> AsyncIterator[list[RegistryProcess]]:
    """Two registries of one log."""
    replicas = [RegistryProcess(dsn=database, home=tmp_path / name) for name in "ab"]
    for each in replicas:
        each.home.mkdir()
        await each.start()
    yield replicas
    for each in replicas:
        await each.stop()


class Watching:
    """A client that watches and does nothing else, beginning at the first replica."""

    def __init__(self, addresses: str) -> None:
        self.client = aio.connect(addresses)
        assert isinstance(self.client._channel, ReplicaChannel)
        self.client._channel._present = 0
        self.revisions: list[int] = []

    async def run(self) -> None:
        async for event in self.client.watch():
            if isinstance(event, Delta):
                self.revisions += [row.revision for row in event.states]


@pytest.mark.slow
@pytest.mark.parametrize("held", [True, False], ids=["held by it", "that come to it"])
async def test_who_only_watches_leaves_a_frozen_replica_and_misses_nothing(
    pair: list[RegistryProcess], held: bool
) -> None:
    channel, stub = connect(pair[1].address)
    _, job_id = await external_job(stub)
    writer = Writer(stub, job_id)
    await writer.append(5)
    watchers = [Watching(",".join(each.address for each in pair)) for _ in range(3)]

    def up_to_date() -> bool:
        return all(each.revisions[-1:] == [head_of([writer])] for each in watchers)

    tasks = [asyncio.create_task(each.run()) for each in watchers if held]
    try:
        if held:
            await until(up_to_date)
            await asyncio.sleep(2)  # nothing is on its way to the watchers any more
        pair[0].freeze()
        if not held:
            # They meet a replica that takes their connection and never answers.
            tasks = [asyncio.create_task(each.run()) for each in watchers]
        began = time.monotonic()
        while not up_to_date() or head_of([writer]) < 50:
            assert time.monotonic() - began < LONGEST_SECONDS, "they wait for the frozen one"
            await writer.append(1)
            await asyncio.sleep(0.1)
        print(f"went on after {time.monotonic() - began:.1f} s")
        for each in watchers:
            assert each.revisions == list(range(1, head_of([writer]) + 1))
    finally:
        pair[0].thaw()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in watchers:
            await each.client.close()
        await channel.close()
