"""The registry's database, for commands that run outside the registry."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
from vistaflow_services.registry.database.pool import Row
from vistaflow_services.registry.database.sessions import session_conninfo

Connection = psycopg.Connection[Row]


@contextmanager
def database(config: Config) -> Iterator[str]:
    """The connection string of the database.

    An embedded one that does not run is started for as long as the block lasts.
    """
    if config.database:
        yield config.database
        return
    postgres = EmbeddedPostgres(config.home)
    with _unwinding():
        was_up = postgres.answers()
        conninfo = postgres.start()
        try:
            yield conninfo
        finally:
            if not was_up:
                postgres.stop()


@contextmanager
def _unwinding() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end the block as Ctrl-C does, so that it can stop the database."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL
    }
    if threading.current_thread() is not threading.main_thread():
        before = {}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def connected(conninfo: str, schema: str, *, name: str) -> Iterator[Connection]:
    """A connection whose search path is the schema; each statement is its own transaction.

    Args:
        conninfo: Where the database is.
        schema: The schema of the registry's tables.
        name: The connection's name in pg_stat_activity, after `vistaflow`.
    """
    with psycopg.connect(
        session_conninfo(conninfo, name=f"vistaflow {name}", schema=schema), autocommit=True
    ) as connection:
        yield connection


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size / 1e6:,.1f} MB"
