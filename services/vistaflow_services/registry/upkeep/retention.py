"""Drops old partitions of the log: `python -m vistaflow_services.registry.retention [--dry-run]`.

Rows leave the log with a whole partition or not at all, the oldest first, and only once every kit
with rows in it has been over for as long as the policy keeps its kind. Before that, every own row
of its jobs and the last row of each task are copied to `kept_states`. So kits and jobs read as
before, derived tables can be rebuilt, and only the rows between are lost. A watch from before the
oldest revision gets OUT_OF_RANGE.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from vistaflow._machine.encoding import degrade_output
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.connect import Connection, connected, database, megabytes
from vistaflow_services.registry.database.queries import QUERIES

logger = logging.getLogger(__name__)

LOCK_MILLISECONDS = 300
"""How long dropping waits for readers and writers of the log, and they wait for it."""

LOCK_TRIES = 20
DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Days that the log of a kit is kept after its last change, by status; 0: no limit.

    A kit that is not over is always kept.
    """

    finished_days: float = 0.0
    failed_days: float = 0.0
    canceled_days: float = 0.0

    @classmethod
    def of(cls, config: Config) -> Policy:
        """The policy that the registry is configured with."""
        return cls(
            finished_days=config.retention_finished_days,
            failed_days=config.retention_failed_days,
            canceled_days=config.retention_canceled_days,
        )

    @property
    def keeps_everything(self) -> bool:
        """Whether nothing is ever dropped."""
        return not self.seconds()

    def seconds(self) -> dict[str, float]:
        """Seconds by status; statuses without a limit are left out."""
        days = {
            "FINISHED": self.finished_days,
            "FAILED": self.failed_days,
            "CANCELED": self.canceled_days,
        }
        return {status: day * DAY for status, day in days.items() if day > 0}

    def __str__(self) -> str:
        days = self.seconds()
        if not days:
            return "everything is kept"
        texts = (f"{status} {day / DAY:g} days" for status, day in days.items())
        return "kept after the last change of a kit: " + ", ".join(texts)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A partition, and whether it can go."""

    name: str
    first_id: int
    end_id: int
    size: int
    """Bytes on disk, with indexes."""
    newest_at: datetime | None
    """When its last row was written."""
    why_kept: str
    """Empty when it can be dropped."""


def plan(connection: Connection, policy: Policy) -> list[Part]:
    """The partitions of the log, oldest first, and why each is kept.

    Only the oldest can go: after the first that is kept, all are.
    """
    parts: list[Part] = []
    earlier = ""
    rows = connection.execute(QUERIES["log_partitions"]).fetchall()
    for name, first_id, end_id, size, full, expired in rows:
        why = earlier or ("" if expired else _why_kept(connection, policy, first_id, end_id, full))
        newest = connection.execute(
            "SELECT created_at FROM mlops_totalstate_table WHERE id >= %s AND id < %s "
            "ORDER BY id DESC LIMIT 1",
            [first_id, end_id],
        ).fetchone()
        part = Part(
            name=name,
            first_id=first_id,
            end_id=end_id,
            size=size,
            newest_at=newest[0] if newest else None,
            why_kept=why,
        )
        parts.append(part)
        if why and not earlier:
            earlier = f"{name} before it is kept"
    return parts


def _why_kept(
    connection: Connection, policy: Policy, first_id: int, end_id: int, full: bool
) -> str:
    if policy.keeps_everything:
        return "the policy keeps everything"
    if not full:
        return "the log still grows in it"
    row = connection.execute(
        QUERIES["blocking_kit"],
        {"first_id": first_id, "end_id": end_id, "seconds": json.dumps(policy.seconds())},
    ).fetchone()
    if row is None:
        return ""
    return f"kit {row[0]} is {row[1]} and changed last at {row[2]:%Y-%m-%d %H:%M:%S%z}"


def apply(conninfo: str, schema: str, policy: Policy) -> list[Part]:
    """Drops what the policy does not keep and returns what was dropped.

    One process at a time does it; another that tries meanwhile returns at once.
    """
    if policy.keeps_everything:
        return []
    dropped: list[Part] = []
    with connected(conninfo, schema, name="retention") as connection:
        lock = "SELECT pg_try_advisory_lock(hashtext('vistaflow retention ' || %s))"
        if connection.execute(lock, [schema]).fetchone() != (True,):
            return []
        for part in plan(connection, policy):
            if part.why_kept:
                break
            if not _drop(connection, part):
                break
            dropped.append(part)
            logger.info("dropped %s of %s", part.name, megabytes(part.size))
    return dropped


def _drop(connection: Connection, part: Part) -> bool:
    """Drops one partition; False if readers or writers held it locked too long."""
    connection.execute(QUERIES["keep_states"], {"name": part.name})
    # Committed before the partition is dropped: a reader that misses rows sees why.
    connection.execute(QUERIES["move_oldest"], {"oldest_id": part.end_id})
    for attempt in range(LOCK_TRIES):
        try:
            with connection.transaction():
                connection.execute(
                    "SELECT set_config('lock_timeout', %s, true)", [str(LOCK_MILLISECONDS)]
                )
                connection.execute(QUERIES["drop_partition"], {"name": part.name})
            return True
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(min(0.1 * (attempt + 1), 1.0))
    logger.warning("%s is in use and could not be dropped; the next round tries again", part.name)
    return False


def table(parts: Sequence[Part]) -> str:
    """What is dropped and what is kept, for people."""
    lines = []
    for part in parts:
        newest = f"{part.newest_at:%Y-%m-%d %H:%M}" if part.newest_at else "empty"
        verdict = f"kept: {part.why_kept}" if part.why_kept else "can be dropped"
        lines.append(
            f"{part.name}  revisions {part.first_id}-{part.end_id - 1}  "
            f"{megabytes(part.size)}  last row {newest}  {verdict}"
        )
    return "\n".join(lines)


def main() -> int:
    """Drops what is no longer kept, or prints what would be dropped."""
    degrade_output()
    parser = argparse.ArgumentParser(description="Drops partitions of the log that are not kept.")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be dropped")
    parser.add_argument(
        "--days",
        type=float,
        metavar="N",
        help="keep kits that are over for N days, instead of as configured",
    )
    arguments = parser.parse_args()
    if arguments.days is not None and arguments.days < 0:
        parser.error(f"argument --days: is {arguments.days:g}; give 0 or more")
    try:
        config = read_config(Config, "VISTAFLOW_REGISTRY_")
        policy = Policy.of(config)
        if arguments.days is not None:
            days = arguments.days
            policy = Policy(finished_days=days, failed_days=days, canceled_days=days)
        print(policy)
        with database(config) as conninfo:
            if arguments.dry_run:
                with connected(conninfo, config.schema, name="retention") as connection:
                    print(table(plan(connection, policy)))
                return 0
            dropped = apply(conninfo, config.schema, policy)
            with connected(conninfo, config.schema, name="retention") as connection:
                left = plan(connection, policy)
    except (ServiceError, psycopg.Error) as error:
        print(f"retention failed: {error}", file=sys.stderr)
        return 1
    for part in dropped:
        print(f"dropped {part.name}, {megabytes(part.size)}")
    if left:
        why = left[0].why_kept or "it is in use; the next round tries again"
        print(f"{'' if dropped else 'nothing to drop: '}{left[0].name} is kept: {why}")
    return 0
