"""Watches as server-sent events: nothing is missed, nothing comes twice, slow readers are cut."""

from __future__ import annotations

import asyncio
import socket

from tests.integration.gateway.readers import Reader, Served


async def test_many_readers_who_come_at_any_time_share_one_watch(served: Served) -> None:
    kit = await served.kit()
    path = f"/v1/kits/{kit.kit_id}/events"
    readers = [Reader() for _ in range(12)]
    count = 120

    async def write() -> None:
        for number in range(1, count + 1):
            await served.append(kit, number, 1)

    def is_done(reader: Reader) -> bool:
        return (max([0, *reader.rows, *reader.snapshot])) == head

    head = 2 + count
    tasks = [asyncio.create_task(write())]
    for reader in readers:
        tasks.append(asyncio.create_task(reader.read(served.http, path, is_done)))
        await asyncio.sleep(0.02)
    await asyncio.gather(*tasks)

    log = await served.log(kit)
    assert log[-1] == head
    assert any(reader.rows for reader in readers)
    for reader in readers:
        synced = max(reader.snapshot)
        assert reader.rows == [revision for revision in log if revision > synced]
    # Readers are noticed to be gone a moment later.
    async with asyncio.timeout(120):
        while served.gateway.events.readers:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert served.gateway.events._hubs == {}


async def test_readers_of_one_filter_open_one_watch_at_the_registry(served: Served) -> None:
    kit = await served.kit()
    path = f"/v1/kits/{kit.kit_id}/events"
    readers = [Reader() for _ in range(8)]
    tasks = [
        asyncio.create_task(reader.read(served.http, path, lambda reader: len(reader.rows) == 5))
        for reader in readers
    ]
    async with asyncio.timeout(120):
        while not all("synced" in reader.kinds for reader in readers):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    info = await served.registry.server_info()
    assert len(served.gateway.events._hubs) == 1
    for number in range(1, 6):
        await served.append(kit, number, 1)
    await asyncio.gather(*tasks)

    assert {tuple(reader.rows) for reader in readers} == {(3, 4, 5, 6, 7)}
    assert info.revision == 2


async def test_a_reader_goes_on_at_its_last_id(served: Served) -> None:
    kit = await served.kit()
    path = f"/v1/kits/{kit.kit_id}/events"
    reader = Reader()
    for round_number in range(5):
        goal = 2 + 10 * round_number
        await reader.read(served.http, path, lambda now: now.last_id == str(goal))  # noqa: B023
        await served.append(kit, 1 + 10 * round_number, 10)

    await reader.read(served.http, path, lambda now: now.last_id == "52")
    assert reader.snapshot == [2]
    assert reader.rows == list(range(3, 53))


async def test_a_reader_that_does_not_read_is_cut_off_and_delays_nobody(served: Served) -> None:
    kit = await served.kit()
    path = f"/v1/kits/{kit.kit_id}/events"
    swift = Reader()
    with socket.create_connection(("127.0.0.1", served.port)) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        reading = asyncio.create_task(
            swift.read(served.http, path, lambda now: len(now.rows) >= number)
        )
        number = 1_000_000
        async with asyncio.timeout(120):
            written = 0
            while not served.gateway.events.cut_off:
                await served.append(kit, written + 1, 500, "x" * 900)
                written += 500
        number = written
        await served.append(kit, written + 1, 1)
        await reading

    assert swift.rows[:written] == list(range(3, 3 + written))
    assert served.gateway.events.cut_off == 1


async def test_what_is_wrong_with_a_watch_is_said_before_the_stream(served: Served) -> None:
    wrong = await served.http.get("/v1/events?filter.kit_idz=1")
    beyond = await served.http.get("/v1/events?after_revision=99")
    text = await served.http.get("/v1/events", headers={"last-event-id": "x"})

    assert (wrong.status_code, wrong.json()["violations"][0]["field"]) == (400, "filter.kit_idz")
    assert (beyond.status_code, beyond.json()["code"]) == (400, "OUT_OF_RANGE")
    assert (text.status_code, text.json()["code"]) == (400, "INVALID_ARGUMENT")
