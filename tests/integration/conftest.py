"""A PostgreSQL for the run, a database for each test, and a registry serving it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from psycopg.conninfo import make_conninfo

from vistaflow_services.registry.__main__ import PACKAGE, Registry, build
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
from vistaflow_services.registry.database.migrations import migrate
from vistaflow_services.registry.reads.store import make_pool

TEMPLATE = "vistaflow_template"
SCHEMA = Config.schema

# Stops the server and removes its home once this process is gone, however it went.
TIDY = """
import sys
from pathlib import Path
import shutil
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
sys.stdin.read()
EmbeddedPostgres(Path(sys.argv[1])).stop()
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""

Serving = Callable[..., AbstractAsyncContextManager[Registry]]

_serial = count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Connection string of a PostgreSQL started for the whole run."""
    # Not below pytest's own folder, which another run may tidy away.
    home = tempfile.mkdtemp(prefix="vistaflow-test-")
    with subprocess.Popen(
        [sys.executable, "-c", TIDY, home], stdin=subprocess.PIPE, start_new_session=True
    ):
        server = EmbeddedPostgres(Path(home))
        yield server.start()
        server.stop()


@pytest.fixture(scope="session")
def template(postgres: str) -> str:
    """Name of a database with the schema and no rows, to copy from."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate(make_conninfo(postgres, dbname=TEMPLATE), SCHEMA, PACKAGE)
    return TEMPLATE


@contextmanager
def fresh_database(postgres: str, template: str) -> Iterator[str]:
    """Connection string of a database of its own, dropped afterwards."""
    name = f"test_{next(_serial)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield make_conninfo(postgres, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(postgres: str, template: str) -> Iterator[str]:
    """Connection string of a fresh database, for this test alone."""
    with fresh_database(postgres, template) as conninfo:
        yield conninfo


@pytest.fixture(scope="module")
def module_database(postgres: str, template: str) -> Iterator[str]:
    """Connection string of a fresh database that the tests of a module share."""
    with fresh_database(postgres, template) as conninfo:
        yield conninfo


@asynccontextmanager
async def serving(conninfo: str, config: Config | None = None) -> AsyncIterator[Registry]:
    """A registry on a migrated database, listening on a free port."""
    config = config or Config(lease_seconds=5.0)
    pool = make_pool(conninfo, schema=config.schema, size=6)
    await pool.open(wait=True, timeout=60)
    try:
        registry = await build(pool, config)
        registry.address = registry.server.bind("127.0.0.1:0")
        await registry.open()
        await registry.server.start()
        await registry.server.set_serving(True)
        try:
            yield registry
        finally:
            await registry.drain()
            await registry.server.stop(0.2)
            await registry.close()
    finally:
        await pool.close(timeout=2)


@pytest.fixture(scope="session")
def serve() -> Serving:
    """How to serve a registry on a migrated database, in an `async with`."""
    return serving


@pytest.fixture
async def running(database: str) -> AsyncIterator[Registry]:
    """A registry serving a fresh database, with its parts at hand."""
    async with serving(database) as registry:
        yield registry


@pytest.fixture
async def registry(running: Registry) -> str:
    """Address of a registry serving a fresh database."""
    await asyncio.sleep(0)
    return running.address


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_registry(postgres: str, template: str) -> AsyncIterator[str]:
    """Address of a registry that the tests of a module share, in the loop that they share."""
    with fresh_database(postgres, template) as conninfo:
        async with serving(conninfo) as registry:
            yield registry.address
