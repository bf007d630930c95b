"""Addresses on this machine, which no proxy is asked for."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.unit.client.scripted import ScriptedRegistry  # type: ignore[import-not-found]
from vistaflow._rpc.credentials import stays_here
from vistaflow.aio import connect
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50051",
        "127.8.9.10:50051",
        "127.1:50051",
        "0.0.0.0:50051",
        "localhost:50051",
        "LocalHost.:50051",
        "localhost",
        "app.localhost:50051",
        "[::1]:50051",
        "[::ffff:127.0.0.1]:50051",
        "[::]:50051",
        "unix:/run/vistaflow",
        "unix-abstract:vistaflow",
        "dns:///localhost:50051",
        "dns://8.8.8.8/localhost:50051",
        "ipv4:127.0.0.1:50051,127.0.0.1:50052",
        "ipv6:[::1]:50051",
    ],
)
def test_an_address_of_this_machine_is_known_as_such(address: str) -> None:
    assert stays_here(address)


@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.1:50051",
        "example.com:50051",
        "localhost.example.com:50051",
        "notlocalhost:50051",
        "[2001:db8::1]:50051",
        "dns://127.0.0.1/example.com:50051",
        "ipv4:127.0.0.1:50051,192.0.2.1:50051",
        "",
    ],
)
def test_an_address_elsewhere_is_not(address: str) -> None:
    assert not stays_here(address)


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
async def test_a_registry_of_this_machine_is_reached_past_a_proxy(
    scripted: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    scripted.answers = [pb.GetServerInfoResponse(revision=7)]
    port = scripted.address.rpartition(":")[2]
    for address in (scripted.address, f"localhost:{port}", f"{scripted.address},127.0.0.1:1"):
        async with connect(address, timeout=60) as client:
            assert (await client.server_info()).revision == 7


async def test_a_registry_behind_a_socket_is_reached_past_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    registry = ScriptedRegistry()
    server = grpc.aio.server()
    rpc.add_RegistryServiceServicer_to_server(registry, server)
    server.add_insecure_port(f"unix:{tmp_path}/socket")
    await server.start()
    async with connect(f"unix:{tmp_path}/socket", timeout=60) as client:
        assert (await client.server_info()).revision == 0
    await server.stop(0)
