"""Statements that are prepared once and run by libpq's own calls."""

from __future__ import annotations

import asyncio
from typing import LiteralString

import psycopg
import pytest

from vistaflow_services.registry.log.statement import Prepared, numbered

LENGTH: LiteralString = "SELECT length(%(text)s)::bigint WHERE %(wanted)s::boolean AND 7 %% 2 = 1"
QUOTIENT: LiteralString = "SELECT (%(a)s::int / %(b)s::int)::bigint"


def number(told: bytes | None) -> int | None:
    return None if told is None else int.from_bytes(told)


def test_each_name_has_one_number_and_a_doubled_percent_sign_is_one() -> None:
    text, names = numbered("SELECT %(b)s, %(a)s, %(b)s, 5 %% 2")
    assert (text, names) == (b"SELECT $1, $2, $1, 5 % 2", ["b", "a"])


async def test_a_statement_answers_again_and_again_and_takes_more_than_the_socket_does(
    database: str,
) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        made = Prepared(connection)
        for size in (0, 5, 20_000_000, 7):
            told = await made.run(LENGTH, {"text": "x" * size, "wanted": True})
            assert number(told) == size
        assert await made.run(LENGTH, {"text": "x", "wanted": False}) is None


async def test_what_the_server_refuses_is_raised_and_the_connection_goes_on(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        made = Prepared(connection)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await made.run(QUOTIENT, {"a": 1, "b": 0})
        assert number(await made.run(QUOTIENT, {"a": 9, "b": 3})) == 3
        cursor = await connection.execute("SELECT 1")
        assert await cursor.fetchone() == (1,)


async def test_a_connection_that_is_cut_under_a_statement_is_known_to_be_lost(
    database: str,
) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        made = Prepared(connection)
        waiting = asyncio.create_task(made.run("SELECT pg_sleep(60)", {}))
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as other:
            while True:
                cursor = await other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE query LIKE 'SELECT pg_sleep%%' AND state = 'active'"
                    " AND pid <> pg_backend_pid()"
                )
                if cursor.rowcount:
                    break
                await asyncio.sleep(0.05)
        with pytest.raises(psycopg.OperationalError):
            await waiting
        assert connection.closed


class Told(Prepared):
    """Tells when it lets go."""

    def __init__(self, connection: psycopg.AsyncConnection[object]) -> None:
        super().__init__(connection)
        self.gone = asyncio.Event()

    def let_go(self) -> None:
        super().let_go()
        self.gone.set()


async def test_a_connection_cut_between_two_runs_is_let_go_and_fails_the_next(
    database: str,
) -> None:
    connection = await psycopg.AsyncConnection.connect(database, autocommit=True)
    made = Told(connection)
    assert number(await made.run(QUOTIENT, {"a": 9, "b": 3})) == 3
    socket = connection.fileno()
    assert not made.gone.is_set()
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as other:
        await other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])

    # Else it would be readable at every turn of the loop from now on.
    async with asyncio.timeout(120):
        await made.gone.wait()
    assert asyncio.get_running_loop().remove_reader(socket) is False
    with pytest.raises(psycopg.OperationalError):
        await made.run(QUOTIENT, {"a": 9, "b": 3})
    assert connection.closed
    await connection.close()


async def test_others_use_the_connection_between_two_runs(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        made = Prepared(connection)
        for _ in range(3):
            assert number(await made.run(QUOTIENT, {"a": 9, "b": 3})) == 3
            made.let_go()
            cursor = await connection.execute("SELECT 1")
            assert await cursor.fetchone() == (1,)
        assert asyncio.get_running_loop().remove_reader(connection.fileno()) is False
