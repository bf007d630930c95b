"""Liveness and readiness over HTTP, for platforms that ask so."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from typing import Any

import pytest

from tests.networks import has_ipv6  # type: ignore[import-not-found]
from vistaflow_services.core.server import listener, metrics
from vistaflow_services.core.server.listener import Listener, probe
from vistaflow_services.core.server.metrics import Metrics
from vistaflow_services.core.server.shell import ServerSettings, StartError, make_server, run

NAME = "vistaflow.test.v1.Test"
LIVE = READY = (200, "OK\n")
NOT = (503, "Service Unavailable\n")


def get(address: str, path: str) -> tuple[int, str]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Probed:
    """The event loop of a process, and what its probes say."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.http = self.metrics.serve("127.0.0.1:0")

    async def __aenter__(self) -> Probed:
        self.address = self.http.__enter__()
        self.watching = asyncio.create_task(self.metrics.watch_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.watching.cancel()
        await asyncio.to_thread(self.http.__exit__, None, None, None)

    async def ask(self) -> tuple[Any, Any]:
        live = await asyncio.to_thread(get, self.address, "/livez")
        return live, await asyncio.to_thread(get, self.address, "/readyz")

    async def until(self, *told: Any) -> None:
        async with asyncio.timeout(60):
            while await self.ask() != told:
                pass


async def test_a_process_is_live_before_it_is_ready_and_until_it_has_drained() -> None:
    up: list[bool | Exception] = [False]
    drained = []

    async def ready() -> bool:
        if isinstance(up[0], Exception):
            raise up[0]
        return up[0]

    async def on_drain() -> None:
        drained.append(await probed.ask())

    async with Probed() as probed:
        assert await probed.ask() == (LIVE, NOT)  # there is no server yet
        settings = ServerSettings(ready_interval=0.02)
        server = make_server(NAME, settings=settings, metrics=probed.metrics)
        assert await probed.ask() == (LIVE, NOT)
        server.bind("127.0.0.1:0")
        stop = asyncio.Event()
        running = asyncio.create_task(run(server, ready=ready, on_drain=on_drain, stop=stop))
        assert await probed.ask() == (LIVE, NOT)
        up[0] = True
        await probed.until(LIVE, READY)
        up[0] = OSError("the database at db.internal is gone")
        await probed.until(LIVE, NOT)
        up[0] = True
        await probed.until(LIVE, READY)
        stop.set()
        await running
        assert drained == [(LIVE, NOT)]
        assert await probed.ask() == (LIVE, NOT)


async def test_a_process_whose_event_loop_stands_still_is_neither_live_nor_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "LIVE_SECONDS", 0.5)
    told: list[Any] = []
    async with Probed() as probed:
        server = make_server(NAME, metrics=probed.metrics)
        await server.set_serving(True)
        await probed.until(LIVE, READY)

        def ask() -> None:
            time.sleep(1)
            told.extend(get(probed.address, path) for path in ("/livez", "/readyz"))

        asking = threading.Thread(target=ask)
        asking.start()
        asking.join()  # so this loop stands still
        assert told == [NOT, NOT]
        await probed.until(LIVE, READY)
        await server.stop(0)


async def test_what_is_no_page_is_not_found() -> None:
    async with Probed() as probed:
        for path in ("/", "/healthz", "/livez/", "/metrics2"):
            assert await asyncio.to_thread(get, probed.address, path) == (404, "Not Found\n")
        status, text = await asyncio.to_thread(get, probed.address, "/metrics?a=b")
        assert (status, "vistaflow_event_loop_lag_seconds" in text) == (200, True)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        pytest.param(
            "::1", marks=pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
        ),
    ],
)
def test_a_client_that_says_nothing_is_hung_up_on_and_holds_up_nobody(
    host: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listener._Handler, "timeout", 0.5)
    served = Listener(host, 0, {"/": probe(lambda: True)})
    with served.serving(), socket.create_connection((host, served.server_port)) as silent:
        assert get(served.address, "/") == (200, "OK\n")
        silent.settimeout(60)
        assert silent.recv(1) == b""
    assert capfd.readouterr().err == ""


def test_a_port_in_use_is_told_plainly() -> None:
    with Metrics().serve("127.0.0.1:0") as address:
        told = f"cannot serve metrics at {address}: Address already in use"
        with pytest.raises(StartError, match=told), Metrics().serve(address):
            pass
