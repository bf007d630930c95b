"""Statements that are prepared once and run by libpq's own calls."""

from __future__ import annotations

import asyncio
from typing import LiteralString

import psycopg
import pytest

from vistaflow_services.registry.statement import Prepared, numbered

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
