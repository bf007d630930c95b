"""A kit in wire form: made in slices, and the same however it was made."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.domain import Job, Kit, StateRow, Status
from vistaflow_services.registry.log.hub import Hub
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.reads.cache import INLINE_TASKS, KitCache
from vistaflow_services.registry.reads.trees import ROW_COST, SLICE_BYTES, Tree

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB_ID = uuid.UUID(int=7)
TASKS = 9_000


def kit_of(tasks: int, metadata_json: str = "", spec_json: str = "") -> Kit:
    job = Job(
        job_id=JOB_ID,
        kit_id=1,
        name="doe",
        job_type="DOE",
        current_order=1,
        status=Status.RUNNING,
        created_at=NOW,
    )
    for number in range(tasks):
        job.tasks[f"t{number}"] = StateRow(
            revision=number + 2,
            batch=number + 2,
            kit_id=1,
            job_id=JOB_ID,
            job_type="DOE",
            task_name=f"t{number}",
            status=Status.RUNNING,
            current_order=1,
            attempt=0,
            seq=0,
            created_at=NOW,
            metadata_json=metadata_json,
        )
    return Kit(
        kit_id=1,
        name="k",
        spec_json=spec_json,
        created_at=NOW,
        updated_at=NOW,
        jobs={JOB_ID: job},
    )


@pytest.mark.parametrize(
    ("tasks", "metadata_json"), [(5, ""), (3_000, ""), (40, '{"note": "%s"}' % ("x" * 20_000))]
)
def test_a_tree_is_made_in_slices_of_a_bounded_size(tasks: int, metadata_json: str) -> None:
    tree = Tree(kit_of(tasks, metadata_json), 1)
    slices = sum(1 for _ in tree.encode())
    size = tasks * (ROW_COST + len(metadata_json))
    assert size // (SLICE_BYTES + 20_500) <= slices <= size // SLICE_BYTES + 1


def test_a_tree_made_in_slices_is_the_message_of_the_kit() -> None:
    kit = kit_of(300, '{"n": 1}', spec_json='{"deck": {"size": [1, 2.5, null]}}')
    wanted = translate.kit_to_proto(kit)
    tree = Tree(kit, 1)
    for _ in tree.encode():
        pass
    assert pb.Kit.FromString(b"".join(tree.kit_parts())) == wanted
    assert pb.Kit.FromString(b"".join(Tree(kit, 1).kit_parts())) == wanted


def test_rows_that_come_later_are_made_in_slices_and_weighed_as_if_they_had_been_there() -> None:
    kit = kit_of(3_000, '{"n": 1}')
    rows = [
        replace(row, revision=row.revision + 3_000, batch=row.batch + 3_000)
        for row in kit.jobs[JOB_ID].tasks.values()
    ]
    tree = Tree(kit, 1)
    slices, size = sum(1 for _ in tree.encode()), tree.size
    assert all(tree.apply(row) for row in rows)
    assert tree.size > size
    assert sum(1 for _ in tree.encode()) == slices
    later = kit_of(0)
    later.revision = rows[-1].revision
    later.jobs[JOB_ID].tasks.update((row.task_name, row) for row in rows)
    new = Tree(later, 1)
    assert tree.kit_parts() == new.kit_parts()
    assert tree.size == new.size


def test_the_tasks_of_an_attempt_leave_with_it_though_they_were_not_made_yet() -> None:
    kit = kit_of(10)
    kit.counts = (0, 0, 1, 0, 0, 0)
    first = next(iter(kit.jobs[JOB_ID].tasks.values()))
    tree = Tree(kit, 1)
    moves = replace(first, task_name="", kit_counts=(0, 0, 1, 0, 0, 0))
    assert tree.apply(replace(moves, revision=100, status=Status.QUEUED))
    assert tree.apply(replace(moves, revision=101, status=Status.RUNNING, attempt=1))
    (job,) = pb.Kit.FromString(b"".join(tree.kit_parts())).jobs
    assert (len(job.tasks), job.task_counts) == (0, type(job.task_counts)())


class OneKit:
    """A source of one kit."""

    reads = 0

    async def kit(self, kit_id: int) -> Any:
        self.reads += 1
        return kit_of(TASKS), TASKS + 1

    async def progress(self, job_ids: Any) -> dict[Any, Any]:
        return {}


async def test_a_kit_of_many_tasks_is_read_once_and_made_in_turns_with_other_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = most = 0
    convert = translate.state_to_proto

    def counted(row: Any) -> Any:
        nonlocal made
        made += 1
        return convert(row)

    async def others() -> None:
        nonlocal most
        before = 0
        while True:
            most, before = max(most, made - before), made
            await asyncio.sleep(0)

    monkeypatch.setattr(translate, "state_to_proto", counted)
    source: Any = OneKit()
    cache = KitCache(Hub(TASKS + 1), source)
    beside = asyncio.create_task(others())
    try:
        first = await cache.kit(1)
        again = await cache.kit(1)
    finally:
        beside.cancel()
    assert first is not None
    assert again is not None
    kit = pb.Kit.FromString(b"".join(again[0].kit_parts()))
    assert TASKS > INLINE_TASKS
    assert (len(kit.jobs[0].tasks), source.reads, made) == (TASKS, 1, TASKS)
    assert 0 < most <= SLICE_BYTES // ROW_COST + 1
    assert cache.bytes == again[0].size
