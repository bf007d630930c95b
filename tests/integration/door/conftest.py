"""A registry that asks for tokens, and the tokens."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from vistaflow_services.registry.__main__ import Registry

sys.path.insert(0, str(Path(__file__).parent))

from keys import Keys


@pytest.fixture
async def guarded(
    database: str, serve: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Registry]:
    """A registry that asks for tokens, on a fresh database."""
    monkeypatch.setenv("VISTAFLOW_AUTH", "required")
    async with serve(database) as registry:  # type: ignore[attr-defined]
        yield registry


@pytest.fixture
async def keys(guarded: Registry) -> Keys:
    """Tokens of that registry."""
    return Keys(guarded)
