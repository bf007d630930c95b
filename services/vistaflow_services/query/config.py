"""Settings of the query service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vistaflow_services.core.stage import StageConfig
from vistaflow_services.query.engines.hive import Warehouse


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the query service. Each field is read from `VISTAFLOW_QUERY_<FIELD>`."""

    listen: str = "127.0.0.1:50057"
    """Where it listens; port 0 takes a free one."""

    capacity: int = 2
    """Queries run at once."""

    max_waiting: int = 200
    """Queries of one caller that may wait or run; more are refused."""

    max_running: int = 0
    """Queries of one caller that run at once, the others wait; 0: as many as there is room for."""

    max_rows: int = 100_000_000
    """Most rows of a result; a query with more fails."""

    max_seconds: int = 3600
    """Longest a query may run."""

    engine_memory_mib: int = 1024
    """Memory that DuckDB may use for a query, in MiB."""

    engine_disk_mib: int = 16 * 1024
    """Disk that DuckDB may use for a query, in MiB: what it spills, and as much for the result."""

    cache_mib: int = 2048
    """Files of buckets that stay on this machine for later queries, in MiB; 0: none."""

    result_days: int = 30
    """Days that a result is kept after the query; 0: it is kept until it is deleted by hand. The
    history keeps the query."""

    result_mib: int = 0
    """Most that the stored results of a project hold, in MiB: the oldest are removed first; 0: any
    size."""

    trino: str = ""
    """The Trino that queries may be sent to, such as `http://trino:8080/hive/default`; empty:
    none."""

    trino_user: str = "vistaflow"
    """Whom queries run as in Trino."""

    trino_folder: Path | None = None
    """A folder that Trino can see, too: files become its tables there. Without it a query on Trino
    reads Trino's own tables only."""

    trino_location: str = "local:///"
    """What Trino calls that folder."""

    @property
    def warehouse(self) -> Warehouse | None:
        """Where files become tables of Trino."""
        if self.trino_folder is None:
            return None
        return Warehouse(folder=self.trino_folder, location=self.trino_location)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (
            ("max_waiting", 1),
            ("max_running", 0),
            ("max_rows", 1),
            ("max_seconds", 1),
            ("engine_memory_mib", 64),
            ("engine_disk_mib", 64),
            ("cache_mib", 0),
            ("result_days", 0),
            ("result_mib", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}, not {getattr(self, name)}")
