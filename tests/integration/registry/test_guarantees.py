"""The promises of WatchStates, kept under load, and a log that does not keep them."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parent))

from watch_checker import Faults, Message, Seen, judge

WRITERS = 8


async def _sequence_numbered(dsn: str, seconds: float) -> tuple[Faults, int]:
    """The obvious log: a bigserial id, one transaction a row, a reader of `id > last`."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as setup:
        await setup.execute("DROP TABLE IF EXISTS naive_log")
        await setup.execute("CREATE TABLE naive_log (id bigserial PRIMARY KEY, key text)")
    acked: list[Seen] = []
    messages: list[Message] = []
    writing = True

    async def write(writer: int) -> None:
        chance = random.Random(writer)
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            for number in itertools.count():
                if not writing:
                    return
                key = f"{writer}/{number}"
                cursor = await connection.execute(
                    "INSERT INTO naive_log (key) VALUES (%s) RETURNING id", (key,)
                )
                row = await cursor.fetchone()
                assert row is not None
                await asyncio.sleep(chance.uniform(0, 0.005))
                await connection.commit()
                acked.append(Seen(row[0], key))

    async def watch(connection: psycopg.AsyncConnection[tuple[int, str]], last: int) -> int:
        cursor = await connection.execute(
            "SELECT id, key FROM naive_log WHERE id > %s ORDER BY id", (last,)
        )
        rows = tuple(Seen(*row) for row in await cursor.fetchall())
        if not rows:
            return last
        messages.append(Message(kind="delta", revision=rows[-1].revision, rows=rows))
        return rows[-1].revision

    writers = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        last = 0
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            last = await watch(connection, last)
        writing = False
        await asyncio.gather(*writers)
        await watch(connection, last)
    return judge(messages, [[row] for row in acked]), len(acked)


async def test_a_log_numbered_by_a_sequence_and_read_by_id_after_last_loses_rows(
    database: str,
) -> None:
    faults, acked = await _sequence_numbered(database, 3.0)
    assert acked > 500, f"only {acked} rows written: the run says nothing"
    assert "complete" in faults.told()
    assert len(faults.complete) > acked / 1000
