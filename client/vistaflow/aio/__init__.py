"""The client for asyncio: `async with vistaflow.aio.connect() as client: …`."""

from vistaflow.aio.client import AsyncClient, connect

__all__ = ["AsyncClient", "connect"]
