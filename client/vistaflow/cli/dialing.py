"""The client of one command, which does not wait long for a registry that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Self, TypeVar

from vistaflow.aio.calls import DEFAULT_TIMEOUT_SECONDS
from vistaflow.aio.client import AsyncClient
from vistaflow.cli.output import told

T = TypeVar("T")

CONNECT_SECONDS: Final = 2.0
"""How long a command waits for its first connection."""

TELL_SECONDS: Final = 0.2
"""How long its last try may take, which says why there is none."""


class CommandClient(AsyncClient):
    """An `AsyncClient` for somebody who waits: no connection within 2 s is an error."""

    async def __aenter__(self) -> Self:
        timeout = self._timeout
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._channel.channel_ready()
        except TimeoutError:
            self._timeout = TELL_SECONDS
            try:
                await self.server_info()
            except BaseException:
                await self.close()
                raise
        self._timeout = timeout
        return self


def asked(
    address: str,
    question: Callable[[CommandClient], Awaitable[T]],
    *,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    token: str = "",
) -> T:
    """What the services answer a command; a refusal is told, and ends it.

    Args:
        address: As it was given.
        question: What is asked of a client.
        timeout: The longest one call may take with all its tries, in seconds.
        token: Shown to the services; the one that a client finds if empty.
    """

    async def ask() -> T:
        async with CommandClient(address, timeout=timeout, token=token) as client:
            return await question(client)

    with told():
        return asyncio.run(ask())
