"""Several watches on one stream, each of which survives lost connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from inspect import signature
from typing import Any, Final

import grpc

from vistaflow._rpc.channel import waits
from vistaflow.aio import _watch
from vistaflow.aio._filters import watch_filter
from vistaflow.aio._watch import Place, ReconnectingWatch, place_of
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc
from vistaflow.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    OutOfRangeError,
    UnauthenticatedError,
    VistaError,
    invalid,
)
from vistaflow.models import WatchEvent

OPTIONS: Final = frozenset(
    signature(place_of).parameters.keys() | signature(watch_filter).parameters.keys()
) - {"criteria"}
"""The arguments of a watch."""

_ERRORS: Final[dict[int, type[VistaError]]] = {
    pb.END_REASON_EPOCH_CHANGED: FailedPreconditionError,
    pb.END_REASON_EXPIRED: OutOfRangeError,
    pb.END_REASON_UNAUTHENTICATED: UnauthenticatedError,
    pb.END_REASON_INVALID: InvalidArgumentError,
}
"""Ends after which a watch cannot be opened again."""


class ManyWatches(ReconnectingWatch[tuple[str, WatchEvent]]):
    """Iterates over the events of several watches; made by `AsyncClient.watch_many`.

    Each of them resumes by revision after a lost connection, as a `Watch` does. Watches can be
    opened and closed at any time, also during the iteration. An event is the name of its watch
    and what happened.

    Args:
        stub: The registry.
    """

    def __init__(self, stub: rpc.RegistryServiceStub) -> None:
        super().__init__(stub.WatchMany)
        self._places: dict[str, Place] = {}
        self._requests: asyncio.Queue[pb.WatchManyRequest] = asyncio.Queue()
        self._closing: set[str] = set()

    @property
    def names(self) -> list[str]:
        """The watches that are open."""
        return list(self._places)

    def revision(self, name: str) -> int:
        """Everything of a watch up to here was delivered: what to resume from."""
        return self._places[name].revision

    def open(self, name: str, **options: Any) -> None:
        """Begins a watch.

        Args:
            name: The caller's name for it, 1 to 100 characters.
            options: The arguments of `watch`.

        Raises:
            InvalidArgumentError: The name is taken, or an option is wrong.
        """
        if not isinstance(name, str):
            raise invalid("name", f"{name!r} is not a text")
        if name in self._places or name in self._closing:
            raise invalid("name", f"{name!r} is the name of a watch that is open; choose another")
        unknown = sorted(options.keys() - OPTIONS)
        if unknown:
            raise invalid(
                unknown[0], f"`watch` takes no such argument; it takes {', '.join(sorted(OPTIONS))}"
            )
        self._places[name] = place_of(**options)
        self._ask_to_open(name)

    def close(self, name: str) -> None:
        """Ends a watch; events that were sent before may still follow."""
        if self._places.pop(name, None) is not None:
            self._closing.add(name)
            self._requests.put_nowait(pb.WatchManyRequest(close=pb.CloseWatch(name=name)))

    async def _connection(self) -> AsyncIterator[tuple[str, WatchEvent]]:
        self._requests = asyncio.Queue()
        self._closing.clear()
        for name in self._places:
            self._ask_to_open(name)
        call = self._method()  # written to by `_write`, not from an iterator
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
                done, _ = await asyncio.wait({reading}, timeout=_watch.SILENCE_SECONDS)
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
        """Opens a watch again that the registry ended.

        Raises:
            VistaError: Opening it again cannot succeed.
        """
        self._closing.discard(name)
        place = self._places.get(name)
        if place is None or end.code == pb.END_REASON_CLOSED:
            return
        if end.code == pb.END_REASON_EPOCH_CHANGED and place.snapshot_if_expired:
            place.restart()
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
