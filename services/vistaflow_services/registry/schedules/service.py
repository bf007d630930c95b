"""The gRPC service of schedules: translates, and has the ledger make the kits of fires."""

from __future__ import annotations

import logging
import uuid
from typing import Final

from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.schedules.v1 import schedules_pb2 as pb
from vistaflow.api.schedules.v1 import schedules_pb2_grpc as rpc
from vistaflow_services.core import off_loop
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import (
    ExhaustedError,
    ExistsError,
    NotFoundError,
    ServiceError,
    UnavailableError,
    Violations,
    cut,
)
from vistaflow_services.core.message_limits import MESSAGE_BYTES, fitting
from vistaflow_services.core.names import MAX_PROJECT
from vistaflow_services.core.rpc import pages
from vistaflow_services.core.rpc.request_size import Check, check_size
from vistaflow_services.core.server.shell import Context
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.access.tenancy import Tenancy
from vistaflow_services.registry.domain import MAX_REASON
from vistaflow_services.registry.log.ledger import Ledger
from vistaflow_services.registry.messages import requests, translate
from vistaflow_services.registry.messages.raw import SMALL_BYTES
from vistaflow_services.registry.schedules import messages
from vistaflow_services.registry.schedules.messages import Fire, Key
from vistaflow_services.registry.schedules.store import MAX_FIRES, ScheduleEntry, ScheduleStore

logger = logging.getLogger(__name__)

MAX_PAGE = 1_000
MAX_PLANNED = 200
"""Fires that are recorded by one call."""

SERVICE = pb.DESCRIPTOR.services_by_name["ScheduleService"]

_LARGE: Final = {"AddSchedule", "ChangeSchedule"}
"""Methods whose requests hold a kit."""

_PLANNED: Final = {"BUFFERED", "PENDING", "SKIPPED", "MISSED"}
_AGAIN: Final = (UnavailableError, ExhaustedError)
"""Refusals of a kit that pass: its fire stays PENDING."""


def checks() -> dict[str, Check]:
    """The check of the requests of each method, in wire form."""
    methods = (method.name for method in SERVICE.methods if method.name not in _LARGE)
    return {path: _small(path) for path in (f"/{SERVICE.full_name}/{name}" for name in methods)}


def _small(path: str) -> Check:
    return lambda data: check_size(path, data, SMALL_BYTES)


class ScheduleServicer(rpc.ScheduleServiceServicer):
    """Serves ScheduleService.

    Args:
        store: Where schedules are kept.
        ledger: Makes kits.
        tenancy: Knows what the jobs of a kit may refer to.
    """

    def __init__(self, store: ScheduleStore, ledger: Ledger, tenancy: Tenancy) -> None:
        self._store = store
        self._ledger = ledger
        self._tenancy = tenancy

    async def AddSchedule(
        self, request: pb.AddScheduleRequest, context: Context
    ) -> pb.AddScheduleResponse:
        """Adds a schedule."""
        violations = Violations()
        key = messages.key(request, violations)
        columns = await off_loop.reading.do(messages.columns, request, key.project, violations)
        for field in ("timing", "kit"):
            if not request.HasField(field):
                violations.add(field, "is required")
        columns["overlap"] = columns["overlap"] or "SKIP"
        columns["catch_up_window"] = columns["catch_up_window"] or messages.DAY
        columns |= {"paused": request.paused, "note": request.note}
        asked = await self._asked(request, violations)
        schedule = await self._store.add(key, columns, asked.actor, asked)
        return pb.AddScheduleResponse(schedule=messages.schedule_to_proto(schedule))

    async def FindSchedules(
        self, request: pb.FindSchedulesRequest, context: Context
    ) -> pb.FindSchedulesResponse:
        """Schedules by project and name; of a single one also its fires."""
        violations = Violations()
        limit = pages.size(request, 100, MAX_PAGE, violations)
        after = pages.decode(request, violations) or 0
        if not 0 <= request.fire_count <= MAX_FIRES:
            violations.add("fire_count", f"give 0 to {MAX_FIRES:,}")
        if request.name:
            key = messages.key(request, violations)
            violations.check()
            return await self._one(key, request.fire_count)
        translate.label_from_proto(request.project, "project", MAX_PROJECT, violations)
        violations.check()
        project = request.project or callers.current().project or None
        entries = await self._store.page(project, after, limit + 1)
        listed = await off_loop.reading.do(fitting, entries[:limit], _to_proto)
        more = len(listed) < len(entries)
        last = entries[len(listed) - 1].schedule.number if more else 0
        return pb.FindSchedulesResponse(
            schedules=listed, next_page_token=pages.encode(last, request) if more else ""
        )

    async def ChangeSchedule(
        self, request: pb.ChangeScheduleRequest, context: Context
    ) -> pb.ChangeScheduleResponse:
        """Changes what is set in the request."""
        violations = Violations()
        key = messages.key(request, violations)
        columns = await off_loop.reading.do(messages.columns, request, key.project, violations)
        for field in ("paused", "note"):
            columns[field] = getattr(request, field) if request.HasField(field) else None
        asked = await self._asked(request, violations)
        schedule = await self._store.change(key, columns, asked.actor, asked)
        return pb.ChangeScheduleResponse(schedule=messages.schedule_to_proto(schedule))

    async def RemoveSchedule(
        self, request: pb.RemoveScheduleRequest, context: Context
    ) -> pb.RemoveScheduleResponse:
        """Removes a schedule with its fires."""
        violations = Violations()
        key = messages.key(request, violations)
        await self._store.remove(key, await self._asked(request, violations))
        return pb.RemoveScheduleResponse()

    async def AddFire(self, request: pb.AddFireRequest, context: Context) -> pb.AddFireResponse:
        """Adds a fire that a person asks for."""
        violations = Violations()
        key = messages.key(request, violations)
        asked = await self._asked(request, violations)
        schedule_id, fire = await self._store.add_fire(key, asked)
        return pb.AddFireResponse(schedule_id=str(schedule_id), fire=messages.fire_to_proto(fire))

    async def ListDueSchedules(
        self, request: pb.ListDueSchedulesRequest, context: Context
    ) -> pb.ListDueSchedulesResponse:
        """The schedules to plan, and the fires whose kits are to be made."""
        due, fires, now = await self._store.due()
        response = pb.ListDueSchedulesResponse()
        response.now.FromDatetime(now)
        for schedule, live, buffered in due:
            entry = response.schedules.add(schedule=messages.schedule_to_proto(schedule), live=live)
            messages.put_time(entry.buffered_time, buffered)
        for schedule_id, time in fires:
            response.fires.add(schedule_id=str(schedule_id)).fire_time.FromDatetime(time)
        return response

    async def PlanFires(
        self, request: pb.PlanFiresRequest, context: Context
    ) -> pb.PlanFiresResponse:
        """Records fires, unless the schedule is no longer as it was read."""
        violations = Violations()
        schedule_id = translate.uuid_from_proto(request.schedule_id, "schedule_id", violations)
        handled_until = translate.time_from_proto(request, "handled_until", violations)
        next_time = translate.time_from_proto(request, "next_time", violations)
        for field, time in (("handled_until", handled_until), ("next_time", next_time)):
            if time is None and not violations:
                violations.add(field, "is required")
        if request.revision < 1:
            violations.add("revision", "is required: the one that was read")
        if len(request.fires) > MAX_PLANNED:
            violations.add("fires", f"give at most {MAX_PLANNED}")
        fires = [
            _planned(fire, f"fires[{place}].", violations)
            for place, fire in enumerate(request.fires[:MAX_PLANNED])
        ]
        violations.check()
        assert handled_until is not None
        assert next_time is not None
        planned = await self._store.plan(
            schedule_id, request.revision, [*filter(None, fires)], handled_until, next_time
        )
        return pb.PlanFiresResponse(planned=planned)

    async def StartFire(
        self, request: pb.StartFireRequest, context: Context
    ) -> pb.StartFireResponse:
        """Makes the kit of a fire."""
        violations = Violations()
        schedule_id = translate.uuid_from_proto(request.schedule_id, "schedule_id", violations)
        time = translate.time_from_proto(request, "fire_time", violations)
        if not request.HasField("fire_time"):
            violations.add("fire_time", "is required")
        violations.check()
        assert time is not None
        fires = await self._store.fires(schedule_id, 1, time)
        stored = await self._store.kit(schedule_id)
        if not fires or stored is None:
            raise NotFoundError(f"schedule {schedule_id} has no fire at that time")
        if fires[0].state == "PENDING":
            await self._start(schedule_id, fires[0], *stored)
            fires = await self._store.fires(schedule_id, 1, time) or fires
        return pb.StartFireResponse(fire=messages.fire_to_proto(fires[0]))

    async def _start(self, schedule_id: uuid.UUID, fire: Fire, kit: bytes, key: Key) -> None:
        """Makes the kit of a fire, under a request id that follows from the fire."""
        request_id = uuid.uuid5(schedule_id, f"fire {fire.time.isoformat()}")
        try:
            request = await off_loop.reading.do(
                messages.kit_of_fire, kit, key, fire.time, str(request_id)
            )
            command = await off_loop.reading.do(requests.create_kit, request, _encode)
            answer = await self._ledger.submit(command)
            kit_id = (
                registry_pb2.CreateKitResponse.FromString(answer.response).kit.kit_id
                if isinstance(answer, c.Replayed)
                else answer.kit.kit_id
            )
        except ExistsError:
            # The kit was made, and the schedule got another one before that was recorded.
            answered = await self._store.answered(request_id)
            kit_id = registry_pb2.CreateKitResponse.FromString(answered).kit.kit_id
        except _AGAIN:
            raise
        except ServiceError as error:
            logger.warning("schedule %s: no kit for the fire of %s", key.name, fire.time)
            await self._store.settle(schedule_id, fire.time, None, cut(error.message, MAX_REASON))
            return
        await self._store.settle(schedule_id, fire.time, kit_id)

    async def _one(self, key: Key, fire_count: int) -> pb.FindSchedulesResponse:
        entry = await self._store.entry(key)
        schedule_id = entry.schedule.schedule_id
        fires = await self._store.fires(schedule_id, fire_count) if fire_count else []
        message = _to_proto(entry)
        stored = await self._store.kit(schedule_id)
        if stored is not None:
            kit = await off_loop.reading.do(registry_pb2.CreateKitRequest.FromString, stored[0])
            message.kit_spec.CopyFrom(kit.spec)
        room = MESSAGE_BYTES - message.ByteSize()
        return pb.FindSchedulesResponse(
            schedules=[message], fires=fitting(fires, messages.fire_to_proto, room)
        )

    async def _asked(self, request: requests.ScheduleRequest, violations: Violations) -> c.Request:
        """The request as it is kept, once nothing of it is wrong."""
        requests.actor_of(request.actor, "actor", violations)
        asked = await off_loop.reading.do(requests.kept_request, request, lambda _: b"", violations)
        violations.check()
        if isinstance(request, pb.AddScheduleRequest | pb.ChangeScheduleRequest):
            await self._tenancy.check_references(callers.current(), request.kit.jobs)
        return asked


def _to_proto(entry: ScheduleEntry) -> pb.Schedule:
    return messages.schedule_to_proto(entry.schedule, entry.last_fire)


def _encode(answer: c.KitChange) -> bytes:
    """The answer that is kept: which kit it was."""
    kit = registry_pb2.Kit(kit_id=answer.kit.kit_id)
    return registry_pb2.CreateKitResponse(kit=kit).SerializeToString()


def _planned(message: pb.PlannedFire, prefix: str, violations: Violations) -> Fire | None:
    time = translate.time_from_proto(message, "fire_time", violations, prefix)
    states = {number: word.removeprefix("FIRE_STATE_") for word, number in pb.FireState.items()}
    state = states.get(message.state, "")
    if state not in _PLANNED:
        violations.add(f"{prefix}state", "give BUFFERED, PENDING, SKIPPED or MISSED")
    if not message.HasField("fire_time"):
        violations.add(f"{prefix}fire_time", "is required")
    translate.text_from_proto(message.reason, f"{prefix}reason", MAX_REASON, violations)
    if time is None:
        return None
    return Fire(time, state, message.reason, None, None, False, time)
