from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import replace
from typing import Any

import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.__main__ import Registry
from vistaflow_services.registry.cached_reads import CachedReads, StoreSource
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.domain import Kit, StateFilter, StateRow, first_name
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.reads.cache import KitCache
from vistaflow_services.registry.reads.trees import Tree


class Reader:
    """Reads a replica through a cache of its own, whose progress is always new."""

    def __init__(self, registry: Registry, max_bytes: int = 1 << 20) -> None:
        self.registry = registry
        self.cache = KitCache(
            registry.hub, StoreSource(registry.store), max_bytes=max_bytes, progress_seconds=0
        )
        servicer: Any = registry.servicer
        self.reads = CachedReads(servicer, self.cache, registry.hub)

    async def kit(self, kit_id: int, revision: int = 0) -> pb.GetKitResponse:
        context: Any = Patient()
        answer = await self.reads.get_kit(
            pb.GetKitRequest(kit_id=kit_id, min_revision=revision), context
        )
        return pb.GetKitResponse.FromString(answer) if isinstance(answer, bytes) else answer

    async def job(self, job_id: uuid.UUID, revision: int = 0) -> pb.GetJobResponse:
        context: Any = Patient()
        answer = await self.reads.get_job(
            pb.GetJobRequest(job_id=str(job_id), min_revision=revision), context
        )
        return pb.GetJobResponse.FromString(answer) if isinstance(answer, bytes) else answer

    async def check(self, kit_id: int, revision: int) -> None:
        """That the cache answers what SQL does, for the kit and each of its jobs."""
        await self.registry.hub.reached(revision)
        kit, _ = await self.registry.store.kit(kit_id)
        assert kit is not None
        answer = await self.kit(kit_id, revision)
        assert answer.revision >= revision
        assert answer.kit == translate.kit_to_proto(kit)
        for job in kit.jobs.values():
            found = await self.job(job.job_id, revision)
            assert found.job == translate.job_to_proto(job)
            assert found.revision >= revision


class Patient:
    def time_remaining(self) -> float:
        return 10.0


class History:
    """Does random things to kits, on one replica or another."""

    def __init__(self, seed: int, *registries: Registry) -> None:
        self.chance = random.Random(seed)
        self.registries = registries
        self.kits: dict[int, list[c.NewJob]] = {}
        self.attempts: dict[uuid.UUID, int] = {}
        self.did: set[str] = set()

    async def step(self) -> tuple[int, int]:
        """One change, which may be refused; the kit it touched and the head after it."""
        registry = self.chance.choice(self.registries)
        if len(self.kits) < 3:
            command: c.Command = c.CreateKit(
                name="k", labels={"a": "b"}, jobs=self._jobs(), spec_json='{"deck": "x"}'
            )
            answer = await registry.ledger.submit(command)
            self.kits[answer.kit.kit_id] = list(command.jobs)
            return answer.kit.kit_id, registry.hub.head
        kit_id = self.chance.choice(list(self.kits))
        job = self.chance.choice(self.kits[kit_id])
        command = self._command(kit_id, job)
        try:
            answer = await registry.ledger.submit(command)
        except ServiceError:
            return kit_id, registry.hub.head
        if isinstance(answer, c.Granted):
            self.attempts[job.job_id] = answer.job.attempt
        if isinstance(answer, c.Appended):
            self.did.update(f"{type(command).__name__} {each.verdict}" for each in answer.results)
        self.did.add(type(command).__name__)
        return kit_id, registry.hub.head

    def _jobs(self) -> tuple[c.NewJob, ...]:
        names = ["deck", "doe", "train", "test"]
        needs: list[tuple[str, ...]] = [(), ("deck",), ("doe",), ("doe", "train")]
        return tuple(self._job(name, need) for name, need in zip(names, needs, strict=True))

    def _job(self, name: str, needs: tuple[str, ...]) -> c.NewJob:
        external = self.chance.random() < 0.6
        return c.NewJob(
            job_id=uuid.UUID(int=self.chance.getrandbits(128), version=4),
            name=name,
            job_type=self.chance.choice(["DOE", "ML_TRAIN", "OPTIMIZE"]),
            current_order=0,
            depends_on=needs,
            external=external,
            spec=b"" if external else b"spec",
            spec_type="" if external else "x/y",
            timeout_seconds=60.0 if external else None,
            max_attempts=2,
        )

    def _command(self, kit_id: int, job: c.NewJob) -> c.Command:
        attempt = self.attempts.get(job.job_id, 0)
        kind = self.chance.choices(
            ["task", "own", "grant", "release", "lose", "cancel", "retry", "replace", "all", "job"],
            [30, 14, 6, 3, 3, 1, 4, 2, 1, 1],
        )[0]
        match kind:
            case "grant":
                return c.Grant(job_id=job.job_id, worker="w-1", lease_seconds=60)
            case "release":
                return c.Release(job_id=job.job_id, attempt=attempt, worker="w-1", counts=True)
            case "lose":
                return c.Lose(job_id=job.job_id, attempt=attempt, worker="w-1")
            case "cancel":
                return c.CancelJob(job_id=job.job_id, reason="no")
            case "retry":
                return c.RetryKit(kit_id=kit_id)
            case "replace":
                replacement = c.Replacement(name=first_name(job.name))
                return c.RetryKit(kit_id=kit_id, replacements=(replacement,))
            case "all":
                return c.CancelKit(kit_id=kit_id)
            case "job":
                return c.CreateJob(kit_id=kit_id, job=self._new(kit_id))
        status = ["RUNNING", "FINISHED", "FAILED"] if kind == "own" else ["RUNNING", "FINISHED"]
        items = tuple(
            c.Item(
                job_id=job.job_id,
                status=self.chance.choices(status, [6, 3, 1][: len(status)])[0],
                task_name=f"t{self.chance.randrange(6)}" if kind == "task" else "",
                attempt=0 if job.external else attempt,
                metadata_json='{"result": {"n": 1, "x": [1.5, "é"]}}',
                result_json='{"n": 1, "x": [1.5, "é"]}',
                actor="me",
                reason="so",
            )
            for _ in range(self.chance.choice([1, 1, 5]) if kind == "task" else 1)
        )
        return c.Append(items=items)

    def _new(self, kit_id: int) -> c.NewJob:
        known = self.kits[kit_id]
        job = self._job(f"more-{len(known)}", (self.chance.choice(known).name,))
        known.append(job)
        return job


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_cache_answers_what_sql_does_while_two_replicas_write(database, serve, seed):
    config = Config(lease_seconds=60.0)
    async with serve(database, config) as one, serve(database, config) as two:
        history = History(seed, one, two)
        readers = [Reader(one), Reader(two, max_bytes=80_000)]
        for _ in range(100):
            kit_id, head = await history.step()
            for reader in readers:
                await reader.check(kit_id, head)
        assert {"Append ACCEPTED", "Grant", "RetryKit"} <= history.did
        for reader in readers:
            assert reader.cache.hit_count > 5 * reader.cache.miss_count
            assert reader.cache.drop_count
            held = reader.cache._trees.values()
            assert reader.cache.bytes == sum(tree.size for tree in held)


async def test_a_kit_read_while_others_write_is_exactly_as_of_its_revision(database, serve):
    async with serve(database) as one, serve(database) as two:
        history = History(7, one, two)
        for _ in range(3):
            await history.step()
        reader = Reader(one)
        answers: list[pb.GetKitResponse] = []
        over = False

        async def read() -> None:
            while not over:
                answers.append(await reader.kit(history.chance.choice(list(history.kits))))
                await asyncio.sleep(0)

        reading = [asyncio.create_task(read()) for _ in range(3)]
        for _ in range(150):
            await history.step()
        over = True
        await asyncio.gather(*reading)
        rows = (await one.store.list_states(StateFilter(), after=0, limit=5000)).entries
        assert len(answers) > 100
        for answer in answers:
            mine = [row for row in rows if row.kit_id == answer.kit.kit_id]
            last = max(row.revision for row in mine if row.revision <= answer.revision)
            assert answer.kit.revision == last
            for job in answer.kit.jobs:
                for task in job.tasks:
                    newest = max(
                        row.revision
                        for row in mine
                        if str(row.job_id) == job.job_id
                        and row.task_name == task.task_name
                        and row.revision <= answer.revision
                    )
                    assert task.revision == newest


async def test_an_answer_is_never_older_than_the_revision_asked_for(database, serve):
    async with serve(database) as one, serve(database) as two:
        history = History(3, one)
        kit_id, _ = await history.step()
        job = next(each for each in history.kits[kit_id] if not each.depends_on)
        created = c.CreateJob(kit_id=kit_id, job=replace(job, job_id=uuid.uuid4(), name="mine"))
        created = replace(created, job=replace(created.job, external=True, spec=b"", spec_type=""))
        job_id = (await one.ledger.submit(created)).job.job_id
        reader = Reader(two)
        for status, task in [("RUNNING", ""), *[("RUNNING", f"t{n}") for n in range(30)]]:
            item = c.Item(job_id=job_id, status=status, task_name=task)
            revision = (await one.ledger.submit(c.Append(items=(item,)))).revision
            answer = await reader.kit(kit_id, revision)
            assert answer.revision >= revision
            assert answer.kit.revision == revision
        assert reader.cache.hit_count == 30


async def test_progress_of_running_jobs_reaches_cached_kits(running):
    reader = Reader(running)
    job = History(1)._job("only", ())
    leased = replace(job, external=False, spec=b"s", spec_type="x/y")
    kit_id = (await running.ledger.submit(c.CreateKit(name="k", jobs=(leased,)))).kit.kit_id
    await running.ledger.submit(c.Grant(job_id=leased.job_id, worker="w", lease_seconds=60))
    await reader.kit(kit_id)
    async with running.store._pool.connection() as connection:
        await connection.execute(
            "UPDATE leases SET progress = %s::jsonb, progress_at = now()",
            ['{"phase": "run", "completed": 3, "total": 9}'],
        )
    answer = await reader.kit(kit_id)
    assert answer.kit.jobs[0].progress.completed == 3
    assert reader.cache.hit_count == 1
    await reader.check(kit_id, 0)


async def test_progress_that_was_read_while_its_job_ended_is_not_told(running):
    job = replace(History(1)._job("only", ()), external=False, spec=b"s", spec_type="x/y")
    kit_id = (await running.ledger.submit(c.CreateKit(name="k", jobs=(job,)))).kit.kit_id
    await running.ledger.submit(c.Grant(job_id=job.job_id, worker="w", lease_seconds=60))
    async with running.store._pool.connection() as connection:
        await connection.execute("UPDATE leases SET progress = '{}', progress_at = now()")

    class Slow(StoreSource):
        async def progress(self, job_ids: Any) -> Any:
            told = await super().progress(job_ids)
            end = c.Item(job_id=job.job_id, status="FINISHED", attempt=1)
            await running.ledger.submit(c.Append(items=(end,)))
            return told

    cache = KitCache(running.hub, Slow(running.store), progress_seconds=0)
    found = await cache.kit(kit_id)
    assert found is not None
    kit, _ = await running.store.kit(kit_id)
    assert pb.Kit.FromString(b"".join(found[0].kit_parts())) == translate.kit_to_proto(kit)


async def test_rows_and_their_metadata_are_weighed_and_the_coldest_kits_leave(running):
    reader = Reader(running, max_bytes=200_000)
    kits = []
    for _ in range(12):
        job = replace(History(1)._job("only", ()), job_id=uuid.uuid4())
        job = replace(job, external=True, spec=b"", spec_type="")
        kits.append((await running.ledger.submit(c.CreateKit(name="k", jobs=(job,)))).kit.kit_id)
        big = '{"note": "%s"}' % ("x" * 8_000)
        items = [c.Item(job_id=job.job_id, status="RUNNING")]
        items.append(replace(items[0], task_name="t", metadata_json=big))
        await running.ledger.submit(c.Append(items=tuple(items)))
        await reader.kit(kits[-1])
        assert reader.cache.bytes <= 200_000
    assert 0 < len(reader.cache) < 12
    assert reader.cache.eviction_count == 12 - len(reader.cache)
    assert kits[0] not in reader.cache._trees
    assert kits[-1] in reader.cache._trees


async def test_a_kit_too_large_for_the_cache_is_read_from_sql_and_evicts_nothing(running):
    reader = Reader(running, max_bytes=50_000)
    small, large = (replace(History(n)._job("only", ()), external=True) for n in (1, 2))
    kits = []
    for job, spec in ((small, ""), (large, '{"note": "%s"}' % ("x" * 20_000))):
        job = replace(job, spec=b"", spec_type="")
        command = c.CreateKit(name="k", jobs=(job,), spec_json=spec)
        kits.append((await running.ledger.submit(command)).kit.kit_id)
    for _ in range(2):
        for kit_id in kits:
            await reader.check(kit_id, 0)
    assert list(reader.cache._trees) == [kits[0]]
    assert reader.cache.eviction_count == 0


async def test_nothing_is_answered_from_memory_while_the_log_cannot_be_followed(running):
    fresh = True
    cache = KitCache(running.hub, StoreSource(running.store), fresh=lambda: fresh)
    history = History(1, running)
    kit_id, _ = await history.step()
    assert await cache.kit(kit_id) is not None
    fresh = False
    assert await cache.kit(kit_id) is None
    fresh = True
    assert await cache.kit(kit_id) is not None
    assert cache.miss_count == 1


async def test_a_served_kit_of_many_rows_comes_from_memory(running, monkeypatch):
    job = replace(History(1)._job("only", ()), external=True, spec=b"", spec_type="")
    kit_id = (await running.ledger.submit(c.CreateKit(name="k", jobs=(job,)))).kit.kit_id
    await running.ledger.submit(c.Append(items=(c.Item(job_id=job.job_id, status="RUNNING"),)))
    tasks = tuple(
        c.Item(
            job_id=job.job_id, status="RUNNING", task_name=f"t{n % 140}", metadata_json='{"n": 1}'
        )
        for n in range(900)
    )
    for _ in range(5):
        await running.ledger.submit(c.Append(items=tasks))
    reader = Reader(running)
    await reader.check(kit_id, running.hub.head)
    # Answered from memory, each after a change: the answer is put together, nothing is asked.
    # benchmarks/registry/reads.py measures how long that takes.
    with monkeypatch.context() as patched:
        for name in ("kit", "kit_of", "progress"):
            patched.delattr(StoreSource, name)
        for _ in range(20):
            await running.ledger.submit(c.Append(items=tasks[:1]))
            assert (await reader.kit(kit_id, running.hub.head)).kit.kit_id == kit_id
    assert reader.cache.miss_count == 1
    await reader.check(kit_id, running.hub.head)


def test_a_row_of_a_job_the_tree_does_not_have_is_not_taken_for_known():
    kit = Kit(kit_id=1, name="k", revision=1)
    row = StateRow(
        revision=2,
        batch=2,
        kit_id=1,
        job_id=uuid.uuid4(),
        job_type="DOE",
        task_name="",
        status="QUEUED",
        current_order=1,
        attempt=0,
        seq=0,
        created_at=kit.created_at,
        kit_counts=(0, 1, 0, 0, 0, 0),
    )
    assert not Tree(kit, 1).apply(row)
    assert Tree(kit, 2).apply(row), "it was read with it"
