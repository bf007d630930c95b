"""Schedules in the database. Their SQL is in `sql/schedule_queries.sql`.

Every change is one transaction with the request that asked for it, so that a repeat changes
nothing. Plans are made elsewhere: they are recorded only if the schedule still has the revision
that they were made from.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from vistaflow_services.core.errors import ExhaustedError, ExistsError, NotFoundError
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.database.once import once
from vistaflow_services.registry.database.pool import Connection, Connections, Pool, Row
from vistaflow_services.registry.database.queries import QUERIES, fetch
from vistaflow_services.registry.database.space import StorageGuard
from vistaflow_services.registry.outbox.events import (
    OVERDUE,
    add_events,
    named_webhooks,
    overdue_event,
)
from vistaflow_services.registry.schedules.messages import WIDTH, Fire, Key, Schedule

MAX_SCHEDULES = 1_000
"""Schedules of one project."""

MAX_FIRES = 1_000
"""Fires of a schedule that are kept."""

OVERDUE_STATES = ("MISSED", "SKIPPED", "FAILED")
"""States of a fire that makes no kit."""

MAX_DUE = 100
"""Schedules, and fires, that are given out at once."""

Answer = TypeVar("Answer")
Clock = Callable[[], datetime]


class ScheduleEntry(NamedTuple):
    """A schedule and its latest fire."""

    schedule: Schedule
    last_fire: Fire | None


class Due(NamedTuple):
    """A schedule to plan."""

    schedule: Schedule
    live: bool
    buffered: datetime | None


class ScheduleStore:
    """Reads and changes schedules.

    Args:
        pool: Connections whose search path is the registry's schema.
        guard: Knows whether there is room for more rows.
    """

    def __init__(self, pool: Pool, guard: StorageGuard) -> None:
        self._connections = Connections(pool)
        self._guard = guard
        self.clock: Clock | None = None
        """Tells the time in place of the database, to simulate nights."""

    async def add(
        self, key: Key, columns: Mapping[str, Any], actor: str, request: c.Request
    ) -> Schedule:
        """Adds a schedule.

        Raises:
            ExistsError: Its name is taken, or the request's id was used for something else.
            ExhaustedError: The project has too many.
        """

        async def work(connection: Connection) -> bytes:
            parameters = {**key._asdict(), **columns, "actor": actor, "most": MAX_SCHEDULES}
            parameters["now"] = await self._now(connection)
            if not await fetch(connection, "add_schedule", parameters):
                if await _search(connection, key):
                    raise ExistsError(
                        f"name: project `{key.project}` has a schedule `{key.name}`; choose "
                        "another name, or change that one",
                        reason="SCHEDULE_EXISTS",
                    )
                raise ExhaustedError(
                    f"project `{key.project}` has {MAX_SCHEDULES:,} schedules; delete some first"
                )
            return b""

        await self._once(work, request)
        return await self.get(key)

    async def get(self, key: Key) -> Schedule:
        """A schedule.

        Raises:
            NotFoundError: It is not there.
        """
        return (await self.entry(key)).schedule

    async def entry(self, key: Key) -> ScheduleEntry:
        """A schedule with its latest fire.

        Raises:
            NotFoundError: It is not there.
        """
        entries = await self._connections.use(lambda connection: _search(connection, key))
        if not entries:
            raise absent(key)
        return entries[0]

    async def page(self, project: str | None, after: int, limit: int) -> list[ScheduleEntry]:
        """Schedules after the one of a number, oldest first."""
        parameters = {"project": project, "name": None, "after": after, "limit": limit}
        return list(
            map(_entry, await self._connections.fetch(QUERIES["find_schedules"], parameters))
        )

    async def fires(
        self, schedule_id: uuid.UUID, limit: int, time: datetime | None = None
    ) -> list[Fire]:
        """The latest fires of a schedule, newest first; or the one of a time."""
        parameters = {"schedule_id": schedule_id, "fire_time": time, "limit": limit}
        rows = await self._connections.fetch(QUERIES["schedule_fires"], parameters)
        return [Fire(*row) for row in rows]

    async def change(
        self, key: Key, columns: Mapping[str, Any], actor: str, request: c.Request
    ) -> Schedule:
        """Changes the columns that are not None.

        Raises:
            ExistsError: The request's id was used for something else.
            NotFoundError: There is no such schedule.
        """

        async def work(connection: Connection) -> bytes:
            parameters = {**key._asdict(), **columns, "actor": actor}
            parameters["now"] = await self._now(connection)
            if not await fetch(connection, "change_schedule", parameters):
                raise absent(key)
            return b""

        await self._once(work, request)
        return await self.get(key)

    async def remove(self, key: Key, request: c.Request) -> None:
        """Removes a schedule with its fires.

        Raises:
            ExistsError: The request's id was used for something else.
            NotFoundError: There is no such schedule.
        """

        async def work(connection: Connection) -> bytes:
            if not await fetch(connection, "remove_schedule", key._asdict()):
                raise absent(key)
            return b""

        await self._once(work, request)

    async def add_fire(self, key: Key, request: c.Request) -> tuple[uuid.UUID, Fire]:
        """Adds a fire of now, and gives it with the id of its schedule.

        Raises:
            ExistsError: The request's id was used for something else.
            NotFoundError: There is no such schedule, or no longer such a fire.
        """

        async def work(connection: Connection) -> bytes:
            now = await self._now(connection)
            for (time,) in await fetch(connection, "add_fire", {**key._asdict(), "now": now}):
                return str(time.isoformat()).encode()
            raise absent(key)

        time = datetime.fromisoformat((await self._once(work, request)).decode())
        schedule_id = (await self.get(key)).schedule_id
        fires = await self.fires(schedule_id, 1, time)
        if not fires:
            raise NotFoundError(f"the fire of schedule `{key.name}` is no longer there")
        return schedule_id, fires[0]

    async def due(self) -> tuple[list[Due], list[tuple[uuid.UUID, datetime]], datetime]:
        """Schedules to plan, fires whose kits are to be made, and the time."""

        async def work(
            connection: Connection,
        ) -> tuple[list[Due], list[tuple[uuid.UUID, datetime]], datetime]:
            now = await self._now(connection)
            parameters = {"now": now, "limit": MAX_DUE}
            rows = await fetch(connection, "due_schedules", parameters)
            fires = await fetch(connection, "pending_fires", parameters)
            due = [Due(Schedule(*row[:WIDTH]), *row[WIDTH:]) for row in rows]
            return due, [(schedule_id, time) for schedule_id, time in fires], now

        return await self._connections.use(work)

    async def plan(
        self,
        schedule_id: uuid.UUID,
        revision: int,
        fires: Sequence[Fire],
        handled_until: datetime,
        next_time: datetime,
    ) -> bool:
        """Records fires; whether the schedule was still as it was at a revision."""
        self._guard.check()

        async def work(connection: Connection) -> bool:
            async with connection.transaction():
                parameters: dict[str, Any] = {
                    "schedule_id": schedule_id,
                    "revision": revision,
                    "handled_until": handled_until,
                    "next_time": next_time,
                    "now": await self._now(connection),
                    "fire_times": [fire.time for fire in fires],
                    "states": [fire.state for fire in fires],
                    "reasons": [fire.reason for fire in fires],
                    "most": MAX_FIRES,
                }
                if not await fetch(connection, "plan_schedule", parameters):
                    return False
                if fires:
                    await connection.execute(QUERIES["plan_fires"], parameters)
                    await connection.execute(QUERIES["trim_fires"], parameters)
                    late = [fire for fire in fires if fire.state in OVERDUE_STATES]
                    await _announce(connection, schedule_id, late, parameters["now"])
                return True

        return await self._connections.use(work)

    async def kit(self, schedule_id: uuid.UUID) -> tuple[bytes, Key] | None:
        """The kit that a schedule makes, and its project and name; None if it is not there."""
        rows = await self._connections.fetch(QUERIES["schedule_kit"], {"schedule_id": schedule_id})
        return (bytes(rows[0][0]), Key(*rows[0][1:])) if rows else None

    async def settle(
        self, schedule_id: uuid.UUID, time: datetime, kit_id: int | None, reason: str = ""
    ) -> None:
        """A fire has its kit, or a reason why there is none."""

        async def work(connection: Connection) -> None:
            now = await self._now(connection)
            parameters = {
                "schedule_id": schedule_id,
                "fire_time": time,
                "state": "FAILED" if kit_id is None else "STARTED",
                "kit_id": kit_id,
                "reason": reason,
                "now": now,
            }
            async with connection.transaction():
                cursor = await connection.execute(QUERIES["settle_fire"], parameters)
                if kit_id is None and cursor.rowcount:
                    fire = Fire(time, "FAILED", reason, None, None, False, time)
                    await _announce(connection, schedule_id, [fire], now)

        await self._connections.use(work)

    async def answered(self, request_id: uuid.UUID) -> bytes:
        """What a request was answered; empty if it is not kept."""
        rows = await self._connections.fetch(
            QUERIES["answered_request"], {"request_id": request_id}
        )
        return bytes(rows[0][2]) if rows else b""

    async def _once(
        self, work: Callable[[Connection], Awaitable[bytes]], request: c.Request
    ) -> bytes:
        self._guard.check()
        return await once(self._connections, work, request)

    async def _now(self, connection: Connection) -> datetime:
        if self.clock is not None:
            return self.clock()
        ((now,),) = await fetch(connection, "database_clock")
        time: datetime = now
        return time


async def _announce(
    connection: Connection, schedule_id: uuid.UUID, fires: Sequence[Fire], now: datetime
) -> None:
    """Records that fires made no kit, for the webhooks that want to know."""
    if not fires:
        return
    for project, name, notify in await fetch(
        connection, "schedule_name", {"schedule_id": schedule_id}
    ):
        names = named_webhooks(notify, OVERDUE)
        await add_events(
            connection,
            [
                overdue_event(project, name, fire.time, fire.state, fire.reason, names)
                for fire in fires
            ],
            now,
        )


def absent(key: Key) -> NotFoundError:
    """The error about a schedule that is not there."""
    return NotFoundError(f"there is no schedule `{key.name}` in project `{key.project}`")


async def _search(connection: Connection, key: Key) -> list[ScheduleEntry]:
    parameters = {**key._asdict(), "after": -1, "limit": 1}
    return list(map(_entry, await fetch(connection, "find_schedules", parameters)))


def _entry(row: Row) -> ScheduleEntry:
    fire = Fire(*row[WIDTH:]) if row[WIDTH] is not None else None
    return ScheduleEntry(Schedule(*row[:WIDTH]), fire)
