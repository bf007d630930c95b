"""The tail of the log, when the network between it and the database goes silent."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from vistaflow_services.registry.log.hub import Hub
from vistaflow_services.registry.log.tail import PATIENCE_SECONDS, Tail

sys.path.insert(0, str(Path(__file__).parents[1]))

from rig import SCHEMA, Rig
from traffic import Writer, external_job, head_of, until


class Wire:
    """A TCP way to the database that can fall silent without closing anything."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._silent: list[asyncio.Event] = []
        self.connection_count = 0

    async def open(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def fall_silent(self) -> None:
        """Nothing more passes on the connections there are; new ones work."""
        for event in self._silent:
            event.set()
        self._silent = []

    async def close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection_count += 1
        silent = asyncio.Event()
        self._silent.append(silent)
        back, forth = await asyncio.open_unix_connection(self._socket)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if silent.is_set():
                    continue
                sink.write(data)
                await sink.drain()
            sink.close()

        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, forth), pump(back, writer))


@pytest.fixture
async def wire(database: str) -> AsyncIterator[tuple[Wire, str]]:
    told = psycopg.conninfo.conninfo_to_dict(database)
    wire = Wire(f"{told['host']}/.s.PGSQL.{told.get('port', 5432)}")
    port = await wire.open()
    yield wire, psycopg.conninfo.make_conninfo(database, host="127.0.0.1", port=port)
    await wire.close()


@pytest.mark.parametrize("patience", [3.0, pytest.param(PATIENCE_SECONDS, marks=pytest.mark.slow)])
async def test_a_silent_connection_is_noticed_by_the_poll_and_no_row_is_missed(
    rig: Rig, wire: tuple[Wire, str], patience: float
) -> None:
    way, conninfo = wire
    hub = Hub()
    tail = Tail(
        hub,
        conninfo=conninfo,
        schema=SCHEMA,
        patience_seconds=patience,
    )
    seen: list[int] = []
    hub.listen(lambda rows: seen.extend(row.revision for row in rows))
    following = asyncio.create_task(tail.run())
    _, job_id = await external_job(rig.stub)
    writer = Writer(rig.stub, job_id)
    await writer.append(5)
    await until(lambda: hub.head == 7)
    way.fall_silent()
    await writer.append(5)
    began = time.monotonic()
    await until(lambda: hub.head == head_of([writer]) == 12, seconds=120)
    print(f"noticed after {time.monotonic() - began:.1f} s")
    assert seen == list(range(1, 13))
    assert tail.reconnect_count >= 1
    assert way.connection_count > 1
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
