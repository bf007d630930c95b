"""A registry that does what a test tells it, on a real port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.client.scripted import ScriptedRegistry  # type: ignore[import-not-found]


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedRegistry]:
    """A scripted registry that listens."""
    registry = ScriptedRegistry()
    await registry.start()
    yield registry
    await registry.stop()
