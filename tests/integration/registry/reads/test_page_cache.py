"""Pages of kits too large for one message: served from memory while nothing of the kit changes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from traffic import connect

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.__main__ import Registry
from vistaflow_services.registry.cached_reads import CachedReads, StoreSource
from vistaflow_services.registry.reads.cache import KitCache

TASKS = 3_000


class Patient:
    def time_remaining(self) -> float:
        return 10.0


class Reader:
    """Reads a registry through caches of its own, and counts what the database was asked."""

    def __init__(self, registry: Registry, max_bytes: int = 1 << 24) -> None:
        servicer: Any = registry.servicer
        self.asked = 0
        reads = self

        class Counted:
            async def GetKit(self, request: pb.GetKitRequest, context: Any) -> pb.GetKitResponse:
                reads.asked += 1
                return await servicer.GetKit(request, context)

            async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:
                reads.asked += 1
                return await servicer.GetJob(request, context)

        counted: Any = Counted()
        cache = KitCache(registry.hub, StoreSource(registry.store), max_bytes=max_bytes)
        self.reads = CachedReads(counted, cache, registry.hub)

    async def page(self, kind: type, **fields: Any) -> Any:
        context: Any = Patient()
        if kind is pb.GetKitRequest:
            answer: Any = await self.reads.get_kit(pb.GetKitRequest(**fields), context)
            response: Any = pb.GetKitResponse
        else:
            answer = await self.reads.get_job(pb.GetJobRequest(**fields), context)
            response = pb.GetJobResponse
        return response.FromString(answer) if isinstance(answer, bytes) else answer

    async def all(self, kind: type, **fields: Any) -> list[Any]:
        pages = [await self.page(kind, **fields)]
        while pages[-1].next_page_token:
            pages.append(await self.page(kind, **fields, page_token=pages[-1].next_page_token))
        return pages


@pytest.fixture
async def stub(running: Registry) -> AsyncIterator[Any]:
    channel, stub = connect(running.address)
    yield stub
    await channel.close()


async def kit_of(stub: Any, tasks: int = TASKS) -> tuple[int, str]:
    jobs = [pb.NewJob(job_type=common.JOB_TYPE_DOE)]
    kit = (await stub.CreateKit(pb.CreateKitRequest(name="many", jobs=jobs))).kit
    job_id = kit.jobs[0].job_id
    await stub.AppendStates(
        pb.AppendStatesRequest(states=[common.State(job_id=job_id, status=common.STATUS_RUNNING)])
    )
    for start in range(0, tasks, 1000):
        rows = [
            common.State(job_id=job_id, task_name=f"t{n}", status=common.STATUS_RUNNING)
            for n in range(start, min(tasks, start + 1000))
        ]
        await stub.AppendStates(pb.AppendStatesRequest(states=rows))
    return kit.kit_id, job_id


def names(pages: list[Any]) -> list[str]:
    jobs = [
        job for page in pages for job in (page.kit.jobs if hasattr(page, "kit") else [page.job])
    ]
    return [task.task_name for job in jobs for task in job.tasks]


async def test_pages_that_were_read_before_are_served_without_the_database(
    running: Registry, stub: Any
) -> None:
    kit_id, job_id = await kit_of(stub)
    reader = Reader(running)
    for kind, asked in (
        (pb.GetKitRequest, {"kit_id": kit_id}),
        (pb.GetJobRequest, {"job_id": job_id}),
    ):
        reader.asked = 0
        first = await reader.all(kind, page_size=1000, **asked)
        read = reader.asked
        assert read == len(first) > TASKS // 1000
        assert sorted(names(first)) == sorted(f"t{n}" for n in range(TASKS))
        # Another kit changes: these pages hold.
        await kit_of(stub, tasks=1)
        again = await reader.all(kind, page_size=1000, **asked)
        assert reader.asked == read
        assert names(again) == names(first)
        # The first page tells how new it is; what follows is as of the revision of the first.
        assert again[0].revision == running.hub.head > first[0].revision
        assert [page.revision for page in again[1:]] == [page.revision for page in first[1:]]
        newer = await reader.page(kind, page_size=1000, min_revision=running.hub.head, **asked)
        assert newer.revision == running.hub.head
        assert reader.asked == read


async def test_a_first_page_is_read_again_once_the_kit_has_changed(
    running: Registry, stub: Any
) -> None:
    kit_id, job_id = await kit_of(stub)
    reader = Reader(running)
    first = await reader.all(pb.GetKitRequest, kit_id=kit_id, page_size=1000)
    row = common.State(job_id=job_id, task_name="t0", status=common.STATUS_FINISHED)
    answer = await stub.AppendStates(pb.AppendStatesRequest(states=[row]))
    again = await reader.all(
        pb.GetKitRequest, kit_id=kit_id, page_size=1000, min_revision=answer.revision
    )
    assert again[0].kit.revision == answer.revision
    statuses = {
        task.task_name: task.status for page in again for job in page.kit.jobs for task in job.tasks
    }
    assert statuses["t0"] == common.STATUS_FINISHED
    # Whoever is amid the pages goes on with the kit as it was.
    token = first[0].next_page_token
    second = await reader.page(pb.GetKitRequest, kit_id=kit_id, page_size=1000, page_token=token)
    assert second == first[1]


async def test_pages_take_no_more_memory_than_they_may(running: Registry, stub: Any) -> None:
    kit_id, _ = await kit_of(stub)
    reader = Reader(running, max_bytes=400_000)
    await reader.all(pb.GetKitRequest, kit_id=kit_id, page_size=500)
    pages = reader.reads._pages
    assert 0 < pages._pages.weight <= 400_000
    assert pages._pages.weight == sum(len(page) for page, _ in pages._pages.values())
    pages.clear()
    assert not pages._first


async def test_a_page_with_a_job_that_a_worker_runs_is_not_kept(
    running: Registry, stub: Any
) -> None:
    """Its progress changes without a row."""
    reader = Reader(running)
    jobs = [
        pb.NewJob(job_type=common.JOB_TYPE_DOE, name=f"j{n}", spec={"type_url": "x/y"})
        for n in range(3)
    ]
    kit = (await stub.CreateKit(pb.CreateKitRequest(name="leased", jobs=jobs))).kit
    page = await reader.page(pb.GetKitRequest, kit_id=kit.kit_id, page_size=1)
    asked = reader.asked
    assert await reader.page(pb.GetKitRequest, kit_id=kit.kit_id, page_size=1) == page
    assert reader.asked == asked
    job_id = uuid.UUID(kit.jobs[0].job_id)
    granted = await running.ledger.submit(c.Grant(job_id=job_id, worker="w", lease_seconds=60))
    assert granted is not None
    for _ in range(2):
        page = await reader.page(pb.GetKitRequest, kit_id=kit.kit_id, page_size=1)
        assert page.kit.jobs[0].status == common.STATUS_RUNNING
    assert reader.asked == asked + 2
