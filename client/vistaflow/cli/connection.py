"""The client of one command, which waits only briefly for a missing registry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Self, TypeVar

from vistaflow.aio._calls import DEFAULT_TIMEOUT_SECONDS
from vistaflow.aio.client import AsyncClient
from vistaflow.cli.output import reported

T = TypeVar("T")

CONNECT_SECONDS: Final = 2.0
"""How long a command waits for its first connection."""

EXPLAIN_SECONDS: Final = 0.2
"""How long its last try may take, which finds the reason."""


class CommandClient(AsyncClient):
    """An `AsyncClient` that raises an error if there is no connection within 2 s."""

    async def __aenter__(self) -> Self:
        timeout = self._timeout
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._channel.channel_ready()
        except TimeoutError:
            self._timeout = EXPLAIN_SECONDS
            try:
                await self.server_info()
            except BaseException:
                await self.close()
                raise
        self._timeout = timeout
        return self


def answer_of(
    address: str,
    question: Callable[[CommandClient], Awaitable[T]],
    *,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    token: str = "",
) -> T:
    """The answer of the services to a command; an error is printed and ends the command.

    Args:
        address: The value of `--address`.
        question: Makes the calls of a client.
        timeout: The longest one call may take with all its tries, in seconds.
        token: The token of the calls; if empty the one that a client finds.
    """

    async def ask() -> T:
        async with CommandClient(address, timeout=timeout, token=token) as client:
            return await question(client)

    with reported():
        return asyncio.run(ask())
