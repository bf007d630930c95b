"""Metrics of the registry for Prometheus.

What happens with every commit is counted as it happens; what is only looked at, such as the lag of
the watchers or the age of the oldest transaction, is set by `upkeep` every few seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from vistaflow_services.core.server.metrics import Metrics
from vistaflow_services.registry.commands import Appended
from vistaflow_services.registry.domain import StateRow, Verdict
from vistaflow_services.registry.reads.cache import KitCache

COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
BATCH_ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
BEHIND_ROWS = (0, 100, 1000, 20_000)
LOST_PREFIX = "attempt-"

GAUGES = {
    "vistaflow_head_revision": "The newest revision this process knows.",
    "vistaflow_oldest_revision": "The oldest revision kept.",
    "vistaflow_log_bytes": "Size of the log's partitions with indexes.",
    "vistaflow_kept_bytes": "Size of what is kept of dropped partitions.",
    "vistaflow_database_bytes": "Size of the whole database.",
    "vistaflow_log_partitions": "Partitions of the log.",
    "vistaflow_log_age_seconds": "Age of the oldest row kept.",
    "vistaflow_watches": "Watches open at this process.",
    "vistaflow_watch_lag_rows_max": "Rows that the slowest watch has still to look at.",
    "vistaflow_watch_lag_rows_p99": "Rows that 99 of 100 watches have at most still to look at.",
    "vistaflow_watch_lag_seconds_max": "For how long a row waits for the slowest watch.",
    "vistaflow_watch_lag_seconds_p99": "For how long a row waits for 99 of 100 watches at most.",
    "vistaflow_ledger_queue": "Commands that wait to be committed.",
    "vistaflow_deliveries_pending": "Events that wait to be sent to other programs.",
    "vistaflow_deliveries_dead": "Events that were given up.",
    "vistaflow_deliveries_oldest_seconds": "Age of the oldest event that waits.",
    "vistaflow_leases": "Attempts in workers' hands.",
    "vistaflow_pool_size": "Connections of the pool for reads.",
    "vistaflow_pool_available": "Connections of the pool that are free.",
    "vistaflow_pool_waiting": "Readers that wait for a connection.",
    "vistaflow_pool_max": "Most connections the pool may hold.",
    "vistaflow_database_connections": "Client connections of the PostgreSQL server.",
    "vistaflow_database_connections_max": "Connections that PostgreSQL allows to clients.",
    "vistaflow_database_oldest_xmin_age": "Transactions since the oldest snapshot still held.",
    "vistaflow_database_oldest_transaction_seconds": "How long the oldest transaction runs.",
    "vistaflow_disk_free_bytes": "Free space on the disk of an embedded database.",
    "vistaflow_disk_size_bytes": "Size of the disk of an embedded database.",
    "vistaflow_last_backup_age_seconds": "Since the last complete backup, or since the log began "
    "if there is none.",
    "vistaflow_storage_full": "1 while writes are refused for want of space.",
    "vistaflow_tail_reconnects": "How often the connection that follows the log was lost.",
    "vistaflow_postgres_restarts": "How often the embedded PostgreSQL was started again.",
}

CACHE_COUNTERS = {
    "hit": ("vistaflow_cache_hits", "Reads of a kit answered from memory."),
    "miss": ("vistaflow_cache_misses", "Reads of a kit that had to ask the database."),
    "eviction": ("vistaflow_cache_evictions", "Kits that left the cache for want of room."),
    "drop": ("vistaflow_cache_drops", "Kits that left because a row does not tell how they are."),
}


class CacheCollector:
    """Reports what the cache of kits holds and did, at each scrape.

    Args:
        cache: The cache.
    """

    def __init__(self, cache: KitCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Any]:
        """The counters and gauges as they are."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, (metric, text) in CACHE_COUNTERS.items():
            yield CounterMetricFamily(metric, text, value=getattr(self._cache, f"{name}_count"))
        for metric, text, number in (
            ("vistaflow_cache_kits", "Kits in memory for reading.", len(self._cache)),
            ("vistaflow_cache_bytes", "About how much memory they take.", self._cache.bytes),
            ("vistaflow_cache_max_bytes", "How much they may take.", self._cache.max_bytes),
        ):
            yield GaugeMetricFamily(metric, text, value=number)


class RegistryMeters:
    """Counts what the ledger does, and holds the latest figures of the upkeep.

    Args:
        metrics: Where they are served.
    """

    def __init__(self, metrics: Metrics) -> None:
        import prometheus_client as prometheus

        where = self._where = metrics.registry
        self._rows = prometheus.Counter(
            "vistaflow_append_rows", "Rows this process committed.", registry=where
        )
        self._commits = prometheus.Counter(
            "vistaflow_commits", "Batches this process committed.", registry=where
        )
        self._conflicts = prometheus.Counter(
            "vistaflow_commit_conflicts", "Times another replica was first.", registry=where
        )
        self._refused = prometheus.Counter(
            "vistaflow_commands_refused", "Commands the database refused.", registry=where
        )
        self._seconds = prometheus.Histogram(
            "vistaflow_commit_seconds",
            "How long the database took for a batch.",
            buckets=COMMIT_SECONDS,
            registry=where,
        )
        self._batch = prometheus.Histogram(
            "vistaflow_commit_rows", "Rows of a batch.", buckets=BATCH_ROWS, registry=where
        )
        self._verdicts = prometheus.Counter(
            "vistaflow_verdicts", "Appended items by verdict.", ["verdict"], registry=where
        )
        self._by_verdict = {verdict: self._verdicts.labels(verdict.value) for verdict in Verdict}
        self._lost = prometheus.Counter(
            "vistaflow_lease_expiries", "Attempts lost with their workers.", registry=where
        )
        self._gauges = {
            name: prometheus.Gauge(name, text, registry=where) for name, text in GAUGES.items()
        }
        self._behind = prometheus.Gauge(
            "vistaflow_watches_behind", "Watches more rows behind than these.", ["rows"],
            registry=where,
        )  # fmt: skip
        self._queued = prometheus.Gauge(
            "vistaflow_jobs_queued", "Jobs that wait for a worker.", ["job_type"], registry=where
        )

    def follow(self, cache: KitCache) -> None:
        """Adds the figures of the cache of kits."""
        self._where.register(CacheCollector(cache))

    def wrote(self, seconds: float, committed: bool) -> None:
        """A batch was written, or another replica was first."""
        if committed:
            self._commits.inc()
            self._seconds.observe(seconds)
        else:
            self._conflicts.inc()

    def committed(self, rows: Sequence[StateRow], answers: Sequence[Any]) -> None:
        """A batch is on disk, with these answers to its commands."""
        if rows:
            self._rows.inc(len(rows))
            self._batch.observe(len(rows))
        for row in rows:
            if row.task_name.startswith(LOST_PREFIX) and '"LOST"' in row.metadata_json:
                self._lost.inc()
        for answer in answers:
            if isinstance(answer, Appended):
                for verdict, count in Counter(result.verdict for result in answer.results).items():
                    self._by_verdict[verdict].inc(count)

    def refused(self, commands: int) -> None:
        """The database refused a batch."""
        self._refused.inc(commands)

    def look(self, **values: float) -> None:
        """Sets gauges, by their names without `vistaflow_`."""
        for name, value in values.items():
            self._gauges[f"vistaflow_{name}"].set(value)

    def queued(self, by_type: dict[str, int]) -> None:
        """Sets how many jobs of each type wait."""
        self._queued.clear()
        for job_type, count in by_type.items():
            self._queued.labels(job_type).set(count)

    def behind(self, lags: Sequence[int]) -> None:
        """Sets how many watches are how many rows behind."""
        for rows in BEHIND_ROWS:
            self._behind.labels(str(rows)).set(sum(lag > rows for lag in lags))
