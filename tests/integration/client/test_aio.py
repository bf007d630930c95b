"""The asynchronous client on a real registry: every method of it."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from typing import Any

import grpc
import pytest

import vistaflow
from vistaflow.aio import connect
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub


async def test_a_kit_is_created_read_and_listed(registry: str) -> None:
    async with connect(registry) as client:
        made = await client.create_kit(
            "a device",
            [
                "DOE",
                pb.NewJob(name="fit", job_type=common_pb2.JOB_TYPE_ML_TRAIN, depends_on=["doe"]),
            ],
            project="power",
            labels={"team": "rf"},
            actor="ann",
        )
        other = await client.create_kit("another")

        kit = await client.kit(made.kit_id)
        assert kit == made
        assert (kit.name, kit.project, kit.labels, kit.actor) == (
            "a device",
            "power",
            {"team": "rf"},
            "ann",
        )
        assert [(each.name, each.status, each.depends_on) for each in kit.jobs] == [
            ("doe", "QUEUED", ()),
            ("fit", "INIT", ("doe",)),
        ]
        assert kit.job("fit") is kit.job("ML_TRAIN")
        with pytest.raises(KeyError):
            kit.job("optimize")
        assert kit.created_at is not None
        assert kit.created_at.tzinfo is not None
        assert [each.kit_id async for each in client.kits()] == [other.kit_id, made.kit_id]
        assert [each.kit_id async for each in client.kits(project="power")] == [made.kit_id]
        assert [each.kit_id async for each in client.kits(labels={"team": "rf"})] == [made.kit_id]
        assert [each.kit_id async for each in client.kits(statuses=["QUEUED"])] == [made.kit_id]
        assert [each.kit_id async for each in client.kits(limit=1)] == [other.kit_id]


async def test_kits_of_many_pages_come_once_each(registry: str) -> None:
    async with connect(registry) as client:
        made = [
            each.kit_id
            for each in await asyncio.gather(*(client.create_kit(f"kit {at}") for at in range(230)))
        ]
        assert [each.kit_id async for each in client.kits()] == sorted(made, reverse=True)
        assert len([each async for each in client.kits(limit=205)]) == 205


async def test_the_states_of_an_external_job_are_reported(registry: str) -> None:
    async with connect(registry) as client:
        kit = await client.create_kit("x", ["DOE"])
        job = kit.jobs[0]

        revisions = [
            await client.append(job.job_id, "RUNNING", actor="bob", reason="begun"),
            await client.append(
                job.job_id, "FINISHED", task_name="part", metadata={"n": 3, "deep": {"x": [1.5]}}
            ),
            await client.append(job.job_id, "FINISHED"),
        ]

        states = [each async for each in client.states(kit_ids=[kit.kit_id])]
        assert [each.revision for each in states][1:] == revisions
        assert [(each.task_name, each.status) for each in states] == [
            ("", "QUEUED"),
            ("", "RUNNING"),
            ("part", "FINISHED"),
            ("", "FINISHED"),
        ]
        assert states[2].metadata == {"n": 3, "deep": {"x": [1.5]}}
        assert (states[1].actor, states[1].reason) == ("bob", "begun")
        done = await client.job(job.job_id)
        assert done.status == "FINISHED"
        assert [each.task_name for each in done.tasks] == ["part"]
        assert done.task_counts.finished == 1
        assert done.elapsed is not None
        some = client.states(
            job_ids=[job.job_id], statuses=["FINISHED"], after_revision=revisions[0]
        )
        assert [each.revision async for each in some] == revisions[1:]
        assert len([each async for each in client.states(limit=2)]) == 2


async def test_what_the_status_machine_refuses_is_raised_with_its_verdict(registry: str) -> None:
    async with connect(registry) as client:
        job = (await client.create_kit("x", ["DOE"])).jobs[0]
        with pytest.raises(vistaflow.FailedPreconditionError) as caught:
            await client.append(job.job_id, "FINISHED")
        assert caught.value.reason == "VERDICT_REJECTED"
        assert "QUEUED" in caught.value.message
        answer = await client.append_states(
            [
                common_pb2.State(job_id=job.job_id, status=common_pb2.STATUS_RUNNING),
                common_pb2.State(job_id=str(uuid.uuid4()), status=common_pb2.STATUS_RUNNING),
            ]
        )
        assert [each.verdict for each in answer.results] == [
            pb.VERDICT_ACCEPTED,
            pb.VERDICT_REJECTED,
        ]


async def test_a_whole_number_that_would_be_changed_is_refused_and_a_measurement_comes_back(
    registry: str,
) -> None:
    async with connect(registry) as client:
        job_id = (await client.create_kit("x", ["DOE"])).jobs[0].job_id
        with pytest.raises(vistaflow.InvalidArgumentError) as caught:
            await client.append(job_id, "RUNNING", metadata={"a": [{"id": 2**53 + 1}]})
        assert [each.field for each in caught.value.violations] == ["metadata.a[0].id"]
        metadata = {"n": 2**53, "x": 1.2345678901234567e18, "id": str(2**53 + 1), "y": [7, 0.5]}
        await client.append(job_id, "RUNNING", metadata=metadata)
        rows = [each async for each in client.states(job_ids=[job_id], statuses=["RUNNING"])]
        assert rows[0].metadata == metadata


async def test_jobs_are_added_canceled_and_retried(registry: str) -> None:
    async with connect(registry) as client:
        kit = await client.create_kit("x")
        first = await client.create_job("DOE", kit_id=kit.kit_id)
        second = await client.create_job(
            "ML_TRAIN", kit_id=kit.kit_id, name="fit", depends_on=["doe"], actor="ann"
        )
        alone = await client.create_job("DOE")

        assert second.depends_on == ("doe",)
        assert second.actor == "ann"
        assert alone.kit_id not in (0, kit.kit_id)
        canceled = await client.cancel_job(first.job_id, reason="no")
        assert (canceled.status, canceled.reason) == ("CANCELED", "no")
        assert (await client.job(second.job_id)).status == "INIT"
        assert (await client.retry_job(first.job_id)).status == "QUEUED"
        stopped = await client.cancel_kit(kit.kit_id, reason="enough", actor="ann")
        assert [each.status for each in stopped.jobs] == ["CANCELED", "CANCELED"]
        assert stopped.is_terminal
        again = await client.retry_kit(kit.kit_id)
        assert [each.status for each in again.jobs] == ["QUEUED", "INIT"]
        assert not again.is_terminal


async def test_errors_are_of_their_own_kind(registry: str) -> None:
    async with connect(registry) as client:
        with pytest.raises(vistaflow.NotFoundError, match="999"):
            await client.kit(999)
        with pytest.raises(vistaflow.NotFoundError):
            await client.job(str(uuid.uuid4()))
        with pytest.raises(vistaflow.InvalidArgumentError) as caught:
            await client.create_kit("", project="No Good")
        assert {each.field for each in caught.value.violations} == {"name", "project"}
        kit = await client.create_kit("x", ["DOE"])
        with pytest.raises(vistaflow.FailedPreconditionError):
            await client.retry_kit(kit.kit_id)
        with pytest.raises(vistaflow.AlreadyExistsError):
            await client.create_job("DOE", kit_id=kit.kit_id)
        with pytest.raises(vistaflow.OutOfRangeError):
            async for _ in client.watch(after_revision=1_000_000):
                pass
        with pytest.raises(vistaflow.UnavailableError, match="knows no pipeline service"):
            await client.run(__file__)


async def test_a_service_is_waited_for_that_a_new_registry_has_not_heard_of_yet(
    registry: str,
) -> None:
    async with connect(registry) as client:
        running = asyncio.create_task(client.run(__file__))
        await asyncio.sleep(0.5)
        assert not running.done()
        # The registry itself in its stead: it answers, and has no such method.
        pipeline = pb.ServiceInfo(name="pipeline", address=registry, status="SERVING")
        async with grpc.aio.insecure_channel(registry) as channel:
            stub: Any = RegistryServiceStub(channel)
            await stub.AnnounceService(pb.AnnounceServiceRequest(service=pipeline))
        with pytest.raises(vistaflow.VistaError, match=r"(?i)method not found|unimplemented"):
            await running


async def test_the_same_request_id_again_is_the_same_kit(registry: str) -> None:
    request_id = str(uuid.uuid4())
    async with connect(registry) as client:
        first = await client.create_kit("x", ["DOE"], request_id=request_id)
        second = await client.create_kit("x", ["DOE"], request_id=request_id)
        assert first.kit_id == second.kit_id
        with pytest.raises(vistaflow.AlreadyExistsError):
            await client.create_kit("y", request_id=request_id)


async def test_wait_returns_once_nothing_moves(registry: str) -> None:
    async with connect(registry) as client:
        kit = await client.create_kit("x", ["DOE"])
        waiting = asyncio.create_task(client.wait(kit.kit_id))
        await client.append(kit.jobs[0].job_id, "RUNNING")
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await client.append(kit.jobs[0].job_id, "FINISHED", metadata={"result": {"a": 1}})
        ended = await asyncio.wait_for(waiting, 60)
        assert ended.status == "FINISHED"
        assert ended.jobs[0].result == {"a": 1}
        assert (await client.wait(kit.kit_id)).revision == ended.revision


async def test_wait_tells_which_job_failed_and_why(registry: str) -> None:
    async with connect(registry) as client:
        kit = await client.create_kit("x", ["DOE"])
        await client.append(kit.jobs[0].job_id, "RUNNING")
        with pytest.raises(vistaflow.DeadlineExceededError, match=r"not done after 0\.2 s"):
            await client.wait(kit.kit_id, timeout=0.2)
        waiting = asyncio.create_task(client.wait(kit.kit_id))
        await client.append(kit.jobs[0].job_id, "FAILED", reason="the probe broke")
        with pytest.raises(vistaflow.KitFailedError, match="doe: the probe broke"):
            await asyncio.wait_for(waiting, 60)


async def test_a_watch_that_is_canceled_while_rows_arrive_always_ends(registry: str) -> None:
    async with connect(registry) as client:
        kit = await client.create_kit("x", ["DOE"])
        await client.append(kit.jobs[0].job_id, "RUNNING")

        async def write() -> None:
            for number in itertools.count():
                await client.append(kit.jobs[0].job_id, "RUNNING", task_name=f"t{number % 5}")

        async def read() -> None:
            async for _ in client.watch(after_revision=0):
                pass

        writing = asyncio.create_task(write())
        for number in range(40):
            readers = [asyncio.create_task(read()) for _ in range(4)]
            await asyncio.sleep(0.02 + number * 0.0003)
            for each in readers:
                each.cancel()
            _, left = await asyncio.wait(readers, timeout=60)
            assert not left
        writing.cancel()
        await asyncio.wait([writing])


async def test_a_watch_begins_with_the_past_or_with_what_is(registry: str) -> None:
    async with connect(registry) as client:
        kit = await client.create_kit("x", ["DOE"])
        await client.append(kit.jobs[0].job_id, "RUNNING")

        past = []
        async for event in client.watch(kit_ids=[kit.kit_id]):
            past.append(event)
            if isinstance(event, vistaflow.Synced):
                break
        rows = [row for each in past if isinstance(each, vistaflow.Delta) for row in each.states]
        assert [each.status for each in rows] == ["QUEUED", "RUNNING"]
        deltas = [each for each in past if isinstance(each, vistaflow.Delta)]
        assert deltas[-1].kit_statuses == {kit.kit_id: "RUNNING"}
        assert deltas[-1].kit_counts[kit.kit_id].running == 1

        now = []
        async for event in client.watch(kit_ids=[kit.kit_id], include_snapshot=True):
            now.append(event)
            if isinstance(event, vistaflow.Synced):
                break
        assert isinstance(now[0], vistaflow.Snapshot)
        assert [each.status for each in now[0].states] == ["RUNNING"]
        assert [each.kit_id for each in now[0].kits] == [kit.kit_id]


async def test_the_server_tells_what_it_is(registry: str) -> None:
    async with connect(registry) as client:
        info = await client.server_info()
        assert info.services[0].name == "registry"
        assert info.services[0].address == registry
        assert info.epoch
