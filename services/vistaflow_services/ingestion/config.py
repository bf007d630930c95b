"""Settings of the ingestion service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the ingestion service. Each field is read from `VISTAFLOW_INGESTION_<FIELD>`."""

    listen: str = "127.0.0.1:50052"
    """Address to serve on."""

    advertise: str = ""
    """Address that others reach it at; `listen` if empty."""

    capacity: int = 2
    """Most jobs run at once."""

    deck_folders: tuple[str, ...] = ()
    """Folders that a deck's `path` is relative to, separated by commas."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """The deck folders."""
        return tuple(Path(each).expanduser() for each in self.deck_folders)
