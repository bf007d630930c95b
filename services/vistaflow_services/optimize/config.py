"""Settings of the optimise service."""

from __future__ import annotations

from dataclasses import dataclass

from vistaflow_services.core.stage import StageConfig


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the optimise service. Each field is read from `VISTAFLOW_OPTIMIZE_<FIELD>`."""

    listen: str = "127.0.0.1:50055"
    """Address to serve on."""
