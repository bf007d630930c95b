"""Settings of the ML service."""

from __future__ import annotations

from dataclasses import dataclass

from vistaflow_services.core.stage import StageConfig


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the ML service. Each field is read from `VISTAFLOW_ML_<FIELD>`."""

    listen: str = "127.0.0.1:50054"
    """Address to serve on."""

    cached_models: int = 16
    """Models kept in memory for `Predict`, the least recently used dropped first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.cached_models <= 1_000:
            raise ValueError(f"cached_models is from 1 to 1,000, not {self.cached_models}")
