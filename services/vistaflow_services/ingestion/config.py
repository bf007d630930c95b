"""Settings of the ingestion service."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from vistaflow_services.core.stage import StageConfig
from vistaflow_services.pages.hosts import Hosts
from vistaflow_services.stores.sweep import MIN_GRACE

MAX_PURGE_SECONDS = 365 * 86_400
MAX_CONVERT_WORKERS = 64


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the ingestion service. Each field is read from `VISTAFLOW_INGESTION_<FIELD>`."""

    listen: str = "127.0.0.1:50052"
    """Where it listens; port 0 takes a free one."""

    capacity: int = 2
    """Jobs run at once."""

    deck_folders: tuple[Path, ...] = ()
    """Folders that a deck's `path` is relative to, separated by commas."""

    file_sep_size: int = 0
    """Records that a conversion handles at once unless its request says; 0: the engine chooses."""

    max_csv_rows: int = 300_000
    """Rows of a full part of a conversion unless its request says."""

    convert_workers: int = 0
    """Pieces of one file that a conversion converts at once; the cores of the job, at most four,
    if 0."""

    key_folder: Path | None = None
    """Folder of the operator's keys, one file a `key_ref`."""

    sealing_key: str = ""
    """128 hexadecimal digits that seal the keys of inputs; made in `$VISTAFLOW_HOME/keys` if
    empty."""

    purge_seconds: float = 86_400
    """How long files with forgotten records stay unless the request says."""

    sweep_seconds: float = 3_600
    """Time between two sweeps of the stores, which also purge and repair; 0: none."""

    grace_seconds: float = 86_400
    """How long files that no version refers to stay."""

    upload_quota_bytes: int = 100_000_000_000
    """Bytes that the uploads of one project may have together."""

    upload_reserve_bytes: int = 1 << 30
    """Bytes of the disk that uploads leave free."""

    upload_days: float = 7.0
    """Days after its last use until an upload is removed."""

    upload_idle_seconds: float = 60.0
    """Longest time for the next MiB of an upload to arrive."""

    collect_hosts: tuple[str, ...] = ()
    """Hosts that pages may be collected from: `HOST` at public addresses, `HOST:PORT` at any."""

    collect_delay_seconds: float = 1.0
    """Shortest time between two requests to one host; robots.txt may ask for more."""

    collect_timeout_seconds: float = 30.0
    """How long a host may be silent; a whole page may take four times as long."""

    collect_quota_bytes: int = 10_000_000_000
    """Bytes that the pages of one collection may have together."""

    collect_days: float = 90.0
    """Days until the pages of a collection are removed; its rows stay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Hosts(self.collect_hosts)
        if self.collect_quota_bytes < 0:
            raise ValueError("collect_quota_bytes must be 0 or more bytes")
        if not 0 < self.collect_days <= 36_500:
            raise ValueError("collect_days is above 0 and at most 36,500")
        if not 0 <= self.collect_delay_seconds <= 3_600:
            raise ValueError("collect_delay_seconds is from 0 to 3,600")
        if not 0 < self.collect_timeout_seconds <= 600:
            raise ValueError("collect_timeout_seconds is above 0 and at most 600")
        if self.upload_quota_bytes < 0 or self.upload_reserve_bytes < 0:
            raise ValueError("upload_quota_bytes and upload_reserve_bytes must be 0 or more bytes")
        if not 0 < self.upload_days <= 36_500 or not 0 < self.upload_idle_seconds <= 3_600:
            raise ValueError(
                "upload_days must be above 0 and at most 36,500 days, upload_idle_seconds above 0 "
                "and at most 3,600 s"
            )
        if self.file_sep_size < 0:
            raise ValueError("file_sep_size must be 0 or more objects")
        if not 0 <= self.convert_workers <= MAX_CONVERT_WORKERS:
            raise ValueError(f"convert_workers is from 0 to {MAX_CONVERT_WORKERS}")
        if not 1 <= self.max_csv_rows <= 100_000_000:
            raise ValueError("max_csv_rows must be from 1 to 100,000,000 rows")
        if not 0 <= self.purge_seconds <= MAX_PURGE_SECONDS or self.sweep_seconds < 0:
            raise ValueError("purge_seconds is from 0 to 31,536,000, sweep_seconds at least 0")
        if not timedelta(seconds=self.grace_seconds) >= MIN_GRACE:
            raise ValueError(f"grace_seconds is at least {MIN_GRACE.total_seconds():,.0f}")
