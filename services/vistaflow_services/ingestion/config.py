"""Settings of the ingestion service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vistaflow_services.core.stage import StageConfig


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the ingestion service. Each field is read from `VISTAFLOW_INGESTION_<FIELD>`."""

    listen: str = "127.0.0.1:50052"
    """Where it listens; port 0 takes a free one."""

    capacity: int = 2
    """Jobs run at once."""

    deck_folders: tuple[Path, ...] = ()
    """Folders that a deck's `path` is relative to, separated by commas."""
