"""What the registry does beside serving: looks at itself and its database, and drops what is old.

What it sees goes three ways: to Prometheus, to `GetServerInfo.limits` for `vistaflow status` and
`vistaflow doctor`, and, where something is wrong, once into the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import NamedTuple

import psycopg

from vistaflow_services.registry import checks, retention
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.guarding import EVENTS
from vistaflow_services.registry.hub import Hub, Lag
from vistaflow_services.registry.ledger import Ledger
from vistaflow_services.registry.local import megabytes
from vistaflow_services.registry.meters import RegistryMeters
from vistaflow_services.registry.reading import fetch
from vistaflow_services.registry.storage import Space, StorageGuard
from vistaflow_services.registry.store import Pool

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

    def told(self) -> dict[str, str]:
        """As entries of GetServerInfo.limits."""
        told = {
            "log.rows": str(max(0, self.rows)),
            "log.size": megabytes(self.log_bytes + self.kept_bytes),
            "log.partitions": str(self.partitions),
            "log.room": str(max(0, (self.end_id or 0) - 1 - self.last_id)),
            "database.size": megabytes(self.database_bytes),
        }
        if self.oldest_at is not None:
            told["log.oldest_at"] = self.oldest_at.astimezone(UTC).isoformat(timespec="seconds")
            told["log.age_days"] = f"{self.age_seconds / 86400:.1f}"
        return told


class Upkeep:
    """Looks, tells and drops.

    Args:
        pool: Connections whose search path is the registry's schema.
        config: The registry's settings.
        hub: Knows how far this process and its watches are.
        ledger: Knows how many commands wait.
        guard: Knows the disk.
        limits: Gets what is worth knowing, by name.
        meters: Gets it as numbers, if anybody wants them.
        counts: More to tell the meters, by gauge.
    """

    def __init__(
        self,
        *,
        pool: Pool,
        config: Config,
        hub: Hub,
        ledger: Ledger,
        guard: StorageGuard,
        limits: MutableMapping[str, str],
        meters: RegistryMeters | None = None,
        counts: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self._pool = pool
        self._config = config
        self._hub = hub
        self._ledger = ledger
        self._guard = guard
        self._limits = limits
        self._meters = meters
        self._counts = counts
        self._wrong: set[str] = set()
        self.critical = False
        """Whether the last look showed something that keeps the registry from its work."""
        self._policy = retention.Policy.of(config)

    async def run(self) -> None:
        """Looks and drops for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._guard.run())
            tasks.create_task(self._look_for_ever())
            if not self._policy.keeps_everything:
                tasks.create_task(self._drop_for_ever())

    async def look(self) -> list[checks.Finding]:
        """Looks once, and tells."""
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
        growth = Growth(*grown)
        health = checks.Health(*row)
        found = checks.findings(
            health=health,
            transactions=[checks.Transaction(*each) for each in long],
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
        )
        self._limits.update(checks.told(found))
        self._limits.update(growth.told())
        self._limits["watches"] = str(len(lags))
        self._limits["watches.slowest"] = checks.slowest(lags)
        self._warn(found)
        self.critical = any(finding.critical for finding in found)
        if self._meters is not None:
            self._measure(growth, health, pool, lags, leases, space)
            self._meters.queued(dict(queued))
        return found

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

    def _warn(self, found: list[checks.Finding]) -> None:
        """Says once what has become wrong, and once that it is well again."""
        for each in found:
            if each.state == checks.WRONG and each.name not in self._wrong:
                level = logging.CRITICAL if each.critical else logging.WARNING
                logger.log(level, "%s: %s. %s", each.name, each.found, each.fix)
                self._wrong.add(each.name)
            elif each.state != checks.WRONG and each.name in self._wrong:
                logger.info("%s is well again: %s", each.name, each.found)
                self._wrong.discard(each.name)

    async def _look_for_ever(self) -> None:
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

    async def _drop_for_ever(self) -> None:
        await asyncio.sleep(min(FIRST_RETENTION_SECONDS, self._config.retention_interval_seconds))
        while True:
            conninfo = str(self._pool.conninfo)
            schema = self._config.schema
            try:
                await asyncio.to_thread(retention.apply, conninfo, schema, self._policy)
            except FAILED as error:
                logger.warning("could not drop old partitions: %s", error)
            await asyncio.sleep(self._config.retention_interval_seconds)
