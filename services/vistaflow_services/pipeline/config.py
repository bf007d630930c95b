"""Settings of the pipeline service."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from vistaflow_services.core.stage import StageConfig
from vistaflow_services.pipeline.deliveries.sender import Sender


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the pipeline service. Each field is read from `VISTAFLOW_PIPELINE_<FIELD>`."""

    listen: str = "127.0.0.1:50056"
    """Where it listens; port 0 takes a free one."""

    deck_folders: tuple[Path, ...] = ()
    """Folders that `deck.path` is relative to, separated by commas."""

    doe: str = ""
    """Address of the DOE service; asked of the registry if empty."""

    confirmation_hours: float = 24.0
    """Hours of simulator runs above which `vistaflow run` needs --yes; 0: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.confirmation_hours < math.inf:
            raise ValueError(f"confirmation_hours is at least 0, not {self.confirmation_hours}")
        # A mistake in the settings of deliveries is one at the start, not at the first event.
        Sender("")
