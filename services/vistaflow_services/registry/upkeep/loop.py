"""Upkeep of the registry while it serves: checks it and its database, and drops what is old.

The results go to Prometheus, to `GetServerInfo` for `vistaflow status` and `vistaflow doctor`, and,
when a check fails, once to the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import NamedTuple

import psycopg

from vistaflow_services.core.errors import ServiceError
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.connect import megabytes
from vistaflow_services.registry.database.guard import EVENTS
from vistaflow_services.registry.database.queries import fetch
from vistaflow_services.registry.database.space import Space, StorageGuard
from vistaflow_services.registry.datasets.store import DatasetStore
from vistaflow_services.registry.log.hub import Hub, Lag
from vistaflow_services.registry.log.ledger import Ledger
from vistaflow_services.registry.outbox.events import add_events, backup_alarm
from vistaflow_services.registry.reads.store import Pool
from vistaflow_services.registry.upkeep import checks, retention
from vistaflow_services.registry.upkeep.meters import RegistryMeters

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
FIRST_RETENTION_SECONDS = 30.0
FAILED = (psycopg.Error, OSError)


class Growth(NamedTuple):
    """How large the log is and how far back it goes: a row of the query `log_growth`."""

    rows: int
    last_id: int
    oldest_id: int
    partitions: int
    log_bytes: int
    kept_bytes: int
    database_bytes: int
    oldest_at: datetime | None
    end_id: int | None

    @property
    def age_seconds(self) -> float:
        """Age of the oldest row; 0 while there is none."""
        if self.oldest_at is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - self.oldest_at).total_seconds())

    def entries_of_limits(self) -> dict[str, str]:
        """As entries of GetServerInfo.limits."""
        entries = {
            "log.rows": str(max(0, self.rows)),
            "log.size": megabytes(self.log_bytes + self.kept_bytes),
            "log.partitions": str(self.partitions),
            "log.room": str(max(0, (self.end_id or 0) - 1 - self.last_id)),
            "database.size": megabytes(self.database_bytes),
        }
        if self.oldest_at is not None:
            entries["log.oldest_at"] = self.oldest_at.astimezone(UTC).isoformat(timespec="seconds")
            entries["log.age_days"] = f"{self.age_seconds / 86400:.1f}"
        return entries


class Upkeep:
    """Checks the registry, publishes the results, drops old partitions and versions of datasets.

    Args:
        pool: Connections whose search path is the registry's schema.
        config: The registry's settings.
        hub: Knows how far this process and its watches are.
        ledger: Knows how many commands wait.
        guard: Knows the disk.
        datasets: Knows which versions are no longer kept.
        limits: Receives figures and settings as texts, by name.
        meters: Receives the figures as numbers, unless metrics are off.
        counts: More figures for the meters, by gauge.
    """

    def __init__(
        self,
        *,
        pool: Pool,
        config: Config,
        hub: Hub,
        ledger: Ledger,
        guard: StorageGuard,
        datasets: DatasetStore,
        limits: MutableMapping[str, str],
        meters: RegistryMeters | None = None,
        counts: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self._pool = pool
        self._config = config
        self._hub = hub
        self._ledger = ledger
        self._guard = guard
        self._datasets = datasets
        self._limits = limits
        self._meters = meters
        self._counts = counts
        self._wrong: set[str] = set()
        self.findings: list[checks.Finding] = []
        """Of the last look."""
        self.critical = False
        """Whether one of them keeps the registry from its work."""
        self._policy = retention.Policy.of(config)

    async def run(self) -> None:
        """Checks and drops until it is canceled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._guard.run())
            tasks.create_task(self._look_repeatedly())
            tasks.create_task(self._expire_repeatedly())
            if not self._policy.keeps_everything:
                tasks.create_task(self._drop_repeatedly())

    async def look(self) -> list[checks.Finding]:
        """Runs all checks once and publishes the results."""
        lags = self._hub.lags()
        pool = self._pool.get_stats()
        space = self._guard.space()
        async with self._pool.connection() as connection:
            (grown,) = await fetch(connection, "log_growth")
            (row,) = await fetch(connection, "database_health")
            long = await fetch(connection, "long_transactions", {"seconds": checks.LONG_SECONDS})
            applied = await fetch(connection, "applied_migrations")
            queued = await fetch(connection, "waiting_work")
            ((leases,),) = await fetch(connection, "lease_count")
            (log_end,) = await fetch(connection, "log_end")
            ((unguarded, event_trigger),) = await fetch(
                connection, "log_guard", {"triggers": len(EVENTS)}
            )
            ((overdue,),) = await fetch(
                connection, "overdue_blobs", {"seconds": checks.PURGE_SECONDS}
            )
            (deliveries,) = await fetch(connection, "outbox_health")
            ((backup_age,),) = await fetch(connection, "backup_age")
        growth = Growth(*grown)
        if backup_age is None and growth.oldest_at is not None:
            backup_age = growth.age_seconds
        health = checks.Health(*row)
        findings = checks.findings(
            health=health,
            transactions=[checks.Transaction(*transaction) for transaction in long],
            applied=[number for (number,) in applied],
            pool=pool,
            space=space,
            least_free=self._config.min_free_mib << 20,
            database_bytes=growth.database_bytes,
            head=self._hub.head,
            committed=growth.last_id,
            lags=lags,
            log_end=log_end,
            unguarded=unguarded,
            event_trigger=event_trigger,
            overdue=overdue,
            deliveries=deliveries,
            backup_age=backup_age,
            most_backup_age=self._config.backup_max_age_hours * 3_600,
        )
        overdue_backup = [
            item for item in findings if item.name == "backup" and item.state == checks.WRONG
        ]
        if overdue_backup:
            async with self._pool.connection() as connection:
                await add_events(connection, [backup_alarm(overdue_backup[0].summary)])
        self._limits.update(checks.entries_of_limits(findings))
        self._limits.update(growth.entries_of_limits())
        self._limits["watches"] = str(len(lags))
        self._limits["watches.slowest"] = checks.slowest(lags)
        self._warn(findings)
        self.findings = findings
        self.critical = any(finding.critical for finding in findings)
        if self._meters is not None:
            self._meters.look(last_backup_age_seconds=backup_age or 0.0)
            self._measure(growth, health, pool, lags, leases, space)
            self._meters.queued(dict(queued))
            pending, dead, oldest = deliveries
            self._meters.look(
                deliveries_pending=pending,
                deliveries_dead=dead,
                deliveries_oldest_seconds=oldest,
            )
        return findings

    def _measure(
        self,
        growth: Growth,
        health: checks.Health,
        pool: dict[str, int],
        lags: list[Lag],
        leases: int,
        space: Space | None,
    ) -> None:
        assert self._meters is not None
        rows = sorted(lag.rows for lag in lags) or [0]
        waits = sorted(lag.seconds for lag in lags) or [0.0]
        most = int(0.99 * (len(rows) - 1))
        self._meters.look(
            head_revision=max(growth.last_id, self._hub.head),
            oldest_revision=growth.oldest_id,
            log_bytes=growth.log_bytes,
            kept_bytes=growth.kept_bytes,
            database_bytes=growth.database_bytes,
            log_partitions=growth.partitions,
            log_age_seconds=growth.age_seconds,
            watches=len(lags),
            watch_lag_rows_max=rows[-1],
            watch_lag_rows_p99=rows[most],
            watch_lag_seconds_max=waits[-1],
            watch_lag_seconds_p99=waits[most],
            ledger_queue=self._ledger.waiting_count,
            leases=leases,
            pool_size=pool.get("pool_size", 0),
            pool_available=pool.get("pool_available", 0),
            pool_waiting=pool.get("requests_waiting", 0),
            pool_max=pool.get("pool_max", 0),
            database_connections=health.connections,
            database_connections_max=health.most_connections,
            database_oldest_xmin_age=health.xmin_age,
            database_oldest_transaction_seconds=health.oldest_seconds,
            storage_full=self._guard.full,
            **({"disk_free_bytes": space.free, "disk_size_bytes": space.size} if space else {}),
            **self._counts(),
        )
        self._meters.behind(rows)

    def _warn(self, findings: list[checks.Finding]) -> None:
        """Logs once what has become wrong, and once that it is well again."""
        for finding in findings:
            if finding.state == checks.WRONG and finding.name not in self._wrong:
                level = logging.CRITICAL if finding.critical else logging.WARNING
                logger.log(level, "%s: %s. %s", finding.name, finding.summary, finding.fix)
                self._wrong.add(finding.name)
            elif finding.state != checks.WRONG and finding.name in self._wrong:
                logger.info("%s is well again: %s", finding.name, finding.summary)
                self._wrong.discard(finding.name)

    async def _look_repeatedly(self) -> None:
        while True:
            try:
                await self.look()
            except FAILED as error:
                logger.debug("could not look at the database: %s", error)
                if self._meters is not None:
                    self._meters.look(
                        storage_full=self._guard.full, ledger_queue=self._ledger.waiting_count
                    )
            await asyncio.sleep(LOOK_SECONDS)

    async def _expire_repeatedly(self) -> None:
        await asyncio.sleep(min(FIRST_RETENTION_SECONDS, self._config.retention_interval_seconds))
        while True:
            try:
                if count := await self._datasets.expire():
                    logger.info("deleted %s versions of datasets that are no longer kept", count)
            except (ServiceError, *FAILED) as error:
                logger.warning("could not delete old versions of datasets: %s", error)
            await asyncio.sleep(self._config.retention_interval_seconds)

    async def _drop_repeatedly(self) -> None:
        await asyncio.sleep(min(FIRST_RETENTION_SECONDS, self._config.retention_interval_seconds))
        while True:
            conninfo = str(self._pool.conninfo)
            schema = self._config.schema
            try:
                await asyncio.to_thread(retention.apply, conninfo, schema, self._policy)
            except FAILED as error:
                logger.warning("could not drop old partitions: %s", error)
            await asyncio.sleep(self._config.retention_interval_seconds)
