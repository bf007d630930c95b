"""The client of one command, which does not wait long for a registry that is not there."""

from __future__ import annotations

import asyncio
from typing import Final, Self

from vistaflow.aio.client import AsyncClient

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
