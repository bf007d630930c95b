"""TLS: certificates from files, of both sides, exchanged while the server runs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from certificates import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vistaflow._rpc.credentials import secured_channel
from vistaflow.errors import UnauthenticatedError
from vistaflow_services.core.server import probe
from vistaflow_services.core.server.shell import Server, StartError, make_server

NAME = "vistaflow.api.registry.v1.RegistryService"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def files(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """The server's certificate and key, named by the environment."""
    cert, key = authority.sign("server")
    monkeypatch.setenv("VISTAFLOW_TLS_CERT", str(cert))
    monkeypatch.setenv("VISTAFLOW_TLS_KEY", str(key))
    return cert, key


@asynccontextmanager
async def serving(listen: str = "127.0.0.1:0") -> AsyncIterator[tuple[Server, str]]:
    server = make_server(NAME)
    address = server.bind(listen)
    await server.start()
    await server.set_serving(True)
    try:
        yield server, address
    finally:
        await server.stop(0)


async def answers(address: str, **environment: str | Path) -> bool:
    """Whether a new connection with these settings gets an answer."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    settings = {name: str(value) for name, value in environment.items()}
    async with secured_channel(address, options, environment=settings) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)  # type: ignore[misc]
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


async def test_a_server_with_a_certificate_answers_who_trusts_its_authority_and_nobody_else(
    files: tuple[Path, Path], authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "another")
    async with serving() as (_, address):
        assert await answers(address, VISTAFLOW_TLS_CA=authority.ca)
        assert not await answers(address, VISTAFLOW_TLS_CA=other.ca)
        assert not await answers(address)


async def test_a_server_that_wants_certificates_answers_only_those_its_authority_signed(
    files: tuple[Path, Path],
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VISTAFLOW_TLS_CLIENT_CA", str(authority.ca))
    other = Authority(tmp_path, "another")

    def settings(signer: Authority, name: str) -> dict[str, Path]:
        cert, key = signer.sign(name)
        return {
            "VISTAFLOW_TLS_CA": authority.ca,
            "VISTAFLOW_TLS_CLIENT_CERT": cert,
            "VISTAFLOW_TLS_CLIENT_KEY": key,
        }

    async with serving() as (_, address):
        assert await answers(address, **settings(authority, "client"))
        assert not await answers(address, **settings(other, "stranger"))
        assert not await answers(address, VISTAFLOW_TLS_CA=authority.ca)
        # A service shows the certificate that it serves with; so do health probes.
        monkeypatch.setenv("VISTAFLOW_TLS_CA", str(authority.ca))
        assert await asyncio.to_thread(probe.serves, address, 60)


async def test_a_new_certificate_is_served_without_a_restart_and_half_of_one_is_not(
    files: tuple[Path, Path], authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    other = Authority(tmp_path / "new", "another")
    cert, key = other.sign("server")
    async with serving() as (_, address):
        assert await answers(address, VISTAFLOW_TLS_CA=authority.ca)
        shutil.copy(cert, files[0])  # the key does not fit yet
        assert await answers(address, VISTAFLOW_TLS_CA=authority.ca)
        files[1].write_text("")
        assert await answers(address, VISTAFLOW_TLS_CA=authority.ca)
        shutil.copy(key, files[1])
        assert await answers(address, VISTAFLOW_TLS_CA=other.ca)
        assert not await answers(address, VISTAFLOW_TLS_CA=authority.ca)


async def test_beyond_loopback_a_server_starts_with_tls_and_not_without(
    files: tuple[Path, Path], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving("0.0.0.0:0") as (_, address):
        port = address.rpartition(":")[2]
        assert await answers(f"127.0.0.1:{port}", VISTAFLOW_TLS_CA=authority.ca)
    monkeypatch.delenv("VISTAFLOW_TLS_CERT")
    monkeypatch.delenv("VISTAFLOW_TLS_KEY")
    with pytest.raises(StartError, match="no TLS"):
        make_server(NAME).bind("0.0.0.0:0")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("VISTAFLOW_TLS_CERT", "/nowhere/at/all", "No such file"),
        ("VISTAFLOW_TLS_CERT", "", "set both"),
        ("VISTAFLOW_TLS_KEY", "CERT", "holds no private key"),
        ("VISTAFLOW_AUTH", "on", "off, owner or required"),
        ("VISTAFLOW_RATE_PER_SECOND", "many", "numbers"),
    ],
)
async def test_settings_that_cannot_be_are_told_at_the_start(
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    told: str,
) -> None:
    monkeypatch.setenv(variable, str(files[0]) if value == "CERT" else value)
    with pytest.raises(StartError, match=told):
        make_server(NAME).bind("127.0.0.1:0")


async def test_a_token_does_not_travel_in_the_open_over_a_network() -> None:
    with pytest.raises(UnauthenticatedError, match="VISTAFLOW_TLS_CA"):
        secured_channel("registry.example:50051", (), token="t", environment={})
