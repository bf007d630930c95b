"""Calls of the asynchronous client for schedules: kits that are run again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from vistaflow._rpc.messages import is_number, message_of
from vistaflow.aio._calls import Calls
from vistaflow.aio._data.import_specs import built_message
from vistaflow.aio._kits.sources import KitSource, fill_kit
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow.errors import invalid

Notified = Sequence[str] | Mapping[str, Sequence[str]]
"""Webhooks by name, with the events that each gets; all of them without."""


class ScheduleCalls(Calls):
    """The methods of a client that are for schedules."""

    async def create_schedule(
        self,
        name: str,
        kit: KitSource | None = None,
        *,
        system_job: Mapping[str, Any] | None = None,
        cron: str = "",
        time_zone: str = "",
        interval: timedelta | float = 0,
        overlap: str = "",
        catch_up: timedelta | float = 0,
        paused: bool = False,
        note: str = "",
        notify: Notified = (),
        project: str = "",
        actor: str = "",
        request_id: str = "",
    ) -> schedules_pb2.Schedule:
        """Creates a schedule: each fire makes one kit.

        Args:
            name: Unique in the project: 1 to 63 of a-z, 0-9, `_`, `.` and `-`.
            kit: As `run` takes it. Its deck is pinned.
            system_job: In place of a kit, for administrators: `{"backup": {"targets": ["disk"],
                "keep": 3}}`, `{"cleanup": {"days": 7}}` or `{"repair": {"verify": True}}`.
            cron: When it fires: minute, hour, day of the month, month, day of the week, where 0 is
                Sunday; or `@daily` and the like.
            time_zone: The zone of `cron`, such as `Asia/Seoul`; UTC if empty.
            interval: In place of `cron`: fires at the multiples of this since 1970; a number is
                one of seconds.
            overlap: What happens while an earlier kit is at work: `skip`, `buffer_one` or `allow`;
                `skip` if empty.
            catch_up: How late a fire may be made after an outage; 1 day if 0.
            paused: Whether it begins paused.
            note: A note for people.
            notify: Webhooks that get the ends of its kits, and fires without a kit: names, or by
                name the events out of FINISHED, FAILED, CANCELED, OVERDUE.
            project: The project of the schedule and its kits; the kit's if empty.
            actor: The caller's name, for the record.
            request_id: Makes the call safe to repeat: a UUID.

        Raises:
            InvalidArgumentError: With every mistake in `violations`.
        """
        request = message_of(
            pipeline_pb2.CreateScheduleRequest,
            request_id=request_id,
            project=project,
            name=name,
            paused=paused,
            note=note,
            notify=_notify(notify),
            actor=actor,
            **_options(cron, time_zone, interval, overlap, catch_up),
        )
        _fill(request, kit, system_job)
        return await self._scheduled("CreateSchedule", request)

    async def update_schedule(
        self,
        name: str,
        *,
        kit: KitSource | None = None,
        system_job: Mapping[str, Any] | None = None,
        cron: str = "",
        time_zone: str = "",
        interval: timedelta | float = 0,
        overlap: str = "",
        catch_up: timedelta | float = 0,
        note: str | None = None,
        notify: Notified | None = None,
        project: str = "",
        actor: str = "",
    ) -> schedules_pb2.Schedule:
        """Changes what is given of a schedule.

        Args:
            name: The schedule.
            kit: The kit that each fire makes from now on.
            system_job: In place of a kit, as `create_schedule` takes it.
            cron: When it fires from now on; with its `time_zone`.
            time_zone: The zone of `cron`; UTC if empty.
            interval: In place of `cron`.
            overlap: What happens while an earlier kit is at work.
            catch_up: How late a fire may be made after an outage.
            note: A note for people.
            notify: Replaces the webhooks that get its events.
            project: The schedule's project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.

        Raises:
            InvalidArgumentError: With every mistake in `violations`.
        """
        request = message_of(
            pipeline_pb2.UpdateScheduleRequest,
            project=project,
            name=name,
            note=note,
            notify=_notify(notify or ()),
            change_notify=notify is not None,
            actor=actor,
            **_options(cron, time_zone, interval, overlap, catch_up),
        )
        if kit is not None or system_job is not None:
            _fill(request, kit, system_job)
        return await self._scheduled("UpdateSchedule", request)

    async def schedules(self, *, project: str = "") -> list[schedules_pb2.Schedule]:
        """The schedules, oldest first, each with its latest fire.

        Args:
            project: Only those of this project.
        """
        request = message_of(pipeline_pb2.ListSchedulesRequest, project=project, page_size=1000)
        pages = self._pages("pipeline", "ListSchedules", request, "schedules")
        return [schedule async for schedule in pages]

    async def schedule(
        self, name: str, *, project: str = "", fires: int = 10, next_times: int = 5
    ) -> pipeline_pb2.GetScheduleResponse:
        """A schedule, its latest fires, newest first, and its next times.

        Args:
            name: The schedule.
            project: Its project; the caller's, else `default`, if empty.
            fires: How many fires to return, at most 1,000.
            next_times: How many next times to return, at most 100.
        """
        for field, count in (("fires", fires), ("next_times", next_times)):
            if not isinstance(count, int):
                raise invalid(field, f"{count!r} is not a number")
        request = message_of(
            pipeline_pb2.GetScheduleRequest,
            project=project,
            name=name,
            fire_count=fires,
            next_count=next_times,
        )
        response: pipeline_pb2.GetScheduleResponse = await self._call(
            "pipeline", "GetSchedule", request
        )
        return response

    async def pause_schedule(
        self, name: str, *, note: str = "", project: str = "", actor: str = ""
    ) -> schedules_pb2.Schedule:
        """Pauses a schedule: it does not fire.

        Args:
            name: The schedule.
            note: Why.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
        """
        request = message_of(
            pipeline_pb2.PauseScheduleRequest, project=project, name=name, note=note, actor=actor
        )
        return await self._scheduled("PauseSchedule", request)

    async def resume_schedule(
        self, name: str, *, note: str = "", project: str = "", actor: str = ""
    ) -> schedules_pb2.Schedule:
        """Resumes a schedule; what it did not fire while it was paused is not caught up.

        Args:
            name: The schedule.
            note: Why.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
        """
        request = message_of(
            pipeline_pb2.ResumeScheduleRequest, project=project, name=name, note=note, actor=actor
        )
        return await self._scheduled("ResumeSchedule", request)

    async def run_schedule(
        self, name: str, *, project: str = "", actor: str = "", request_id: str = ""
    ) -> schedules_pb2.Fire:
        """Makes a kit of a schedule now.

        Args:
            name: The schedule.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
            request_id: Makes the call safe to repeat: a UUID.

        Returns:
            The fire, with the number of the kit in `kit_id`.
        """
        request = message_of(
            pipeline_pb2.RunScheduleRequest,
            request_id=request_id,
            project=project,
            name=name,
            actor=actor,
        )
        response: pipeline_pb2.RunScheduleResponse = await self._call(
            "pipeline", "RunSchedule", request
        )
        return response.fire

    async def delete_schedule(self, name: str, *, project: str = "", actor: str = "") -> None:
        """Deletes a schedule with its fires; its kits stay.

        Args:
            name: The schedule.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
        """
        request = message_of(
            pipeline_pb2.DeleteScheduleRequest, project=project, name=name, actor=actor
        )
        await self._call("pipeline", "DeleteSchedule", request)

    async def _scheduled(self, method: str, request: Any) -> schedules_pb2.Schedule:
        response = await self._call("pipeline", method, request, timeout=3 * self._timeout)
        schedule: schedules_pb2.Schedule = response.schedule
        return schedule


def _notify(notify: Notified) -> list[outbox_pb2.Notify]:
    if isinstance(notify, str) or not isinstance(notify, Sequence | Mapping):
        raise invalid("notify", "give a list of names, or events by name")
    entries = notify.items() if isinstance(notify, Mapping) else ((name, ()) for name in notify)
    return [
        message_of(outbox_pb2.Notify, webhook=name, events=[event.upper() for event in events])
        for name, events in entries
    ]


def _fill(
    request: pipeline_pb2.CreateScheduleRequest | pipeline_pb2.UpdateScheduleRequest,
    kit: KitSource | None,
    system_job: Mapping[str, Any] | None,
) -> None:
    """Puts a kit or a job of the system into a request."""
    if (kit is None) == (system_job is None):
        raise invalid("kit", "give a kit or `system_job`, and not both")
    if kit is not None:
        fill_kit(request, kit)
        return
    if not isinstance(system_job, Mapping) or len(system_job) != 1:
        raise invalid("system_job", "is no mapping with one of backup, cleanup, repair")
    ((word, fields),) = system_job.items()
    kinds: dict[str, Any] = {
        "backup": ingestion_pb2.BackUpSpec,
        "cleanup": ingestion_pb2.CleanUpSpec,
        "repair": ingestion_pb2.RepairSpec,
    }
    if word not in kinds or not isinstance(fields or {}, Mapping):
        raise invalid("system_job", "is no mapping with one of backup, cleanup, repair")
    spec = built_message(kinds[word], f"system_job.{word}.", **(fields or {}))
    getattr(request.system_job, word).CopyFrom(spec)


def _options(
    cron: str,
    time_zone: str,
    interval: timedelta | float,
    overlap: str,
    catch_up: timedelta | float,
) -> dict[str, Any]:
    """Fields of a request that creates or changes a schedule."""
    timing = message_of(schedules_pb2.Timing, cron=cron, time_zone=time_zone)
    every = _duration("interval", interval)
    if every is not None:
        if cron:
            raise invalid("interval", "give `cron` or `interval`, not both")
        timing.interval.CopyFrom(every)
    elif not cron:
        timing.ClearField("kind")
        if time_zone:
            raise invalid("time_zone", "is that of `cron`; give `cron`, too")
    words = [word.removeprefix("OVERLAP_").lower() for word in schedules_pb2.Overlap.keys()[1:]]
    if not isinstance(overlap, str) or (overlap and overlap.lower() not in words):
        raise invalid("overlap", f"{overlap!r} is none of {', '.join(words)}")
    return {
        "timing": timing if timing.WhichOneof("kind") else None,
        "overlap": f"OVERLAP_{overlap.upper()}" if overlap else None,
        "catch_up_window": _duration("catch_up", catch_up),
    }


def _duration(name: str, span: timedelta | float) -> Duration | None:
    """A duration of a request; None for 0."""
    if is_number(span):
        try:
            span = timedelta(seconds=span)  # type: ignore[arg-type]
        except (OverflowError, ValueError):
            raise invalid(name, f"{span!r} is too long") from None
    if not isinstance(span, timedelta):
        raise invalid(name, f"{span!r} is neither a timedelta nor a number of seconds")
    if not span:
        return None
    duration = Duration()
    duration.FromTimedelta(span)
    return duration
