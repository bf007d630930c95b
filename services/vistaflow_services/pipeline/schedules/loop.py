"""Plans what is due, and has the kits of fires made.

Any number of pipeline services do this at once. A plan is recorded only if the schedule is still as
it was read, so each fire is decided once. The row of a fire is there before its kit, whose request
id follows from it. A service that finds a row without a kit makes the kit; two that do make one.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from vistaflow.api.schedules.v1 import schedules_pb2 as pb
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import InvalidError, ServiceError
from vistaflow_services.core.failpoints import reached
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.pipeline.schedules.messages import moment_of, request_of, standing_of
from vistaflow_services.pipeline.schedules.plan import Plan, plan
from vistaflow_services.pipeline.schedules.timing import LAST, NeverError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often due schedules are looked for."""


class Scheduler:
    """Fires the schedules of a registry.

    Args:
        registry: Stores the schedules, tells the time and makes the kits.
    """

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    async def run(self) -> None:
        """Looks again and again, without end."""
        was_away = False
        while True:
            try:
                await self.look()
                was_away = False
            except ServiceError as error:
                # The registry starts again, or an older one serves while it is replaced.
                if not was_away:
                    logger.warning("schedules do not fire now: %s", error)
                was_away = True
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> int:
        """Plans and starts what is due now; returns how many schedules and fires that was.

        Raises:
            ServiceError: The registry does not answer.
        """
        registry = self._registry
        stub = registry.schedules
        due = await registry.call(stub.ListDueSchedules, pb.ListDueSchedulesRequest())
        now = moment_of(due.now)
        for entry in due.schedules:
            request = await asyncio.to_thread(_planned, entry, now)
            reached("schedule.before_plan")
            # Another service may have planned it since: then nothing is recorded.
            await registry.call(stub.PlanFires, request)
        fires = due.fires
        if due.schedules:
            fires = (await registry.call(stub.ListDueSchedules, pb.ListDueSchedulesRequest())).fires
        for fire in fires:
            reached("schedule.before_start")
            try:
                await start(registry, fire.schedule_id, fire)
            except ServiceError as error:
                # Its schedule was deleted, or there is no room: it must not hold up the others.
                if error.reason == "REGISTRY_UNAVAILABLE":
                    raise
                logger.warning("a fire of schedule %s waits: %s", fire.schedule_id, error)
            reached("schedule.after_start")
        return len(due.schedules) + len(fires)


def _planned(due: pb.DueSchedule, now: datetime) -> pb.PlanFiresRequest:
    """What to record about a schedule."""
    try:
        decided = plan(standing_of(due), now)
    except (InvalidError, NeverError) as error:
        # It was right once; zones and rules change. It can be updated or deleted.
        logger.warning("schedule %s cannot fire: %s", due.schedule.name, error)
        handled = max(now, moment_of(due.schedule.handled_until))
        decided = Plan(fires=(), handled_until=handled, next_time=LAST)
    return request_of(decided, due.schedule)


async def start(
    registry: RegistryClient, schedule_id: str, fire: pb.PendingFire | pb.Fire
) -> pb.Fire:
    """Has the kit of a fire made; the fire as it is then.

    Raises:
        ServiceError: The registry does not answer, or has no room for a kit.
    """
    request = pb.StartFireRequest(schedule_id=schedule_id, fire_time=fire.fire_time)
    # Not in the name of a caller: fires are the services' own work.
    with callers.serving(callers.EVERYBODY):
        return (await registry.call(registry.schedules.StartFire, request)).fire
