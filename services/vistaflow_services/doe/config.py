"""Settings of the DOE service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the DOE service. Each field is read from `VISTAFLOW_DOE_<FIELD>`."""

    listen: str = "127.0.0.1:50053"
    """Address to serve on."""

    advertise: str = ""
    """Address that others reach it at; `listen` if empty."""

    capacity: int = 1
    """Designs made or run at once."""

    cores: int = 0
    """Cores that one job may keep busy; its share of the machine if 0."""

    memory_bytes: int = 0
    """Memory that one job's own process may use; 0 for no limit. Simulators have the deck's."""

    def __post_init__(self) -> None:
        if not 1 <= self.capacity <= 1000:
            raise ValueError(f"capacity must be 1 to 1000, not {self.capacity}")
        if self.cores < 0 or self.memory_bytes < 0:
            raise ValueError("cores and memory_bytes must not be negative")
