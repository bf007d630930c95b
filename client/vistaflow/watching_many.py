"""Several watches on one stream, each of which outlives its connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from vistaflow import watching
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc
from vistaflow.channel import waits
from vistaflow.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    OutOfRangeError,
    UnauthenticatedError,
    VistaError,
    from_rpc,
)
from vistaflow.models import WatchEvent
from vistaflow.replicas import leave, present_replica
from vistaflow.watching import Place, mended, place_of

_ERRORS: Final[dict[int, type[VistaError]]] = {
    pb.END_REASON_EPOCH_CHANGED: FailedPreconditionError,
    pb.END_REASON_EXPIRED: OutOfRangeError,
    pb.END_REASON_UNAUTHENTICATED: UnauthenticatedError,
    pb.END_REASON_INVALID: InvalidArgumentError,
}
"""What a watch that ended so cannot go on from."""


class ManyWatches:
    """Iterates over what happens in several watches; made by `AsyncClient.watch_many`.

    Each of them has what a `Watch` has: it resumes by revision after a lost connection, misses
    nothing and repeats nothing. Watches are opened and closed at any time, also while others are
    told of.
    """

    def __init__(self, stub: rpc.RegistryServiceStub) -> None:
        self._stub = stub
        self._places: dict[str, Place] = {}
        self._requests: asyncio.Queue[pb.WatchManyRequest] = asyncio.Queue()
        self._closing: set[str] = set()
        self.connected = False
        """Whether the stream is up now."""

    @property
    def names(self) -> list[str]:
        """The watches that are open."""
        return list(self._places)

    def revision(self, name: str) -> int:
        """Everything of a watch up to here was delivered: what to resume from."""
        return self._places[name].revision

    def open(self, name: str, **wanted: Any) -> None:
        """Begins a watch.

        Args:
            name: The caller's name for it, 1 to 100 characters.
            wanted: What it is to watch and from where, as `watch` takes it.

        Raises:
            ValueError: The name is taken, or a word in what is wanted is none.
        """
        if name in self._places or name in self._closing:
            raise ValueError(f"{name!r} is the name of a watch that is open; choose another")
        self._places[name] = place_of(**wanted)
        self._ask_to_open(name)

    def close(self, name: str) -> None:
        """Ends a watch; what it was told already may still come."""
        if self._places.pop(name, None) is not None:
            self._closing.add(name)
            self._requests.put_nowait(pb.WatchManyRequest(close=pb.CloseWatch(name=name)))

    async def __aiter__(self) -> AsyncIterator[tuple[str, WatchEvent]]:
        """The names of watches, and what happened in them, without end."""
        wait = waits()
        while True:
            at = present_replica(self._stub.WatchMany)
            pause = 0.0
            try:
                async for told in self._connection():
                    wait = waits()
                    yield told
            except grpc.aio.AioRpcError as error:
                pause = mended(from_rpc(error))
            except TimeoutError:
                # Silent for too long: the connection, or who serves it, is gone without saying so.
                leave(self._stub.WatchMany, at)
            finally:
                self.connected = False
            await asyncio.sleep(pause + wait())

    async def _connection(self) -> AsyncIterator[tuple[str, WatchEvent]]:
        """What happens until the connection ends."""
        self._requests = asyncio.Queue()
        self._closing.clear()
        for name in self._places:
            self._ask_to_open(name)
        open_stream: Any = self._stub.WatchMany  # written to by hand, not from an iterator
        call = open_stream()
        writer = asyncio.create_task(self._write(call))
        try:
            while (message := await self._read(call)) is not grpc.aio.EOF:
                self.connected = True
                if message.event.HasField("end"):
                    if message.event.end.code == pb.END_REASON_DRAINING:
                        return
                    self._ended(message.name, message.event.end)
                elif (place := self._places.get(message.name)) is not None:
                    event = place.take(message.event)
                    if event is not None:
                        yield message.name, event
        finally:
            writer.cancel()
            call.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _read(self, call: Any) -> Any:
        """The next message; silence counts as a lost connection while a watch is open."""
        reading = asyncio.ensure_future(call.read())
        try:
            while not reading.done():
                done, _ = await asyncio.wait({reading}, timeout=watching.SILENCE_SECONDS)
                if not done and self._places:
                    raise TimeoutError
            return reading.result()
        finally:
            reading.cancel()

    async def _write(self, call: Any) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await call.write(await self._requests.get())

    def _ask_to_open(self, name: str) -> None:
        opened = pb.OpenWatch(name=name, watch=self._places[name].request())
        self._requests.put_nowait(pb.WatchManyRequest(open=opened))

    def _ended(self, name: str, end: pb.End) -> None:
        """Opens a watch again that ended, if that is of any use.

        Raises:
            VistaError: It is of none.
        """
        self._closing.discard(name)
        place = self._places.get(name)
        if place is None or end.code == pb.END_REASON_CLOSED:
            return
        if end.code == pb.END_REASON_EPOCH_CHANGED and place.snapshot_if_expired:
            place.begin_anew()
        elif end.code in _ERRORS and not (
            end.code == pb.END_REASON_EXPIRED and place.snapshot_if_expired
        ):
            del self._places[name]
            raise _ERRORS[end.code](
                f"watch {name!r}: {end.reason}",
                reason=pb.EndReason.Name(end.code).removeprefix("END_REASON_"),
            )
        later = asyncio.get_running_loop().call_later
        later(waits()(), self._open_again, name, place)

    def _open_again(self, name: str, place: Place) -> None:
        if self._places.get(name) is place and self.connected:
            self._ask_to_open(name)
