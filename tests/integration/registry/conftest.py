"""Registries of one test's log, in this process."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig, Start


@pytest.fixture
async def start(database: str) -> AsyncIterator[Start]:
    """Starts registries of this test's log; each is a replica with a port of its own."""
    started: list[Rig] = []

    async def one(**settings: float) -> Rig:
        rig = await Rig.start(database, **settings)
        started.append(rig)
        return rig

    yield one
    for rig in reversed(started):
        await rig.stop()


@pytest.fixture
async def rig(start: Start) -> Rig:
    """A registry."""
    return await start()
