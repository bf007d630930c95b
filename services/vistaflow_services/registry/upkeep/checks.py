"""Checks whether the registry and its database work, and says how to fix what does not.

Each finding is the result of one check: what was checked, its state, what was seen, what to do.
The registry checks every few seconds and sends the findings in `GetServerInfo`, where
`vistaflow doctor` reads them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from vistaflow_services.registry.database.migrations import load_migrations, pending
from vistaflow_services.registry.database.space import MEBIBYTE, Space
from vistaflow_services.registry.log.hub import Lag

PACKAGE = "vistaflow_services.registry"
PREFIX = "check."

OK, NOTE, WRONG = "ok", "note", "wrong"

CLOCK_SECONDS = 2.0
LONG_SECONDS = 60.0
"""A transaction that runs longer keeps PostgreSQL from tidying up."""

XMIN_TRANSACTIONS = 5_000_000
LAG_ROWS = 20_000
"""As many as are held in memory: watchers further behind are served from disk."""

PURGE_SECONDS = 3600.0

LOG_END = "log end"

DELIVERY_SECONDS = 3600.0
"""How long an event may wait."""
"""Name of the check that compares the log with its head."""

SLOWEST = 3
"""Slow watches that are named."""

CONNECTIONS_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    name: str
    state: str
    """`ok`, `note` or `wrong`."""
    summary: str
    """What was seen."""
    fix: str = ""
    critical: bool = False
    """Whether the registry cannot do its work while this lasts."""

    def json_text(self) -> str:
        """As clients of version 0.1 read it, in GetServerInfo.limits."""
        return json.dumps({"state": self.state, "found": self.summary, "fix": self.fix})


class Health(NamedTuple):
    """What the database says of itself: a row of the query `database_health`."""

    connections: int
    most_connections: int
    now: datetime
    xmin_age: int
    oldest_seconds: float


class Transaction(NamedTuple):
    """A transaction that runs for long: a row of the query `long_transactions`."""

    pid: int
    database: str
    application: str
    state: str
    seconds: float

    @property
    def ours(self) -> bool:
        """Whether it is vistaflow's own, such as a backup."""
        return self.application.startswith("vistaflow")


def check_disk(space: Space | None, least_free: int, grown_bytes: int) -> Finding:
    """Whether there is room for the log to grow.

    Args:
        space: The disk of the database, if it is one of this machine.
        least_free: Bytes below which writes are refused.
        grown_bytes: Size of the database.
    """
    if space is None:
        return Finding(
            name="disk",
            state=NOTE,
            summary=f"the database holds {_size(grown_bytes)} on another machine; see there",
        )
    free = f"{_size(space.free)} free of {_size(space.size)}, the database holds "
    free += _size(grown_bytes)
    if space.free < least_free:
        return Finding(
            name="disk",
            state=WRONG,
            summary=f"{free}: writes are refused",
            fix=f"free some until there are {_size(least_free * 5 // 4)}, or drop old partitions: "
            "`vistaflow retention --dry-run`",
        )
    if space.free < max(2 * least_free, space.size // 20):
        return Finding(
            name="disk",
            state=WRONG,
            summary=free,
            fix=f"free some before writes are refused at {_size(least_free)}, set "
            "VISTAFLOW_REGISTRY_RETENTION_FINISHED_DAYS, or move the database",
        )
    return Finding(name="disk", state=OK, summary=free)


def check_clock(local: float, database: datetime) -> Finding:
    """Whether the registry's machine and the database agree on the time.

    Args:
        local: Seconds since 1970 by this machine's clock.
        database: By the database's.
    """
    skew = abs(local - database.timestamp())
    summary = f"{skew:.1f} s between the registry and the database"
    if skew < CLOCK_SECONDS:
        return Finding(name="database clock", state=OK, summary=summary)
    return Finding(
        name="database clock",
        state=WRONG,
        summary=summary,
        fix="leases and order do not depend on it, but times in logs and rows disagree: let NTP "
        "set both clocks",
    )


def check_pool(stats: Mapping[str, int]) -> Finding:
    """Whether reads wait for connections."""
    size, most = stats.get("pool_size", 0), stats.get("pool_max", 0)
    waiting, free = stats.get("requests_waiting", 0), stats.get("pool_available", 0)
    summary = f"{size - free} of {most} connections busy, {waiting} reads wait"
    if not waiting or size < most:
        return Finding(name="pool", state=OK, summary=summary)
    return Finding(
        name="pool",
        state=WRONG,
        summary=summary,
        fix="raise VISTAFLOW_REGISTRY_POOL_SIZE, run another replica, or find the slow reads "
        "in pg_stat_activity",
    )


def slowest(lags: Collection[Lag]) -> str:
    """The few watches that are furthest behind, for people; empty if none is."""
    behind = sorted((lag for lag in lags if lag.rows), reverse=True)
    return "; ".join(
        f"{lag.rows:,} rows, {lag.seconds:.1f} s behind: {lag.who}" for lag in behind[:SLOWEST]
    )


def check_lag(head: int, committed: int, lags: Collection[Lag]) -> Finding:
    """Whether this process and its watchers keep up with the log.

    Args:
        head: The newest revision this process knows.
        committed: The newest revision in the database.
        lags: How far each watch is behind.
    """
    behind = max(0, committed - head)
    slow = sum(lag.rows > LAG_ROWS for lag in lags)
    summary = f"{behind} rows behind the database; {len(lags)} watches"
    if slow:
        summary += f", the slowest {slowest(lags)}"
    elif lags:
        summary += f", the slowest {max(lag.rows for lag in lags)} rows behind"
    if behind > LAG_ROWS:
        return Finding(
            name="lag",
            state=WRONG,
            summary=summary,
            fix="the registry cannot follow its own log: see `vistaflow logs registry` for a lost "
            "connection, and whether its machine has CPU left",
        )
    if slow:
        return Finding(
            name="lag",
            state=NOTE,
            summary=summary,
            fix=f"{slow} watches read slower than rows come and are served from the database: "
            "narrow their filters, or let them watch LATEST_PER_TASK",
        )
    return Finding(name="lag", state=OK, summary=summary)


def check_transactions(running: Collection[Transaction]) -> Finding:
    """Whether a client other than vistaflow holds a transaction open for long."""
    foreign = [transaction for transaction in running if not transaction.ours]
    if foreign:
        worst = foreign[0]
        who = worst.application or "a client that does not say its name"
        return Finding(
            name="long transactions",
            state=WRONG,
            summary=f"process {worst.pid} ({who}, database {worst.database}) has a transaction "
            f"open for {worst.seconds:.0f} s, {worst.state}"
            + (f"; {len(foreign) - 1} more" if len(foreign) > 1 else ""),
            fix="while it lasts PostgreSQL cannot remove dead rows and partitions may not be "
            f"dropped: let it end, or SELECT pg_terminate_backend({worst.pid})",
        )
    summary = f"{len(running)} of vistaflow's own" if running else "none"
    return Finding(name="long transactions", state=OK, summary=summary)


def check_xmin(age: int, seconds: float) -> Finding:
    """Whether an old snapshot keeps dead rows alive."""
    summary = f"the oldest snapshot is {age:,} transactions back; the oldest transaction runs "
    summary += f"{seconds:.0f} s"
    if age < XMIN_TRANSACTIONS:
        return Finding(name="oldest xmin", state=OK, summary=summary)
    return Finding(
        name="oldest xmin",
        state=WRONG,
        summary=summary,
        fix="look for a replication slot nobody reads (pg_replication_slots), a prepared "
        "transaction (pg_prepared_xacts) or a long query (pg_stat_activity), and end it",
    )


def check_connections(used: int, most: int) -> Finding:
    """Whether PostgreSQL soon turns clients away."""
    summary = f"{used} of {most} used"
    if used < CONNECTIONS_SHARE * most:
        return Finding(name="max_connections", state=OK, summary=summary)
    return Finding(
        name="max_connections",
        state=WRONG,
        summary=summary,
        fix="raise max_connections in PostgreSQL, lower VISTAFLOW_REGISTRY_POOL_SIZE of the "
        "replicas, or close idle clients",
    )


def check_guard(unguarded: Collection[str], event_trigger: bool) -> Finding:
    """Whether the database itself keeps rows from being taken out of the log.

    Args:
        unguarded: What is missing of the log or can be changed.
        event_trigger: Whether the owner is kept from dropping parts of it, too.
    """
    if unguarded:
        return Finding(
            name="append-only",
            state=WRONG,
            summary=f"missing or out of force: {', '.join(sorted(unguarded)[:5])}",
            fix="ALTER TABLE ... ENABLE ALWAYS TRIGGER ..., or restore the partition from a backup",
        )
    if not event_trigger:
        return Finding(
            name="append-only",
            state=NOTE,
            summary="changes past the registry are refused; the tables' owner could still DROP or "
            "DETACH a partition",
            fix="that takes an event trigger, which the registry makes if its role is a superuser; "
            "else let nobody but the registry log in as its role",
        )
    return Finding(
        name="append-only",
        state=OK,
        summary="INSERT past the registry, UPDATE, DELETE, TRUNCATE, DROP and DETACH are refused",
    )


def check_log_end(last: int, newest: int, optional: int) -> Finding:
    """Whether the log ends where its head says.

    Args:
        last: The last revision by the head.
        newest: The last row that is there; 0 if there is none.
        optional: The last revision whose row may be missing: dropped, or left out by a restore.
    """
    if newest > last:
        return Finding(
            name=LOG_END,
            state=WRONG,
            critical=True,
            summary=f"rows up to {newest} are beyond the head, {last}: something other than the "
            "registry wrote them, and nothing can be recorded",
            fix="copy what you need of them, then remove them: DELETE FROM mlops_totalstate_table "
            f"WHERE id > {last}; append rows by AppendStates only (`vistaflow append`)",
        )
    if newest < last and last > optional:
        return Finding(
            name=LOG_END,
            state=WRONG,
            critical=True,
            summary=f"the head says {last}, but the last row is {newest}: rows are missing",
            fix="stop the registry and restore a backup (`vistaflow restore`), or put the missing "
            "partition back",
        )
    return Finding(name=LOG_END, state=OK, summary=f"the log ends at the head, {last}")


def check_migrations(applied: Collection[int]) -> Finding:
    """Whether the schema is this version's."""
    missing = pending(PACKAGE, applied)
    newer = sorted(set(applied) - {migration.number for migration in load_migrations(PACKAGE)})
    if newer:
        return Finding(
            name="migrations",
            state=WRONG,
            summary=f"a newer version of vistaflow has migrated the database: to {newer[-1]:04d}",
            fix="update this registry: it would not start again on this database",
        )
    if not missing:
        return Finding(name="migrations", state=OK, summary=f"{len(applied)} applied, none pending")
    return Finding(
        name="migrations",
        state=WRONG,
        summary=f"pending: {', '.join(missing)}",
        fix="restart a registry of this version: it migrates when it starts",
    )


def check_purge(overdue: int) -> Finding:
    """Whether files with rows to be forgotten are purged when their time has come.

    Args:
        overdue: Files that no service has purged for `PURGE_SECONDS` after their time.
    """
    if not overdue:
        return Finding(name="purge", state=OK, summary="no file waits to be purged after its time")
    return Finding(
        name="purge",
        state=WRONG,
        summary=f"{overdue:,} files with rows to be forgotten should have been purged an hour ago",
        fix="the service `ingestion` purges them: start it, or see its log for a store that fails",
    )


def check_deliveries(pending: int, dead: int, oldest_seconds: float) -> Finding:
    """Whether events reach the programs that want them.

    Args:
        pending: Deliveries that wait.
        dead: Deliveries that were given up.
        oldest_seconds: Age of the oldest that waits.
    """
    summary = f"{pending:,} wait, {dead:,} are dead"
    if dead:
        return Finding(
            name="deliveries",
            state=NOTE,
            summary=summary,
            fix="`vistaflow deliveries --dead` says why, `vistaflow delivery retry` sends again",
        )
    if oldest_seconds > DELIVERY_SECONDS:
        return Finding(
            name="deliveries",
            state=NOTE,
            summary=f"{summary}; the oldest waits for {oldest_seconds / 3600:.1f} h",
            fix="`vistaflow deliveries --pending` says why; the service `pipeline` sends them",
        )
    return Finding(name="deliveries", state=OK, summary=summary)


def check_backup(age: float | None, most: float) -> Finding:
    """Decides whether a backup is overdue.

    Args:
        age: Seconds since the last backup was complete at all of its targets, or since the log
            began if there is none; None if nothing has to be saved yet.
        most: How many it may be; 0 for no alarm.
    """
    name = "backup"
    if age is None:
        return Finding(name=name, state=OK, summary="there is nothing to back up yet")
    summary = f"the last complete backup is {age / 3_600:,.1f} hours old"
    if not most:
        return Finding(name=name, state=OK, summary=f"{summary}; any age is allowed")
    if age <= most:
        return Finding(name=name, state=OK, summary=summary)
    return Finding(
        name=name,
        state=WRONG,
        summary=f"a backup is overdue: {summary}, if there is one; allowed are {most / 3_600:,.1f}",
        fix="see why in `vistaflow jobs --type BACKUP`, then `vistaflow backup --to TARGET`",
    )


def findings(
    *,
    health: Health,
    transactions: Collection[Transaction],
    applied: Collection[int],
    pool: Mapping[str, int],
    space: Space | None,
    least_free: int,
    database_bytes: int,
    head: int,
    committed: int,
    lags: Collection[Lag],
    log_end: tuple[int, int, int],
    unguarded: Collection[str],
    event_trigger: bool,
    overdue: int,
    deliveries: tuple[int, int, float],
    backup_age: float | None,
    most_backup_age: float,
) -> list[Finding]:
    """Every finding, in the order in which they are sent."""
    return [
        check_disk(space, least_free, database_bytes),
        check_clock(time.time(), health.now),
        check_pool(pool),
        check_lag(head, committed, lags),
        check_transactions(transactions),
        check_xmin(health.xmin_age, health.oldest_seconds),
        check_connections(health.connections, health.most_connections),
        check_migrations(applied),
        check_log_end(*log_end),
        check_guard(unguarded, event_trigger),
        check_purge(overdue),
        check_deliveries(*deliveries),
        check_backup(backup_age, most_backup_age),
    ]


def entries_of_limits(results: Collection[Finding]) -> dict[str, str]:
    """Findings as entries of GetServerInfo.limits, where clients of version 0.1 read them."""
    return {PREFIX + finding.name: finding.json_text() for finding in results}


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 10**9 else f"{size // MEBIBYTE:,} MiB"
