"""Several registries on one database behind one address list: `host1:50051,host2:50051`.

A channel to all of them calls one, which it picks at random, until a call finds it gone; then it
calls the next. A repeated call or watch goes to the next replica.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import grpc

_GONE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_READS: Final = ("Get", "List", "Diff")


def addresses_of(address: str) -> list[str]:
    """The addresses of a list divided by commas, each once."""
    return list(dict.fromkeys(part.strip() for part in address.split(",") if part.strip()))


def replicated(address: str, open_one: Callable[[str], grpc.aio.Channel]) -> grpc.aio.Channel:
    """A channel to one address, or to all of a list.

    Args:
        address: Such as `127.0.0.1:50051`, or several divided by commas.
        open_one: Opens the channel to one of them.
    """
    addresses = addresses_of(address)
    if len(addresses) < 2:
        return open_one(addresses[0] if addresses else address)
    return ReplicaChannel([open_one(address) for address in addresses])


def replica_count(method: Any) -> int:
    """How many replicas can answer a stub's method."""
    return int(getattr(method, "replica_count", 1))


def present_replica(method: Any) -> int:
    """The replica that a stub's method calls now."""
    return int(getattr(method, "present", 0))


def leave(method: Any, replica: int) -> None:
    """Makes a stub's method call another replica if it still calls this one."""
    if replica_count(method) > 1:
        method.leave(replica)


def repeatable(request: Any) -> bool:
    """Whether a request whose outcome is unknown may be repeated at any replica."""
    return bool(getattr(request, "request_id", "")) or type(request).__name__.startswith(_READS)


class ReplicaChannel(grpc.aio.Channel):
    """A channel that changes to the next replica when one is gone.

    Args:
        channels: One to each replica.
    """

    def __init__(self, channels: list[grpc.aio.Channel]) -> None:
        self.channels = channels
        self._present = random.randrange(len(channels))
        self._judging: set[asyncio.Task[None]] = set()

    @property
    def present(self) -> int:
        """The replica that is called now, as its place in the list."""
        return self._present

    async def __aenter__(self) -> ReplicaChannel:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Closes the connections."""
        for channel in self.channels:
            await channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """How the connection to the present replica is."""
        return self.channels[self._present].get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the connection to the present replica changes."""
        await self.channels[self._present].wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until any replica is connected to."""
        waiting = [asyncio.ensure_future(channel.channel_ready()) for channel in self.channels]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for attempt in waiting:
                attempt.cancel()

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        """A method to call."""
        return _Method(self, "unary_unary", args, options)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        """A method to call."""
        return _Method(self, "unary_stream", args, options)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        """A method to call."""
        return _Method(self, "stream_unary", args, options)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        """A method to call."""
        return _Method(self, "stream_stream", args, options)

    def watch_end(self, replica: int, call: Any) -> None:
        """Changes to the next replica if a call to the present one finds it gone."""

        def ended(call: Any) -> None:
            if not call.cancelled() and self._present == replica:
                task = asyncio.ensure_future(self._judge(replica, call))
                self._judging.add(task)
                task.add_done_callback(self._judging.discard)

        call.add_done_callback(ended)

    def leave(self, replica: int) -> None:
        """Changes to the next replica, unless another call did so already."""
        if self._present == replica:
            self._present = self._next()

    async def _judge(self, replica: int, call: Any) -> None:
        if await call.code() in _GONE:
            self.leave(replica)

    def _next(self) -> int:
        """The next replica, preferably one that is not known to be gone."""
        count = len(self.channels)
        order = [(self._present + step) % count for step in range(1, count)]
        failed = grpc.ChannelConnectivity.TRANSIENT_FAILURE
        alive = [replica for replica in order if self.channels[replica].get_state() != failed]
        return (alive or order)[0]


class _Method:
    """One method of a stub, on whichever replica is the present one."""

    def __init__(
        self, channel: ReplicaChannel, kind: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._methods = [getattr(one, kind)(*args, **options) for one in channel.channels]
        self.replica_count = len(self._methods)

    @property
    def present(self) -> int:
        """The replica that is called now."""
        return self._channel.present

    def leave(self, replica: int) -> None:
        """Calls another replica from now on, if this is still the one."""
        self._channel.leave(replica)

    def __call__(self, *args: Any, **options: Any) -> Any:
        replica = self._channel.present
        call = self._methods[replica](*args, **options)
        self._channel.watch_end(replica, call)
        return call


class Newest:
    """The newest revision that a caller has seen, as the minimum for what it reads next.

    Only with several replicas: a single one never answers with an older revision.
    """

    def __init__(self, replicas: int) -> None:
        self._has_others = replicas > 1
        self._revision = 0

    def ask(self, request: Any) -> bool:
        """Makes a read wait for the newest revision; returns whether it does."""
        if not self._revision or getattr(request, "min_revision", -1) != 0:
            return False
        request.min_revision = self._revision
        return True

    def note(self, response: Any) -> None:
        """Remembers the revision of an answer."""
        if self._has_others:
            self._revision = max(self._revision, getattr(response, "revision", 0))

    def forget(self) -> None:
        """Starts again from 0: the log was replaced by an older one."""
        self._revision = 0
