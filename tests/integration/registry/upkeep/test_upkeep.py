"""What the registry finds out about itself reaches the people who ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from pathlib import Path

import psycopg
from typer.testing import CliRunner

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.cli.app import app
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.upkeep import checks

sys.path.insert(0, str(Path(__file__).parents[1]))

from traffic import Writer, connect, external_job

SCHEMA = Config.schema


async def test_a_foreign_transaction_is_found_and_doctor_says_what_to_do(
    database: str, serve, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checks, "LONG_SECONDS", 1.0)
    async with serve(database) as registry:
        with contextlib.ExitStack() as transactions:
            # Our own that began before it do not hide it.
            for name in (*["vistaflow backup"] * 6, "psql"):
                connection = psycopg.connect(database, application_name=name)
                stranger = transactions.enter_context(connection)
                stranger.execute("SELECT 1")
            await asyncio.sleep(1.2)
            found = {each.name: each for each in await registry.upkeep.look()}
            wrong = {name for name, each in found.items() if each.state == checks.WRONG}
            assert wrong == {"long transactions"}
            pid = stranger.info.backend_pid
            told = await asyncio.to_thread(
                CliRunner().invoke,
                app,
                ["doctor", f"--address={registry.address}", f"--home={tmp_path}"],
                env={**os.environ, "COLUMNS": "300"},
            )
        assert told.exit_code == 1
        assert f"process {pid} (psql" in told.stdout
        assert f"SELECT pg_terminate_backend({pid})" in told.stdout
        for name in ("disk", "database clock", "pool", "lag", "oldest xmin", "max_connections"):
            assert name in told.stdout
        assert "migrations: " in told.stdout
        await registry.upkeep.look()
        channel, stub = connect(registry.address)
        async with channel:
            info = await stub.GetServerInfo(pb.GetServerInfoRequest())
        (finding,) = (each for each in info.findings if each.name == "long transactions")
        assert finding.state == pb.CHECK_STATE_OK
        assert finding.summary == "none"
        assert json.loads(info.limits["check.long transactions"])["state"] == "ok"


async def test_status_tells_how_large_the_log_is_and_how_far_it_goes_back(
    database: str, serve
) -> None:
    async with serve(database) as registry:
        channel, stub = connect(registry.address)
        async with channel:
            _, job_id = await external_job(stub)
            await Writer(stub, job_id).append(98)
            await registry.upkeep.look()
            info = await stub.GetServerInfo(pb.GetServerInfoRequest())
        assert info.limits["log.rows"] == "100"
        assert info.limits["retention"] == "everything is kept"
        assert info.limits["log.age_days"] == "0.0"
        told = await asyncio.to_thread(
            CliRunner().invoke,
            app,
            ["status", f"--address={registry.address}"],
            env={**os.environ, "COLUMNS": "300"},
        )
    assert re.search(
        r"kept from revision 1 on: 100 rows since 20.* UTC \(0\.0 days\)",
        " ".join(told.stdout.split()),
    )


async def test_the_registry_drops_what_its_policy_does_not_keep(database: str, serve) -> None:
    config = Config(
        partition_size=1000,
        retention_finished_days=1e-9,
        retention_interval_seconds=0.2,
        lease_seconds=2,
    )
    async with serve(database, config) as registry:
        channel, stub = connect(registry.address)
        async with channel:
            _, job_id = await external_job(stub)
            writer = Writer(stub, job_id)
            for _ in range(3):
                await writer.append(800)
            states = [common.State(job_id=job_id, status=common.STATUS_FINISHED, attempt=1)]
            await stub.AppendStates(pb.AppendStatesRequest(states=states))
            async with asyncio.timeout(120):
                oldest = 1
                while oldest != 2001:
                    await asyncio.sleep(0.1)
                    info = await stub.GetServerInfo(pb.GetServerInfoRequest())
                    oldest = info.oldest_revision
