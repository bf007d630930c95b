"""Tasks end, though what they wait for swallows a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from vistaflow_services.core import tasks
from vistaflow_services.core.server.shell import make_server, run


class Deaf:
    """Waits that lose their first cancellation, as a driver's may."""

    def __init__(self) -> None:
        self.lost = 0
        self.waits = asyncio.Event()

    async def wait(self) -> bool:
        self.waits.set()
        try:
            await asyncio.sleep(0.02 if self.lost else 60)
        except asyncio.CancelledError:
            if self.lost:
                raise
            self.lost += 1
        return True


async def test_a_task_that_loses_a_cancellation_is_canceled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "PATIENCE_SECONDS", 0.05)
    deaf = Deaf()

    async def work() -> None:
        while True:
            await deaf.wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await tasks.ended([task])
    assert task.cancelled()
    assert deaf.lost == 1


async def test_a_task_that_fails_while_it_ends_is_no_more_than_ended() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise RuntimeError("in the end")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await tasks.ended([task])
    assert isinstance(task.exception(), RuntimeError)


async def test_a_server_stops_though_its_readiness_loses_the_cancellation() -> None:
    deaf = Deaf()
    stop = asyncio.Event()
    server = make_server("vistaflow.test.v1.Test")
    server.bind("127.0.0.1:0")
    running = asyncio.create_task(run(server, ready=deaf.wait, stop=stop))
    async with asyncio.timeout(60):
        await deaf.waits.wait()
        stop.set()
        await running
    assert deaf.lost == 1
