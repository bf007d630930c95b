"""`vistaflow doctor` on real registries, each with something wrong."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from vistaflow.cli.app import app
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.upkeep import checks
from vistaflow_services.suite.ports import free_port

sys.path.insert(0, str(Path(__file__).parents[1]))

from traffic import until

SCHEMA = Config.schema


async def doctor(address: str, home: Path) -> tuple[int, dict[str, dict[str, str]]]:
    """Its exit code and its findings by name."""
    told = await asyncio.to_thread(
        CliRunner().invoke,
        app,
        ["doctor", f"--address={address}", f"--home={home}", "--json"],
        env=dict(os.environ),
    )
    found = [json.loads(line) for line in told.stdout.splitlines()]
    assert all(each["fix"] for each in found if each["state"] == "wrong"), found
    return told.exit_code, {each["what"]: each for each in found}


async def test_each_replica_is_looked_at_and_the_dead_one_named(
    database: str, serve, tmp_path: Path
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    async with serve(database) as one, serve(database) as two:
        for each in (one, two):
            await each.upkeep.look()
        code, found = await doctor(f"{one.address},{dead},{two.address}", tmp_path)
    assert code == 1
    for each in (one, two):
        assert found[f"registry {each.address}"]["state"] == "ok"
        for name in ("pool", "lag", "migrations", "database clock"):
            assert found[f"{name} {each.address}"]["state"] == "ok"
    assert found[f"registry {dead}"]["state"] == "wrong"
    assert "does not answer" in found[f"registry {dead}"]["found"]
    assert "long transactions" in found
    assert "replicas" not in found


async def test_addresses_of_different_logs_are_told(
    database: str, postgres: str, template: str, serve, tmp_path: Path
) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE another TEMPLATE {template}")
    conninfo = psycopg.conninfo.make_conninfo(postgres, dbname="another")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"UPDATE {SCHEMA}.head SET epoch = gen_random_uuid()")
    async with serve(database) as one, serve(conninfo) as two:
        code, found = await doctor(f"{one.address},{two.address}", tmp_path)
    assert code == 1
    assert "different logs" in found["replicas"]["found"]


async def test_a_full_pool_a_full_disk_and_too_many_connections_are_found(
    database: str, serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(database) as registry:
        found = {each.name: each for each in await registry.upkeep.look()}
        for name in ("pool", "max_connections", "migrations"):
            assert found[name].state == checks.OK
        # Every connection for reads is taken, and somebody waits.
        pool = registry.upkeep._pool
        async with asyncio.TaskGroup() as tasks:
            release = asyncio.Event()

            async def hold() -> None:
                async with pool.connection():
                    await release.wait()

            for _ in range(pool.max_size + 2):
                tasks.create_task(hold())
            try:
                await until(
                    lambda: checks.check_pool(pool.get_stats()).state == checks.WRONG, seconds=30
                )
            finally:
                release.set()
        # Both halves of the schema's history.
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(
                f"INSERT INTO {SCHEMA}.schema_migrations VALUES (9000, 'later', 'x', now())"
            )
        monkeypatch.setattr(checks, "CONNECTIONS_SHARE", 0.0)
        monkeypatch.setattr(checks, "XMIN_TRANSACTIONS", -1)
        monkeypatch.setattr(checks, "CLOCK_SECONDS", -1)
        await registry.upkeep.look()
        code, told = await doctor(registry.address, tmp_path)
        assert code == 1
        assert "9000" in told["migrations"]["found"]
        for name in ("max_connections", "oldest xmin", "database clock"):
            assert told[name]["state"] == "wrong"
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"DELETE FROM {SCHEMA}.schema_migrations WHERE number IN (9000, 5)")
        await registry.upkeep.look()
        _, told = await doctor(registry.address, tmp_path)
        assert told["migrations"]["state"] == "wrong"
        assert "pending: 0005_guard" in told["migrations"]["found"]
