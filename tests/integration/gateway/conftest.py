"""A gateway in front of a registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.conftest import serving  # type: ignore[import-not-found]
from tests.integration.gateway.readers import Served, gateway_serving


@pytest.fixture
async def served(database: str, tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway for every caller."""
    async with (
        serving(database) as registry,
        gateway_serving(registry.address, tmp_path) as gateway,
    ):
        yield gateway
