"""Everybody comes back at once when the registry was away."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from vistaflow import aio
from vistaflow.models import Delta
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.worker import Worker

sys.path.insert(0, str(Path(__file__).parents[1]))

from process import RegistryProcess
from traffic import Writer, connect, external_job, head_of, until

CONNECTIONS = 20


class Watching:
    """A watcher as a person has it, who is told when it is back."""

    def __init__(self, client: aio.Client, after: int) -> None:
        self._watch = client.watch(after_revision=after)
        self.revisions: list[int] = []

    @property
    def connected(self) -> bool:
        return self._watch.connected

    async def run(self) -> None:
        async for event in self._watch:
            if isinstance(event, Delta):
                self.revisions += [row.revision for row in event.states]


@pytest.mark.parametrize(
    ("watcher_count", "worker_count"), [(60, 15), pytest.param(1000, 200, marks=pytest.mark.slow)]
)
async def test_after_a_restart_everybody_is_back_and_nobody_missed_a_row(
    database: str, tmp_path: Path, watcher_count: int, worker_count: int
) -> None:
    process = await RegistryProcess(database, tmp_path).start()
    channel, stub = connect(process.address)
    _, job_id = await external_job(stub)
    writer = Writer(stub, job_id)
    clients = [aio.connect(process.address) for _ in range(CONNECTIONS)]
    services = [RegistryClient(process.address) for _ in range(CONNECTIONS)]
    watchers = [Watching(clients[n % CONNECTIONS], 2) for n in range(watcher_count)]
    workers = [
        Worker(
            f"doe-{n}",
            "none",
            ["DOE"],
            services[n % CONNECTIONS],
            ArtifactStore(tmp_path / "artifacts"),
            home=tmp_path,
            warm=False,
        )
        for n in range(worker_count)
    ]
    everyone = [*watchers, *workers]
    tasks = [asyncio.create_task(each.run()) for each in everyone]
    try:
        await writer.append(5)
        await until(lambda: all(each.connected for each in everyone), seconds=120)
        await process.kill()
        await until(lambda: not any(each.connected for each in everyone), seconds=120)
        await process.start()
        began = time.monotonic()
        back: dict[int, float] = {}
        waits = []
        while len(back) < len(everyone):
            asked = time.monotonic()
            assert asked < began + 120, f"only {len(back)} of {len(everyone)} are back"
            await writer.append(1, patience=60)
            waits.append(1000 * (time.monotonic() - asked))
            for number, each in enumerate(everyone):
                if each.connected:
                    back.setdefault(number, time.monotonic() - began)
            await asyncio.sleep(0.02)
        spread = sorted(back.values())
        print(
            f"half of {len(everyone)} back after {spread[len(spread) // 2]:.1f} s, all after "
            f"{spread[-1]:.1f} s; appends meanwhile at most {max(waits):.0f} ms"
        )
        expected = list(range(3, head_of([writer]) + 1))
        await until(lambda: all(w.revisions[-1:] == expected[-1:] for w in watchers), seconds=120)
        assert all(each.revisions == expected for each in watchers)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in (*clients, *services):
            await client.close()
        await channel.close()
        await process.stop()
