"""Settings of the registry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vistaflow_services.core import config as core

CENTURY_DAYS = 36_525

RANGES: Mapping[str, tuple[float, float]] = {
    "pool_size": (1, 1_000),
    "max_calls": (1, 1_000_000),
    "lease_seconds": (0.1, 86_400),
    "delivery_hours": (0.001, 8_784),
    "partition_size": (1, 10**12),
    # Shorter and longer ones are of no use, or more than the database's interval takes.
    "request_days": (0.001, CENTURY_DAYS),
    "audit_days": (0.001, CENTURY_DAYS),
    "retention_finished_days": (0, CENTURY_DAYS),
    "retention_failed_days": (0, CENTURY_DAYS),
    "retention_canceled_days": (0, CENTURY_DAYS),
    "retention_interval_seconds": (0.01, 31_622_400),
    "backup_max_age_hours": (0, 24 * CENTURY_DAYS),
    "project_quota_bytes": (0, 2**53),
    "min_free_mib": (0, 2**30),
    "board_weight": (1, 10**9),
    "cache_bytes": (0, 2**40),
}
"""The least and the largest value of each setting that is a number."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the registry. Each field is read from `VISTAFLOW_REGISTRY_<FIELD>`."""

    listen: str = "127.0.0.1:50051"
    """Address to serve on; port 0 takes a free one."""

    database: str = ""
    """libpq connection string or URL. Empty starts an embedded PostgreSQL below `home`."""

    schema: str = "vistadb_test"
    """Schema of the tables."""

    home: Path = field(default_factory=core.home)
    """Where the embedded PostgreSQL keeps its data and the logs go; `$VISTAFLOW_HOME`."""

    pool_size: int = 10
    """Most connections held open to the database for reads."""

    max_calls: int = 2_000
    """Calls served at once, each open watch, stream and worker among them; more are refused."""

    lease_seconds: float = 15.0
    """How long a worker's lease lasts without a heartbeat."""

    delivery_hours: float = 24.0
    """After which time from its first attempt a delivery to a webhook is given up."""

    partition_size: int = 50_000_000
    """Rows a partition of the log holds."""

    request_days: float = 7.0
    """How long the ids of requests are recognised."""

    audit_days: float = 365.0
    """How long requests and their answers are kept for `ListRequests`, `request_days` at least."""

    retention_finished_days: float = 0.0
    """How long the log of a FINISHED kit is kept after its last change; 0: no limit."""

    retention_failed_days: float = 0.0
    """The same for a FAILED kit."""

    retention_canceled_days: float = 0.0
    """The same for a CANCELED kit."""

    retention_interval_seconds: float = 3600.0
    """How often partitions and versions of datasets that are no longer kept are looked for."""

    project_quota_bytes: int = 0
    """Most bytes of all datasets of a project; 0: no limit."""

    backup_max_age_hours: float = 0.0
    """How old the last BACKUP job that finished may be; 0: no alarm."""

    min_free_mib: int = 256
    """Space on the disk of the embedded database below which writes are refused; 0 for none."""

    metrics_listen: str = ""
    """Where metrics and health checks are served over HTTP, such as `127.0.0.1:9464`; empty:
    nowhere."""

    board_weight: int = 200_000
    """About how many tasks are held in memory for appending."""

    cache_bytes: int = 32 * 1024 * 1024
    """About how much memory the kits take that are kept for reading; 0 keeps none."""

    address_file: Path | None = None
    """The registry writes its address to this file once it listens, for its starter."""

    log_level: str = "INFO"
    """Least level of what is logged."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", self.schema):
            raise ValueError(f"schema {self.schema!r} is no plain lower-case name")
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            # Written so that NaN, which is neither below nor above anything, is refused too.
            if not least <= value <= most:
                raise ValueError(f"{name} is {value:g}; give {least:,} to {most:,}")
