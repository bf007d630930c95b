"""Schedules on a real registry, whose clock the tests move: nights pass without waiting."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf import json_format

from tests.integration.stages import refused, stage_serving
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.pipeline.v1.pipeline_pb2_grpc import PipelineServiceStub
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.schedules.v1 import schedules_pb2 as pb
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.doe.__main__ import SERVICE as DOE
from vistaflow_services.doe.config import Config as DoeConfig
from vistaflow_services.pipeline.__main__ import SERVICE
from vistaflow_services.pipeline.config import Config
from vistaflow_services.pipeline.schedules import loop
from vistaflow_services.pipeline.schedules.loop import Scheduler
from vistaflow_services.registry.__main__ import PACKAGE, Registry
from vistaflow_services.registry.config import Config as RegistryConfig
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
from vistaflow_services.registry.database.migrations import migrate

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
KIT = """\
name: nightly beam
deck: welded_beam
design: {generator: sobol, size: 32}
goals: minimize cost
"""


@dataclass
class Nights:
    """A registry whose schedules go by a clock of the test."""

    registry: Registry
    client: RegistryClient
    now: datetime = START

    def __post_init__(self) -> None:
        self.registry.schedules.clock = lambda: self.now

    async def add(self, name: str, cron: str, **fields: Any) -> pb.Schedule:
        """A schedule whose kits nobody works on, planned for the first time."""
        jobs = [registry_pb2.NewJob(name="query", job_type=common_pb2.JOB_TYPE_QUERY)]
        request = pb.AddScheduleRequest(
            name=name,
            timing=pb.Timing(cron=cron, time_zone="Asia/Seoul"),
            kit=registry_pb2.CreateKitRequest(name="beam", jobs=jobs),
            **fields,
        )
        answer = await self.client.call(self.client.schedules.AddSchedule, request)
        await self.look()
        return answer.schedule

    async def look(self, after: timedelta = timedelta()) -> None:
        """What a pipeline service does at its next look, after some time."""
        self.now += after
        await Scheduler(self.client).look()

    async def fires(self, name: str) -> list[tuple[str, str, int]]:
        """Day and hour in UTC, state and kit of each fire, oldest first."""
        request = pb.FindSchedulesRequest(name=name, fire_count=1000)
        answer = await self.client.call(self.client.schedules.FindSchedules, request)
        return [
            (
                f"{fire.fire_time.ToDatetime():%d %H}",
                pb.FireState.Name(fire.state).removeprefix("FIRE_STATE_"),
                fire.kit_id,
            )
            for fire in reversed(answer.fires)
        ]

    async def cancel(self, kit_id: int) -> None:
        """Ends what a kit does."""
        request = registry_pb2.CancelKitRequest(kit_id=kit_id)
        await self.client.call(self.client.stub.CancelKit, request)

    async def kits(self) -> dict[int, registry_pb2.Kit]:
        """Every kit."""
        answer = await self.client.call(self.client.stub.ListKits, registry_pb2.ListKitsRequest())
        return {kit.kit_id: kit for kit in answer.kits if kit.project != "system"}


@pytest.fixture
async def nights(running: Registry) -> AsyncIterator[Nights]:
    client = RegistryClient(running.address)
    yield Nights(running, client)
    await client.close()


@pytest.mark.parametrize(
    ("overlap", "late", "after"),
    [
        ("SKIP", ["SKIPPED", "SKIPPED"], ["SKIPPED", "SKIPPED", "STARTED"]),
        ("BUFFER_ONE", ["BUFFERED", "SKIPPED"], ["STARTED", "SKIPPED", "BUFFERED"]),
        ("ALLOW", ["STARTED", "STARTED"], ["STARTED", "STARTED", "STARTED"]),
    ],
)
async def test_a_kit_at_work_meets_the_next_fires_by_the_overlap_policy(
    nights: Nights, overlap: str, late: list[str], after: list[str]
) -> None:
    await nights.add("hourly", "0 * * * *", overlap=f"OVERLAP_{overlap}")
    for _ in range(3):
        await nights.look(HOUR)
    fires = await nights.fires("hourly")
    assert [state for _, state, _ in fires] == ["STARTED", *late]

    await nights.cancel(fires[0][2])
    await nights.look()
    await nights.look(HOUR)

    fires = await nights.fires("hourly")
    assert [state for _, state, _ in fires[1:]] == after
    assert [kit_id > 0 for *_, kit_id in fires] == [state == "STARTED" for _, state, _ in fires]
    assert len(await nights.kits()) == [state for _, state, _ in fires].count("STARTED")


async def test_an_outage_is_caught_up_within_the_window_and_clocks_may_jump(
    nights: Nights,
) -> None:
    window = {"seconds": 3 * 86_400}
    await nights.add("sundays", "0 0 * * 0", catch_up_window=window)
    await nights.add("nightly", "0 0 * * *", catch_up_window=window, overlap="OVERLAP_ALLOW")
    await nights.look(7 * DAY)  # Saturday 28th, 21:00 in Seoul
    # Midnight in Seoul is 15:00 the day before in UTC.
    assert await nights.fires("sundays") == [("21 15", "MISSED", 0)]
    fires = await nights.fires("nightly")
    assert [fire[:2] for fire in fires] == [
        ("21 15", "MISSED"), ("25 15", "STARTED"), ("26 15", "STARTED"), ("27 15", "STARTED"),
    ]  # fmt: skip

    await nights.look(-5 * DAY)
    await nights.look(5 * DAY)
    assert await nights.fires("nightly") == fires
    await nights.look(DAY)
    assert [fire[:2] for fire in await nights.fires("sundays")] == [
        ("21 15", "MISSED"), ("28 15", "STARTED"),
    ]  # fmt: skip
    kit = (await nights.kits())[fires[-1][2]]
    assert (kit.name, kit.actor) == ("beam 2026-11-27T15:00:00Z", "schedule nightly")
    assert kit.labels == {"schedule": "nightly", "fire_time": "2026-11-27T15:00:00Z"}


async def test_many_services_at_once_make_one_kit_for_each_fire(nights: Nights) -> None:
    for number in range(5):
        await nights.add(f"nightly-{number}", "0 0 * * *", overlap="OVERLAP_ALLOW")
    clients = [RegistryClient(nights.registry.address) for _ in range(6)]
    for _ in range(3):
        nights.now += DAY
        await asyncio.gather(*(Scheduler(client).look() for client in clients))
    for client in clients:
        await client.close()

    fires = [fire for number in range(5) for fire in await nights.fires(f"nightly-{number}")]
    kit_ids = [kit_id for *_, kit_id in fires]
    assert {state for _, state, _ in fires} == {"STARTED"}
    assert len(set(kit_ids)) == len(kit_ids) == 15
    assert set(await nights.kits()) == set(kit_ids)


async def test_a_fire_whose_kit_was_made_but_not_noted_gets_that_kit(
    nights: Nights, database: str
) -> None:
    await nights.add("nightly", "0 0 * * *")
    await nights.look(DAY)
    with psycopg.connect(database) as connection:
        connection.execute(
            "UPDATE vistadb_test.schedule_fires SET state = 'PENDING', kit_id = NULL"
        )
    # The schedule got another kit meanwhile, so that the request is not the same any more.
    other = registry_pb2.CreateKitRequest(name="other")
    change = pb.ChangeScheduleRequest(name="nightly", kit=other)
    await nights.client.call(nights.client.schedules.ChangeSchedule, change)
    await nights.look()

    assert await nights.fires("nightly") == [("21 15", "STARTED", 1)]
    assert set(await nights.kits()) == {1}


async def test_a_plan_for_a_schedule_that_was_changed_is_not_recorded(nights: Nights) -> None:
    schedule = await nights.add("nightly", "0 0 * * *")
    stub, call = nights.client.schedules, nights.client.call
    plan = pb.PlanFiresRequest(schedule_id=schedule.schedule_id, revision=schedule.revision)
    plan.handled_until.FromDatetime(START + DAY)
    plan.next_time.FromDatetime(START + 2 * DAY)
    plan.fires.add(state=pb.FIRE_STATE_PENDING).fire_time.FromDatetime(START + HOUR)
    assert not (await call(stub.PlanFires, plan)).planned
    assert await nights.fires("nightly") == []


# By the public service.


@pytest.fixture
async def pipeline(
    nights: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """The stub of a pipeline service, with a DOE service that knows the simulators."""
    monkeypatch.setattr(loop, "LOOK_SECONDS", 0.05)
    address = nights.registry.address
    doe = DoeConfig(listen="127.0.0.1:0", warm=False)
    async with (
        stage_serving(DOE, doe, home=tmp_path, registry=address),
        stage_serving(SERVICE, Config(listen="127.0.0.1:0"), home=tmp_path, registry=address) as c,
    ):
        await until(lambda: knows(nights.client, "doe"))
        yield PipelineServiceStub(c)


async def knows(client: RegistryClient, service: str) -> bool:
    return service in [entry.name for entry in (await client.server_info()).services]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 120) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def creation(**fields: Any) -> pipeline_pb2.CreateScheduleRequest:
    timing = pb.Timing(cron="0 0 * * 0", time_zone="Asia/Seoul")
    given = {"name": "weekly", "timing": timing, "kit_yaml": KIT, "actor": "ann"}
    return pipeline_pb2.CreateScheduleRequest(**(given | fields))


async def test_a_schedule_lives_from_its_creation_to_its_end(nights: Nights, pipeline: Any) -> None:
    request = creation(request_id=str(uuid.uuid4()), note="every Sunday")
    created = (await pipeline.CreateSchedule(request)).schedule
    assert created.next_time.ToDatetime(UTC) == START + 3 * HOUR
    assert (created.kit_name, created.project, created.actor) == ("nightly beam", "default", "ann")
    again = (await pipeline.CreateSchedule(request)).schedule
    assert again.schedule_id == created.schedule_id
    code, _ = await refused(pipeline.CreateSchedule(creation()))
    assert code is grpc.StatusCode.ALREADY_EXISTS

    named = {"name": "weekly", "actor": "ann"}
    nights.now += 3 * HOUR
    seen = pipeline_pb2.GetScheduleRequest(name="weekly", fire_count=10, next_count=2)

    async def fired() -> bool:
        fires = (await pipeline.GetSchedule(seen)).fires
        return bool(fires) and fires[0].state == pb.FIRE_STATE_STARTED

    await until(fired)
    answer = await pipeline.GetSchedule(seen)
    assert [time.ToDatetime(UTC) for time in answer.next_times] == [
        START + 3 * HOUR + 7 * DAY, START + 3 * HOUR + 14 * DAY,
    ]  # fmt: skip
    kit = await nights.client.get_kit(answer.fires[0].kit_id)
    assert [job.name for job in kit.jobs][:2] == ["collect", "design"]
    assert answer.schedule.kit_spec == kit.spec

    paused = (
        await pipeline.PauseSchedule(pipeline_pb2.PauseScheduleRequest(note="moving", **named))
    ).schedule
    assert (paused.paused, paused.note, paused.HasField("next_time")) == (True, "moving", False)
    run = pipeline_pb2.RunScheduleRequest(request_id=str(uuid.uuid4()), **named)
    fires = [(await pipeline.RunSchedule(run)).fire for _ in range(2)]
    assert fires[0].manual
    assert fires[0].kit_id == fires[1].kit_id == kit.kit_id + 1
    nights.now += 8 * DAY
    resumed = await pipeline.ResumeSchedule(pipeline_pb2.ResumeScheduleRequest(**named))
    # What the pause left out is not caught up.
    assert resumed.schedule.next_time.ToDatetime(UTC) == START + 3 * HOUR + 14 * DAY

    timing = pb.Timing(interval={"seconds": 3600})
    update = pipeline_pb2.UpdateScheduleRequest(timing=timing, note="", **named)
    updated = (await pipeline.UpdateSchedule(update)).schedule
    assert (updated.note, updated.kit_name) == ("", "nightly beam")
    assert updated.next_time.ToDatetime(UTC) == nights.now + HOUR
    listed = (await pipeline.ListSchedules(pipeline_pb2.ListSchedulesRequest())).schedules
    assert [schedule.name for schedule in listed] == ["weekly-cleanup", named["name"]]
    assert listed[1].last_fire.kit_id == kit.kit_id + 1
    await pipeline.DeleteSchedule(pipeline_pb2.DeleteScheduleRequest(**named))
    assert (await refused(pipeline.GetSchedule(seen)))[0] is grpc.StatusCode.NOT_FOUND
    assert len(await nights.kits()) == 2


async def test_every_mistake_of_a_schedule_is_refused_at_its_creation(pipeline: Any) -> None:
    wrong = creation(
        name="Not a name",
        timing=pb.Timing(cron="0 0 30 2 *", time_zone="Mars/Base"),
        kit_yaml=KIT.replace("size: 32", "size: 1"),
    )
    code, mistakes = await refused(pipeline.CreateSchedule(wrong))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert {"name", "timing.time_zone", "kit.yaml:3 design.size"} <= set(mistakes)
    for fields, field in (
        ({"timing": pb.Timing(cron="0 0 30 2 *")}, "timing.cron"),
        ({"timing": None}, "timing"),
        ({"name": "Not a name"}, "name"),
        ({"catch_up_window": {"seconds": 1}}, "catch_up_window"),
        ({"kit_yaml": KIT + "labels: {schedule: mine}\n"}, "kit.labels[schedule]"),
        ({"kit_yaml": ""}, "kit.yaml: "),
    ):
        code, mistakes = await refused(pipeline.CreateSchedule(creation(**fields)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert field in mistakes


# Jobs of the system.


async def system_fires(nights: Nights, name: str) -> list[tuple[str, int]]:
    """State and kit of each fire of a schedule of the system."""
    request = pb.FindSchedulesRequest(project="system", name=name, fire_count=100)
    answer = await nights.client.call(nights.client.schedules.FindSchedules, request)
    return [(pb.FireState.Name(fire.state)[11:], fire.kit_id) for fire in answer.fires]


async def test_the_weekly_clean_up_is_there_and_fires_once_with_two_services(
    nights: Nights, database: str
) -> None:
    # As if the log had begun at the time of the test: a new timing counts from now on.
    stub = nights.client.schedules
    timing = pb.Timing(cron="0 0 * * 0")
    change = pb.ChangeScheduleRequest(project="system", name="weekly-cleanup", timing=timing)
    found = await nights.client.call(
        stub.FindSchedules, pb.FindSchedulesRequest(project="system", name="weekly-cleanup")
    )
    assert found.schedules[0].timing == timing
    assert not found.schedules[0].paused
    await nights.client.call(stub.ChangeSchedule, change)
    await nights.look()
    for _ in range(2):
        nights.now += 7 * DAY
        await asyncio.gather(*(Scheduler(nights.client).look() for _ in range(2)))
        await nights.look()
        await nights.cancel((await system_fires(nights, "weekly-cleanup"))[0][1])
    fires = await system_fires(nights, "weekly-cleanup")
    assert [state for state, _ in fires] == ["STARTED", "STARTED"]
    kit = await nights.client.get_kit(fires[0][1])
    (job,) = kit.jobs
    spec = ingestion_pb2.CleanUpSpec()
    assert job.job_type == common_pb2.JOB_TYPE_CLEANUP
    assert job.spec.Unpack(spec)
    assert spec.days == 7
    # Deleted, it does not come back with the next start.
    remove = pb.RemoveScheduleRequest(project="system", name="weekly-cleanup")
    await nights.client.call(stub.RemoveSchedule, remove)
    await asyncio.to_thread(migrate, database, RegistryConfig.schema, PACKAGE)
    answer = await nights.client.call(stub.FindSchedules, pb.FindSchedulesRequest())
    assert not answer.schedules


async def test_backups_are_scheduled_as_kits_are(nights: Nights, tmp_path: Path) -> None:
    config = Config(listen="127.0.0.1:0")
    places = [
        stage_serving(SERVICE, config, home=tmp_path / name, registry=nights.registry.address)
        for name in ("one", "two")
    ]
    async with places[0] as channel, places[1]:
        pipeline = PipelineServiceStub(channel)
        spec = ingestion_pb2.BackUpSpec(targets=["disk", "cloud"], keep=5)
        request = pipeline_pb2.CreateScheduleRequest(
            name="nightly",
            timing=pb.Timing(cron="0 2 * * *"),
            overlap=pb.OVERLAP_ALLOW,
            system_job=pipeline_pb2.SystemJob(backup=spec),
        )
        schedule = (await pipeline.CreateSchedule(request)).schedule
        assert schedule.project == "system"

        async def fired(count: int) -> bool:
            states = [state for state, _ in await system_fires(nights, "nightly")]
            return states == ["STARTED"] * count

        async def planned() -> bool:
            get = pipeline_pb2.GetScheduleRequest(project="system", name="nightly")
            answer = await pipeline.GetSchedule(get)
            return bool(answer.schedule.HasField("next_time"))

        await until(planned)
        for night in range(3):
            nights.now += DAY
            await until(lambda count=night + 1: fired(count))
        fires = await system_fires(nights, "nightly")
        job = (await nights.client.get_kit(fires[0][1])).jobs[0]
        saved = ingestion_pb2.BackUpSpec()
        assert job.job_type == common_pb2.JOB_TYPE_BACKUP
        assert job.spec.Unpack(saved)
        assert saved == spec
        for field, wrong in (
            ("project", pipeline_pb2.CreateScheduleRequest(project="mine")),
            ("system_job.job", pipeline_pb2.CreateScheduleRequest()),
            ("system_job.backup.targets", pipeline_pb2.CreateScheduleRequest()),
        ):
            wrong.MergeFrom(request)
            wrong.name = "other"
            if field == "project":
                wrong.project = "mine"
            else:
                wrong.system_job.ClearField("job")
            if field == "system_job.backup.targets":
                wrong.system_job.backup.keep = 1
            code, violations = await refused(pipeline.CreateSchedule(wrong))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert field in violations


# Services that die.


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A cluster of this test's own, with the schema."""
    home = Path(tempfile.mkdtemp(prefix="vistaflow-test-"))
    server = EmbeddedPostgres(home)
    try:
        migrate(server.start(), RegistryConfig.schema, PACKAGE)
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


async def service(home: Path, registry: str, failpoint: str = "") -> asyncio.subprocess.Process:
    """A pipeline service as a process of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vistaflow_services.pipeline",
        env={
            **os.environ,
            "VISTAFLOW_HOME": str(home),
            "VISTAFLOW_REGISTRY": registry,
            "VISTAFLOW_PIPELINE_LISTEN": "127.0.0.1:0",
            "VISTAFLOW_FAILPOINT": failpoint,
        },
        stderr=asyncio.subprocess.DEVNULL,
    )


async def test_three_nights_fire_once_each_whatever_dies(
    own_postgres: EmbeddedPostgres, serve: Any, tmp_path: Path
) -> None:
    processes: list[asyncio.subprocess.Process] = []
    async with serve(own_postgres.conninfo) as registry:
        client = RegistryClient(registry.address)
        nights = Nights(registry, client)
        await nights.add("nightly", "0 0 * * *", overlap="OVERLAP_ALLOW")

        async def fired(count: int) -> bool:
            states = [state for _, state, _ in await nights.fires("nightly")]
            return states == ["STARTED"] * count

        try:
            nights.now += DAY
            # The first night: the only service dies between the row of the fire and its kit.
            one = await service(tmp_path, registry.address, "schedule.before_start=kill")
            processes.append(one)
            assert await one.wait() == -signal.SIGKILL
            assert await nights.fires("nightly") == [("21 15", "PENDING", 0)]
            assert await nights.kits() == {}
            # Two that follow: one dies when the kit is made, which the other has noted or repeats.
            after = "schedule.after_start=kill@2"
            processes += [await service(tmp_path, registry.address, point) for point in ("", after)]
            await until(lambda: fired(1))
            await asyncio.to_thread(own_postgres.stop)
            nights.now += DAY
            await asyncio.to_thread(own_postgres.start)
            await until(lambda: fired(2))
            nights.now += DAY
            await until(lambda: fired(3))
            kits = await nights.kits()
        finally:
            for process in processes:
                if process.returncode is None:
                    process.terminate()
                await process.wait()
            await client.close()

    assert sorted(kit.labels["fire_time"] for kit in kits.values()) == [
        f"2026-11-{day}T15:00:00Z" for day in (21, 22, 23)
    ]


async def test_a_kit_and_a_schedule_name_webhooks_that_are_there(
    nights: Nights, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = KIT + "notify: [{webhook: ops, events: [failed]}, pager]\n"
    code, mistakes = await refused(
        pipeline.CreateSchedule(creation(kit_yaml=kit, notify=[{"webhook": "ops"}]))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert {
        "kit.yaml:5 notify[0].webhook",
        "kit.yaml:5 notify[1].webhook",
        "notify[0].webhook",
    } == {*mistakes}
    monkeypatch.setenv("VISTAFLOW_WEBHOOK_HOSTS", "ops.example")
    for name in ("ops", "pager"):
        hook = outbox_pb2.SetWebhookRequest(
            name=name, url="https://ops.example/", secrets=["whsec_" + "A" * 32]
        )
        await nights.client.call(nights.client.outbox.SetWebhook, hook)
    wrong = creation(kit_yaml=KIT + "notify: {webhook: ops, events: [late]}\n")
    code, mistakes = await refused(pipeline.CreateSchedule(wrong))
    assert list(mistakes) == ["kit.yaml:5 notify[0].events"]
    created = await pipeline.CreateSchedule(
        creation(kit_yaml=kit, notify=[{"webhook": "ops", "events": ["OVERDUE"]}])
    )
    assert [entry.webhook for entry in created.schedule.notify] == ["ops"]
    run = await pipeline.RunKit(pipeline_pb2.RunKitRequest(kit_yaml=kit))
    assert json_format.MessageToDict(run.kit.spec)["notify"] == [
        {"webhook": "ops", "events": ["FAILED"]}, {"webhook": "pager"},
    ]  # fmt: skip
