"""Limits of studies, apart from the numeric libraries that a search needs."""

from __future__ import annotations

from typing import Final

MAX_BUDGET: Final = 100_000
"""Most simulator runs of one study."""

MAX_BATCH: Final = 64
"""Most points run at the same time."""
