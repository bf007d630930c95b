"""A registry that does what a test tells it, on a real port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.unit.client.scripted import ScriptedRegistry  # type: ignore[import-not-found]


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedRegistry]:
    """A scripted registry that listens."""
    registry = ScriptedRegistry()
    await registry.start()
    yield registry
    await registry.stop()


@pytest.fixture
def background() -> Iterator[ScriptedRegistry]:
    """A scripted registry in a thread of its own, for what blocks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def made() -> ScriptedRegistry:
        registry = ScriptedRegistry()
        await registry.start()
        return registry

    registry = asyncio.run_coroutine_threadsafe(made(), loop).result(60)
    yield registry
    asyncio.run_coroutine_threadsafe(registry.stop(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
