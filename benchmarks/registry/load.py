"""Clients that write or watch, in processes of their own, separate from what they measure.

    python load.py write --address A --kits FILE --rate 300 --seconds 4
    python load.py watch --address A --kits FILE --watchers 500 --of all

Both print `ready`, wait for a line, and print one line of JSON at their end. Times are those of the
machine's monotonic clock, which all processes share. With `--etcd` they use etcd: a kit is a key, a
row is a put, and a watcher of all kits watches the whole range.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import etcd
import grpc
from servers import METADATA_TEXT, rows_of, stub_of

from vistaflow.api.registry.v1 import registry_pb2 as pb

CALLERS = 64
CONNECTIONS = 10
SAMPLED = 100
"""Watchers whose every delivery is timed; of the others every row is looked at too."""


class Registry:
    """What is asked of the registry."""

    def __init__(
        self, address: str, kits: Sequence[Sequence[Any]], connections: int = CONNECTIONS
    ) -> None:
        self._stubs = [stub_of(address) for _ in range(CONNECTIONS)]
        self._watches = [_watch_of(address) for _ in range(connections)]
        self._kits = kits
        self._rows = [pb.AppendStatesRequest(states=rows_of(job_id, 1)) for _, job_id in self._kits]

    async def append(self, number: int) -> int:
        """Writes a row and returns its revision."""
        answer = await self._stubs[0].AppendStates(self._rows[number % len(self._rows)])
        assert answer.results[0].verdict == pb.VERDICT_ACCEPTED
        return int(answer.revision)

    async def watch(self, number: int, of: str) -> AsyncIterator[list[int]]:
        """The revisions of each message; an empty list once it is up to date."""
        stub = self._stubs[number % CONNECTIONS]
        state_filter = pb.StateFilter(kit_ids=[self._kits[number][0]] if of == "one" else [])
        head = (await stub.GetServerInfo(pb.GetServerInfoRequest())).revision
        request = pb.WatchStatesRequest(after_revision=head, filter=state_filter)
        async for data in self._watches[number % len(self._watches)](request):
            revisions = _revisions_of(data)
            if revisions is not None:
                yield revisions


def _watch_of(address: str) -> Any:
    """The method, on a connection of its own; it leaves the reading of messages to us."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(address, options=options).unary_stream(
        "/vistaflow.api.registry.v1.RegistryService/WatchStates",
        request_serializer=pb.WatchStatesRequest.SerializeToString,
    )


@functools.lru_cache(maxsize=1000)
def _revisions_of(data: bytes) -> list[int] | None:
    """What a message brings; many watchers get the same, which need not be read many times."""
    message = pb.WatchStatesResponse.FromString(data)
    if message.HasField("delta"):
        return [state.revision for state in message.delta.states]
    return [] if message.HasField("synced") else None


class Etcd:
    """The same, asked of etcd."""

    def __init__(self, address: str, kits: Sequence[Sequence[Any]]) -> None:
        self._channels = [etcd.channel_to(address) for _ in range(CONNECTIONS)]
        self._puts = [etcd.put(channel) for channel in self._channels]
        self._count = len(kits)

    async def append(self, number: int) -> int:
        """Puts a value and returns its revision."""
        key = b"kit/%d" % (number % self._count)
        answer = await self._puts[0](etcd.PutRequest(key=key, value=METADATA_TEXT.encode()))
        return int(answer.header.revision)

    async def watch(self, number: int, of: str) -> AsyncIterator[list[int]]:
        """The revisions of each message; an empty list once it is up to date."""
        call = etcd.watch(self._channels[number % CONNECTIONS])()
        one = of == "one"
        key = b"kit/%d" % number if one else b"kit/"
        create = etcd.WatchCreateRequest(key=key, range_end=b"" if one else b"kit0")
        await call.write(etcd.WatchRequest(create_request=create))
        while (message := await call.read()) is not grpc.aio.EOF:
            yield [event.kv.mod_revision for event in message.events]


async def write(target: Registry | Etcd, rate: float, seconds: float) -> dict[str, Any]:
    """Appends at a rate, as the clock says, however long each takes.

    Returns:
        Of each append its kit, its revision, when it was asked for and when acknowledged.
    """
    appends: list[tuple[int, int, float, float]] = []
    free = asyncio.Semaphore(CALLERS)

    async def one(number: int) -> None:
        asked = time.monotonic()
        revision = await target.append(number)
        appends.append((number, revision, asked, time.monotonic()))
        free.release()

    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in itertools.count():
            due = begin + number / rate
            if due > begin + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await free.acquire()
            group.create_task(one(number))
    return {
        "appends": sorted(appends, key=lambda append: append[1]),
        "seconds": time.monotonic() - begin,
    }


async def watch(target: Registry | Etcd, numbers: Sequence[int], of: str, step: int) -> Any:
    """Watches until told to end.

    Returns:
        Of each watcher how many rows it got and whether any came twice or out of order; of every
        `step`th when each row came, of the others when the last did.
    """
    up = asyncio.Semaphore(0)
    got: dict[int, list[tuple[int, float]]] = {}
    counts = dict.fromkeys(numbers, 0)
    last = dict.fromkeys(numbers, 0)
    disorder = 0

    async def one(number: int) -> None:
        nonlocal disorder
        sampled = got.setdefault(number, []) if number % step == 0 or of == "one" else None
        async for revisions in target.watch(number, of):
            now = time.monotonic()
            if not revisions:
                up.release()
                continue
            counts[number] += len(revisions)
            disorder += revisions[0] <= last[number] or not _rising(revisions)
            last[number] = revisions[-1]
            if sampled is not None:
                sampled += [(revision, now) for revision in revisions]

    tasks = [asyncio.create_task(one(number)) for number in numbers]
    for _ in numbers:
        async with asyncio.timeout(600):
            await up.acquire()
    head = await asked("ready")
    last_revision = int(head or 0)
    # Everything that was written has to come, for which it may take its time.
    for _ in range(1000):
        if of == "one" or min(last.values()) >= last_revision:
            break
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"counts": list(counts.values()), "disorder": disorder, "got": got}


def _rising(revisions: list[int]) -> bool:
    return revisions[-1] - revisions[0] == len(revisions) - 1 or (
        sorted(set(revisions)) == revisions
    )


async def asked(word: str) -> str:
    """Says a word and waits for a line."""
    print(word, flush=True)
    return (await asyncio.to_thread(sys.stdin.readline)).strip()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("write", "watch"))
    parser.add_argument("--address", required=True)
    parser.add_argument("--kits", type=Path, required=True)
    parser.add_argument("--etcd", action="store_true")
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--watchers", type=int, default=0)
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="of the watchers")
    parser.add_argument("--of", choices=("one", "all"), default="all")
    options = parser.parse_args()
    kits = json.loads(options.kits.read_text())
    target = (
        Etcd(options.address, kits)
        if options.etcd
        else Registry(options.address, kits, options.connections)
    )
    if options.what == "write":
        await target.append(0)
        await asked("ready")
        result = await write(target, options.rate, options.seconds)
    else:
        numbers = range(options.first, options.first + options.watchers)
        step = max(1, options.watchers * 2 // SAMPLED)
        result = await watch(target, numbers, options.of, step)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
