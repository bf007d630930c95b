"""The gateway with TLS."""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import serving  # type: ignore[import-not-found]
from tests.integration.gateway.readers import Reader, gateway_serving
from vistaflow_services.core.server import probe

sys.path.insert(0, str(Path(__file__).parents[1] / "door"))

from certificates import Authority


async def test_a_new_certificate_is_served_without_a_restart_and_half_of_one_is_not(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, "lab")
    cert, key = authority.sign("here")
    for name, path in (("CERT", cert), ("KEY", key), ("CA", authority.ca)):
        monkeypatch.setenv(f"VISTAFLOW_TLS_{name}", str(path))

    async with (
        serving(database) as registry,
        gateway_serving(registry.address, tmp_path) as served,
    ):

        async def presented() -> str:
            return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", served.port))

        kit = await served.kit()
        reader = Reader()
        await reader.read(
            served.http, f"/v1/kits/{kit.kit_id}/events", lambda now: "synced" in now.kinds
        )
        healthy = await asyncio.to_thread(probe.answers, served.gateway.address)
        first = await presented()
        new_cert, new_key = authority.sign("there")
        cert.write_bytes(new_cert.read_bytes())
        # Longer than the gateway takes to look at the files again.
        await asyncio.sleep(1.5)
        half = await presented()
        key.write_bytes(new_key.read_bytes())
        async with asyncio.timeout(120):
            while await presented() != new_cert.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    assert reader.snapshot == [2]
    assert healthy
    assert half == first
    assert not await asyncio.to_thread(probe.answers, served.gateway.address)
