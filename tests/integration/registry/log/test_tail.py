"""The connection that follows the log, as it waits."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from rig import SCHEMA, Rig

from vistaflow_services.registry.log.hub import Hub
from vistaflow_services.registry.log.tail import CHANNEL, Tail


async def test_nothing_wakes_a_tail_that_waits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    tail = Tail(Hub(), conninfo=rig.dsn, schema=SCHEMA)
    connection = await tail._connect()
    waits: list[int] = []
    loop = asyncio.get_running_loop()
    add_reader = loop.add_reader

    def noted(socket: int, *args: object) -> None:
        if socket == connection.fileno():
            waits.append(socket)
        add_reader(socket, *args)

    monkeypatch.setattr(loop, "add_reader", noted)
    assert await tail._notified(connection, 0.8) == 0
    # One for the wait itself, one for each look at what is there.
    assert len(waits) <= 3
    await connection.close()


@pytest.mark.parametrize("meanwhile", [True, False], ids=["while it waits", "before"])
async def test_a_notification_ends_the_wait_of_a_tail(rig: Rig, meanwhile: bool) -> None:
    tail = Tail(Hub(), conninfo=rig.dsn, schema=SCHEMA)
    connection = await tail._connect()
    other = await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True)
    notify = psycopg.sql.SQL("NOTIFY {}, '17'").format(psycopg.sql.Identifier(CHANNEL))
    if not meanwhile:
        await other.execute(notify)
        # It arrives together with the answer to a query, and no socket is readable afterwards.
        await connection.execute("SELECT 1")
    waiting = asyncio.create_task(tail._notified(connection, 60))
    if meanwhile:
        await asyncio.sleep(0.05)
        await other.execute(notify)
    async with asyncio.timeout(30):
        assert await waiting == 17
    await connection.close()
    await other.close()
