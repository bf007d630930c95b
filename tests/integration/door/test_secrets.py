"""Marked secrets go through everything that a registry does, and are looked for everywhere."""

from __future__ import annotations

import asyncio
import sys
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import grpc
import psycopg
from google.protobuf import json_format
from psycopg import sql
from psycopg.conninfo import make_conninfo

from vistaflow._rpc.credentials import BearerChannel
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow_services.registry.access.command import main as tokens
from vistaflow_services.suite.ports import free_port

PASSWORD = "canary-0f6f9d3c-of-the-database"  # whoever trusts a socket takes any
REGISTRY = (sys.executable, "-m", "vistaflow_services.registry")


def written(folder: Path, pattern: str) -> list[str]:
    """What files hold."""
    files = [path for path in folder.glob(pattern) if path.is_file()]
    assert files
    return [path.read_bytes().decode(errors="replace") for path in files]


async def told_by(call: Any) -> str:
    """All that a call answers: its message, its status, its details and its metadata."""
    try:
        if hasattr(call, "read"):
            answer = await call.read()
            call.cancel()
            return str(answer)
        return json_format.MessageToJson(await call)
    except grpc.aio.AioRpcError as error:
        metadata = [str(pair) for pair in error.trailing_metadata() or ()]
        return " ".join([error.details() or "", error.debug_error_string() or "", *metadata])


async def asked(address: str, good: str, revoked: str) -> list[str]:
    """Says secrets in the right places and in wrong ones; what was answered."""
    heard = []
    for shown in (good, revoked, good[:-3] + "abc", good + "x", ""):
        plain = grpc.aio.insecure_channel(address)
        channel = BearerChannel(plain, lambda shown=shown: shown) if shown else plain
        stub: Any = RegistryServiceStub(channel)
        job = pb.NewJob(name="work", job_type=2)
        for call in (
            stub.CreateKit(pb.CreateKitRequest(name="a", jobs=[job])),
            stub.GetKit(pb.GetKitRequest(kit_id=1)),
            stub.GetServerInfo(pb.GetServerInfoRequest()),
            stub.ListTokens(pb.ListTokensRequest()),
            stub.ListKits(pb.ListKitsRequest(page_token=good)),
            stub.GetJob(pb.GetJobRequest(job_id=good)),
            stub.CancelKit(pb.CancelKitRequest(kit_id=1, request_id=good)),
            stub.RevokeToken(pb.RevokeTokenRequest(token_id=good)),
            stub.WatchStates(pb.WatchStatesRequest(epoch=str(uuid.uuid4()))),
        ):
            text = await told_by(call)
            # What a caller says in a wrong place may be said back to that caller.
            if shown != good:
                heard.append(text)
        await channel.close()
    return heard


async def test_no_secret_is_found_in_anything_that_a_registry_leaves_or_tells(
    database: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("VISTAFLOW_AUTH", "required")
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path))
    dsn = make_conninfo(database, password=PASSWORD)
    metrics = free_port()
    settings = {
        "DATABASE": dsn,
        "LISTEN": "127.0.0.1:0",
        "ADDRESS_FILE": str(tmp_path / "address"),
        "METRICS_LISTEN": f"127.0.0.1:{metrics}",
        "LOG_LEVEL": "DEBUG",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"VISTAFLOW_REGISTRY_{name}", value)
    made = []
    for role in ("admin", "admin"):
        assert await asyncio.to_thread(tokens, ("create", f"--role={role}", "--name=a")) == 0
        made.append(capsys.readouterr().out.strip().splitlines()[-1])
    good, revoked = made
    assert good.startswith("vf1.")
    token_id = str(uuid.UUID(revoked.split(".")[1]))
    assert await asyncio.to_thread(tokens, ("revoke", token_id)) == 0

    with (tmp_path / "out").open("wb") as out:
        process = await asyncio.create_subprocess_exec(*REGISTRY, stdout=out, stderr=out)
    try:
        async with asyncio.timeout(120):
            while not (tmp_path / "address").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        address = (tmp_path / "address").read_text()
        heard = await asked(address, good, revoked)
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            # Faults, whose reports are where secrets like to show.
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            heard += await asked(address, good, revoked)
            await connection.execute("ALTER TABLE vistadb_test.kits RENAME TO hidden")
            heard += await asked(address, good, revoked)
            await connection.execute("ALTER TABLE vistadb_test.hidden RENAME TO kits")
        url = f"http://127.0.0.1:{metrics}/metrics"
        heard.append(
            await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=60).read().decode())
        )
        heard += written(Path(f"/proc/{process.pid}"), "cmdline")
    finally:
        process.terminate()
        await process.wait()

    # One that cannot reach its database says so, and not how.
    monkeypatch.setenv(
        "VISTAFLOW_REGISTRY_DATABASE",
        f"postgresql://ada:{PASSWORD}@127.0.0.1:{free_port()}/none?connect_timeout=2",
    )
    lost = await asyncio.create_subprocess_exec(
        *REGISTRY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await asyncio.wait_for(lost.communicate(), 60)
    except TimeoutError:
        lost.kill()
        said, _ = await lost.communicate()
    heard.append(said.decode())

    heard += written(tmp_path, "**/*")
    with psycopg.connect(database) as tables:
        names = tables.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'vistadb_test'"
        ).fetchall()
        for (name,) in names:
            every = sql.SQL("COPY (SELECT * FROM vistadb_test.{}) TO STDOUT")
            with tables.cursor().copy(every.format(sql.Identifier(name))) as copy:
                heard.append(b"".join(map(bytes, copy)).decode())
    for secret in (PASSWORD, good.rpartition(".")[2], revoked.rpartition(".")[2]):
        assert [text[:2000] for text in heard if secret in text] == []
    log = (tmp_path / "out").read_text()
    assert "ListTokens" in log or "UNAUTHENTICATED" in log, "nothing was logged: nothing is shown"
