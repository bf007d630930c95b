"""The methods of the gRPC service that are for schedules."""

from __future__ import annotations

from typing import Protocol

from google.protobuf import any_pb2

from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow.api.pipeline.v1 import pipeline_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.core.names import (
    MAX_DAYS,
    MAX_KEEP,
    MAX_SCHEDULE_NAME,
    SYSTEM_PROJECT,
    name_problems,
    text_problems,
)
from vistaflow_services.core.registry_client import RegistryClient, job_type_number
from vistaflow_services.core.rpc.interceptor import Context
from vistaflow_services.pipeline.notify import OCCASIONS, notify_mistakes
from vistaflow_services.pipeline.schedules.loop import start
from vistaflow_services.pipeline.schedules.messages import (
    moment_of,
    next_times,
    timing_of,
    with_next,
)

MAX_NEXT = 100
MAX_TARGET = 500
"""Next times that are given at once."""

Sourced = pb.CreateScheduleRequest | pb.UpdateScheduleRequest
Switched = pb.PauseScheduleRequest | pb.ResumeScheduleRequest


class KitSource(Protocol):
    """Reads the kit of a request."""

    async def __call__(
        self, request: pb.RunKitRequest, violations: Violations
    ) -> registry_pb2.CreateKitRequest | None:
        """The request that makes the kit; None, with every mistake added, if there are any."""


class ScheduleCalls(rpc.PipelineServiceServicer):
    """Serves schedules: checks here, stores in the registry, in the name of the caller.

    Args:
        registry: Stores schedules.
        kit_source: Reads their kits.
    """

    def __init__(self, registry: RegistryClient, kit_source: KitSource) -> None:
        self._registry = registry
        self._kit_source = kit_source

    async def CreateSchedule(
        self, request: pb.CreateScheduleRequest, context: Context
    ) -> pb.CreateScheduleResponse:
        """Creates a schedule. See the proto for the contract."""
        violations = Violations()
        for problem in name_problems(request.name, MAX_SCHEDULE_NAME):
            violations.add("name", problem)
        if not request.HasField("timing"):
            violations.add("timing", "say when: a cron expression such as `0 0 * * 0`")
        stored = schedules_pb2.AddScheduleRequest(
            request_id=request.request_id,
            project=request.project,
            name=request.name,
            paused=request.paused,
            note=request.note,
            actor=request.actor,
        )
        await self._fill(stored, request, violations)
        answer = await self._registry.call(self._registry.schedules.AddSchedule, stored)
        return pb.CreateScheduleResponse(schedule=with_next(answer.schedule))

    async def GetSchedule(
        self, request: pb.GetScheduleRequest, context: Context
    ) -> pb.GetScheduleResponse:
        """One schedule. See the proto for the contract."""
        violations = Violations()
        if not 0 <= request.next_count <= MAX_NEXT:
            violations.add("next_count", f"give 0 to {MAX_NEXT}")
        if not request.name:
            violations.add("name", "is required")
        violations.check()
        answer = await self._registry.call(
            self._registry.schedules.FindSchedules,
            schedules_pb2.FindSchedulesRequest(
                project=request.project, name=request.name, fire_count=request.fire_count
            ),
        )
        schedule = with_next(answer.schedules[0])
        return pb.GetScheduleResponse(
            schedule=schedule,
            fires=answer.fires,
            next_times=next_times(schedule, request.next_count),
        )

    async def ListSchedules(
        self, request: pb.ListSchedulesRequest, context: Context
    ) -> pb.ListSchedulesResponse:
        """Lists schedules. See the proto for the contract."""
        answer = await self._registry.call(
            self._registry.schedules.FindSchedules,
            schedules_pb2.FindSchedulesRequest(
                project=request.project,
                page_size=request.page_size,
                page_token=request.page_token,
            ),
        )
        return pb.ListSchedulesResponse(
            schedules=map(with_next, answer.schedules), next_page_token=answer.next_page_token
        )

    async def UpdateSchedule(
        self, request: pb.UpdateScheduleRequest, context: Context
    ) -> pb.UpdateScheduleResponse:
        """Changes a schedule. See the proto for the contract."""
        stored = schedules_pb2.ChangeScheduleRequest(
            request_id=request.request_id,
            project=request.project,
            name=request.name,
            note=request.note if request.HasField("note") else None,
            actor=request.actor,
        )
        await self._fill(stored, request, Violations())
        return pb.UpdateScheduleResponse(schedule=await self._change(stored))

    async def PauseSchedule(
        self, request: pb.PauseScheduleRequest, context: Context
    ) -> pb.PauseScheduleResponse:
        """Pauses a schedule. See the proto for the contract."""
        return pb.PauseScheduleResponse(schedule=await self._switch(request, paused=True))

    async def ResumeSchedule(
        self, request: pb.ResumeScheduleRequest, context: Context
    ) -> pb.ResumeScheduleResponse:
        """Resumes a schedule. See the proto for the contract."""
        return pb.ResumeScheduleResponse(schedule=await self._switch(request, paused=False))

    async def RunSchedule(
        self, request: pb.RunScheduleRequest, context: Context
    ) -> pb.RunScheduleResponse:
        """Makes a kit of a schedule now. See the proto for the contract."""
        added = await self._registry.call(
            self._registry.schedules.AddFire,
            schedules_pb2.AddFireRequest(
                request_id=request.request_id,
                project=request.project,
                name=request.name,
                actor=request.actor,
            ),
        )
        return pb.RunScheduleResponse(
            fire=await start(self._registry, added.schedule_id, added.fire)
        )

    async def DeleteSchedule(
        self, request: pb.DeleteScheduleRequest, context: Context
    ) -> pb.DeleteScheduleResponse:
        """Deletes a schedule. See the proto for the contract."""
        await self._registry.call(
            self._registry.schedules.RemoveSchedule,
            schedules_pb2.RemoveScheduleRequest(
                request_id=request.request_id,
                project=request.project,
                name=request.name,
                actor=request.actor,
            ),
        )
        return pb.DeleteScheduleResponse()

    async def _switch(self, request: Switched, *, paused: bool) -> schedules_pb2.Schedule:
        return await self._change(
            schedules_pb2.ChangeScheduleRequest(
                request_id=request.request_id,
                project=request.project,
                name=request.name,
                paused=paused,
                note=request.note or None,
                actor=request.actor,
            )
        )

    async def _change(self, request: schedules_pb2.ChangeScheduleRequest) -> schedules_pb2.Schedule:
        answer = await self._registry.call(self._registry.schedules.ChangeSchedule, request)
        return with_next(answer.schedule)

    async def _fill(
        self,
        stored: schedules_pb2.AddScheduleRequest | schedules_pb2.ChangeScheduleRequest,
        request: Sourced,
        violations: Violations,
    ) -> None:
        """Puts the timing, the policies and the kit into a request to the registry.

        Raises:
            InvalidError: With every mistake.
        """
        stored.overlap = request.overlap
        stored.notify.extend(request.notify)
        if isinstance(request, pb.UpdateScheduleRequest):
            assert isinstance(stored, schedules_pb2.ChangeScheduleRequest)
            stored.change_notify = request.change_notify
        if request.HasField("catch_up_window"):
            stored.catch_up_window.CopyFrom(request.catch_up_window)
        if request.HasField("timing"):
            stored.timing.CopyFrom(request.timing)
            info = await self._registry.server_info()
            timing_of(request.timing, moment_of(info.now), violations)
        if request.WhichOneof("source") == "system_job":
            _fill_system_job(stored, request, violations)
        elif isinstance(request, pb.CreateScheduleRequest) or request.WhichOneof("source"):
            kit = pb.RunKitRequest(
                kit_yaml=request.kit_yaml,
                deck_archive=request.deck_archive,
                kit_file=request.kit_file,
                files=request.files,
            )
            if request.HasField("spec"):
                kit.spec.CopyFrom(request.spec)
            elif request.WhichOneof("source") is None:
                kit.ClearField("source")
            try:
                creation = await self._kit_source(kit, violations)
            except InvalidError as error:
                violations.extend("", error)
                creation = None
            if creation is not None:
                stored.kit.CopyFrom(creation)
                stored.kit.ClearField("project")
                if isinstance(request, pb.CreateScheduleRequest):
                    stored.project = stored.project or creation.project
        for mistake in await notify_mistakes(
            self._registry, stored.project, request.notify, occasions=OCCASIONS
        ):
            violations.add(mistake.field, mistake.description)
        violations.check()


def _fill_system_job(
    stored: schedules_pb2.AddScheduleRequest | schedules_pb2.ChangeScheduleRequest,
    request: Sourced,
    violations: Violations,
) -> None:
    """Puts a job of the system into a request to the registry, which is asked who may do that."""
    if stored.project not in ("", SYSTEM_PROJECT):
        violations.add("project", f"jobs of the system are in `{SYSTEM_PROJECT}`; leave it out")
    stored.project = SYSTEM_PROJECT
    kind = request.system_job.WhichOneof("job")
    if kind is None:
        violations.add("system_job.job", "give `backup`, `cleanup` or `repair`")
        return
    spec = getattr(request.system_job, kind)
    if kind == "backup" and not spec.targets:
        violations.add("system_job.backup.targets", "is empty; name a target of backups")
    if kind == "backup":
        for place, target in enumerate(spec.targets):
            for problem in text_problems(target, MAX_TARGET):
                violations.add(f"system_job.backup.targets[{place}]", problem)
    for field, most in (("keep", MAX_KEEP), ("days", MAX_DAYS)):
        if not 0 <= getattr(spec, field, 0) <= most:
            violations.add(f"system_job.{kind}.{field}", f"give 1 to {most:,}")
    packed = any_pb2.Any()
    packed.Pack(spec)
    job = registry_pb2.NewJob(name=kind, job_type=job_type_number(kind.upper()), spec=packed)
    stored.kit.CopyFrom(registry_pb2.CreateKitRequest(name=request.name, jobs=[job]))
