"""Whoever cannot reach a registry is told why, and what to do."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from vistaflow.aio.client import AsyncClient
from vistaflow.errors import InvalidArgumentError, UnavailableError
from vistaflow_services.core.door.interceptor import Door, DoorSettings
from vistaflow_services.core.rpc.tls import TlsFiles
from vistaflow_services.core.server.shell import Server, ServerSettings, make_server

sys.path.insert(0, str(Path(__file__).parent))

from certificates import Authority

SERVICE = "vistaflow.api.registry.v1.RegistryService"


@pytest.fixture
async def addresses(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """Servers that speak no TLS, TLS, and TLS with certificates of both sides."""
    authority = Authority(tmp_path, "authority")
    cert, key = authority.sign("suite")
    made = {
        "plain": make_server(SERVICE),
        "tls": _server(TlsFiles(cert=cert, key=key)),
        "mutual": _server(TlsFiles(cert=cert, key=key, client_ca=authority.ca)),
    }
    found = {name: each.bind("127.0.0.1:0") for name, each in made.items()}
    for each in made.values():
        await each.start()
    yield found
    for each in made.values():
        await each.stop(0)


def _server(files: TlsFiles) -> Server:
    return Server((SERVICE,), ServerSettings(), Door(DoorSettings()), files)


@pytest.mark.parametrize(
    ("server", "ca", "told"),
    [
        ("plain", "authority", "it speaks no TLS; unset VISTAFLOW_TLS_CA"),
        ("tls", "", "it may ask for TLS; set VISTAFLOW_TLS_CA"),
        ("tls", "other", "not signed by whom VISTAFLOW_TLS_CA names"),
        ("mutual", "authority", "set VISTAFLOW_TLS_CLIENT_CERT and VISTAFLOW_TLS_CLIENT_KEY"),
    ],
)
async def test_a_secured_channel_that_cannot_be_says_why(
    addresses: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    ca: str,
    told: str,
) -> None:
    Authority(tmp_path, "other")
    if ca:
        monkeypatch.setenv("VISTAFLOW_TLS_CA", str(tmp_path / f"{ca}.crt"))
    async with AsyncClient(addresses[server], timeout=4) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.server_info()
    assert f"no registry answers at {addresses[server]}: " in caught.value.message
    assert told in caught.value.message


async def test_a_host_that_is_not_there_is_told_apart_from_a_port_where_nobody_is() -> None:
    told = []
    for address in ("no-such-host.invalid:50051", "127.0.0.1:9"):
        async with AsyncClient(address, timeout=2) as client:
            with pytest.raises(UnavailableError) as caught:
                await client.server_info()
            told.append(caught.value.message)
    assert "look for a mistake in the address" in told[0]
    assert told[1] == "no registry answers at 127.0.0.1:9"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"VISTAFLOW_TLS_CA": "absent.pem"}, "absent.pem: No such file or directory"),
        ({"VISTAFLOW_TLS_CA": "empty.pem"}, "holds no certificate in PEM"),
        (
            {"VISTAFLOW_TLS_CA": "authority.crt", "VISTAFLOW_TLS_CLIENT_CERT": "authority.crt"},
            "set both VISTAFLOW_TLS_CLIENT_CERT and VISTAFLOW_TLS_CLIENT_KEY, or neither",
        ),
        (
            {
                "VISTAFLOW_TLS_CA": "authority.crt",
                "VISTAFLOW_TLS_CLIENT_CERT": "authority.crt",
                "VISTAFLOW_TLS_CLIENT_KEY": "authority.crt",
            },
            "holds no private key in PEM",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named_with_their_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], told: str
) -> None:
    Authority(tmp_path, "authority")
    (tmp_path / "empty.pem").touch()
    for name, file in settings.items():
        monkeypatch.setenv(name, str(tmp_path / file))
    with pytest.raises(InvalidArgumentError, match=told):
        AsyncClient("127.0.0.1:9")
