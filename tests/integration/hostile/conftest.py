"""Every service of the suite, open to whoever calls, in this process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from attacking import Suite


@pytest.fixture
async def suite(
    database: str, serve: Callable[..., object], tmp_path: Path
) -> AsyncIterator[Suite]:
    """All services on a fresh log with one kit in it; the stages without their workers."""
    async with serve(database) as registry:  # type: ignore[attr-defined]
        made = await Suite.start(registry.address, tmp_path)
        yield made
        await asyncio.shield(made.stop())
