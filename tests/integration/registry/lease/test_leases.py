"""LeaseJobs through gRPC on a real Postgres: what a worker may count on, and a lost one may not."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import pytest_asyncio
from google.protobuf import any_pb2, duration_pb2

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.commands import Grant, Lose
from vistaflow_services.registry.lease import service

sys.path.insert(0, str(Path(__file__).parents[1]))

from process import RegistryProcess
from rig import Rig, Start
from traffic import connect, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOE, TRAIN = common.JOB_TYPE_DOE, common.JOB_TYPE_ML_TRAIN
SPEC = any_pb2.Any(type_url="type.googleapis.com/vistaflow.test.Spec", value=b"\x08\x01")


class Worker:
    """A worker's end of the stream, which does only what it is told."""

    def __init__(
        self, rig: Rig | RegistryProcess, name: str = "w1", *types: int, capacity: int = 1
    ) -> None:
        self.name = name
        self.job_types = types or (DOE,)
        self.capacity = capacity
        self.grants: list[pb.Grant] = []
        self.directives: list[pb.Directive] = []
        self.ended: grpc.StatusCode | None = None
        self.channel, self.stub = connect(rig.address)
        self.call: Any = None

    async def hello(self, *running: tuple[str, int]) -> Worker:
        self.call = self.stub.LeaseJobs()
        await self.say(
            hello=pb.WorkerHello(
                worker=self.name,
                job_types=list(self.job_types),
                capacity=self.capacity,
                running=[pb.AttemptRef(job_id=job, attempt=attempt) for job, attempt in running],
            )
        )
        first = await self.call.read()
        assert first.WhichOneof("message") == "welcome", first
        self._listening = asyncio.create_task(self._listen(self.call))
        return self

    async def say(self, **message: Any) -> None:
        await self.call.write(pb.LeaseJobsRequest(**message))

    async def beat(self, *running: tuple[str, int], completed: int | None = None) -> None:
        progress = None if completed is None else common.Progress(phase="p", completed=completed)
        await self.say(
            heartbeat=pb.Heartbeat(
                attempts=[
                    pb.AttemptProgress(job_id=job, attempt=attempt, progress=progress)
                    for job, attempt in running
                ]
            )
        )

    async def granted(self, count: int = 1, *, seconds: float = 120.0) -> list[pb.Grant]:
        await until(lambda: len(self.grants) >= count, seconds=seconds)
        return self.grants

    async def finish(self, grant: pb.Grant, **result: Any) -> pb.AppendResult:
        state = common.State(
            job_id=grant.job.job_id,
            attempt=grant.job.attempt,
            seq=1,
            status=common.STATUS_FINISHED,
        )
        if result:
            state.metadata.update({"result": result})
        answer = await self.stub.AppendStates(pb.AppendStatesRequest(states=[state]))
        return answer.results[0]

    async def leave(self) -> None:
        """The connection breaks."""
        self.call.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self, call: Any) -> None:
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                if message.HasField("grant"):
                    self.grants.append(message.grant)
                else:
                    self.directives.append(message.directive)
            self.ended = await call.code()
        except grpc.aio.AioRpcError as error:
            self.ended = error.code()


NewWorker = Callable[..., Worker]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(module_database: str) -> AsyncIterator[Rig]:
    """The replica of most tests; each leaves it without work and without workers."""
    rig = await Rig.start(module_database, lease_seconds=2.0)
    yield rig
    await rig.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared: Rig) -> AsyncIterator[Rig]:
    yield shared
    await until(lambda: not shared.leases._sessions)
    going = pb.JobFilter(statuses=[common.STATUS_INIT, common.STATUS_QUEUED, common.STATUS_RUNNING])
    await shared.stub.CancelJobs(pb.CancelJobsRequest(filter=going))


@pytest_asyncio.fixture(loop_scope="module")
async def beside(shared: Rig) -> AsyncIterator[Rig]:
    """Another replica of the same log."""
    rig = await Rig.start(shared.dsn, lease_seconds=2.0)
    yield rig
    await rig.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def start(database: str) -> AsyncIterator[Start]:
    """Starts replicas of a log of this test's own."""
    started: list[Rig] = []

    async def one(**settings: Any) -> Rig:
        started.append(await Rig.start(database, **settings))
        return started[-1]

    yield one
    for each in reversed(started):
        await each.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def worker(rig: Rig) -> AsyncIterator[NewWorker]:
    made: list[Worker] = []

    def make(*args: Any, at: Rig | None = None, **kwargs: Any) -> Worker:
        made.append(Worker(at or rig, *args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        if each.call is not None:
            each.call.cancel()
        await each.channel.close()


@pytest_asyncio.fixture(loop_scope="module")
async def told(start: Start, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A replica that grants and ends leases as soon as it is told of a reason, or never."""
    monkeypatch.setattr(service, "POLL_SECONDS", 3600.0)
    return await start(lease_seconds=3600.0)


async def create(rig: Rig | Worker, *jobs: pb.NewJob, name: str = "kit") -> pb.Kit:
    for job in jobs:
        job.spec.CopyFrom(SPEC)
    return (await rig.stub.CreateKit(pb.CreateKitRequest(name=name, jobs=jobs))).kit


async def job_of(rig: Rig, job_id: str) -> common.Job:
    return (await rig.stub.GetJob(pb.GetJobRequest(job_id=job_id))).job


async def test_a_queued_job_is_granted_with_its_spec_and_is_running(
    rig: Rig, worker: NewWorker
) -> None:
    w = await worker().hello()
    kit = await create(rig, pb.NewJob(job_type=DOE))
    (grant,) = await w.granted()
    assert grant.job.job_id == kit.jobs[0].job_id
    assert (grant.job.attempt, grant.job.status) == (1, common.STATUS_RUNNING)
    assert grant.job.spec == SPEC
    assert grant.lease == duration_pb2.Duration(seconds=2)
    now = await job_of(rig, grant.job.job_id)
    assert (now.status, now.worker, now.attempt) == (common.STATUS_RUNNING, "w1", 1)


async def test_a_grant_follows_its_job_and_waits_for_no_next_look(
    told: Rig, worker: NewWorker
) -> None:
    w = await worker(capacity=20, at=told).hello()
    for n in range(10):
        await create(told, pb.NewJob(job_type=DOE))
        await w.granted(n + 1)
    assert [grant.job.attempt for grant in w.grants] == [1] * 10


async def test_a_dependent_job_is_granted_with_the_results_it_needs(
    rig: Rig, worker: NewWorker
) -> None:
    w = await worker("w1", DOE, TRAIN, capacity=2).hello()
    await create(
        rig,
        pb.NewJob(name="design", job_type=DOE),
        pb.NewJob(name="train", job_type=TRAIN, depends_on=["design"]),
    )
    (design,) = await w.granted()
    await w.finish(design, size=3)
    train = (await w.granted(2))[1]
    assert train.job.name == "train"
    (needed,) = train.inputs
    assert (needed.name, needed.job_id, needed.attempt) == ("design", design.job.job_id, 1)
    assert dict(needed.result) == {"size": 3}


async def test_a_worker_gets_only_its_types_and_as_many_as_it_takes(
    rig: Rig, worker: NewWorker
) -> None:
    w = await worker("w1", DOE, capacity=2).hello()
    jobs = [pb.NewJob(name=f"doe-{n}", job_type=DOE) for n in range(4)]
    await create(rig, *jobs, pb.NewJob(name="train", job_type=TRAIN, priority=100))
    await w.granted(2)
    held = [(grant.job.job_id, 1) for grant in w.grants]
    for _ in range(5):
        await w.beat(*held)
        await asyncio.sleep(0.1)
    assert [grant.job.name for grant in w.grants] == ["doe-0", "doe-1"]
    await w.finish(w.grants[0])
    await w.granted(3)
    assert w.grants[2].job.name == "doe-2"


async def test_kits_take_turns(rig: Rig, worker: NewWorker) -> None:
    big = await create(rig, *(pb.NewJob(name=f"j{n}", job_type=DOE) for n in range(20)))
    small = [await create(rig, pb.NewJob(job_type=DOE)) for _ in range(3)]
    w = await worker(capacity=6).hello()
    await w.granted(6)
    granted = [grant.job.kit_id for grant in w.grants]
    assert {kit.kit_id for kit in small} <= set(granted)
    assert granted.count(big.kit_id) == 3


async def test_the_higher_priority_of_a_kit_goes_first(rig: Rig, worker: NewWorker) -> None:
    await create(
        rig,
        pb.NewJob(name="later", job_type=DOE, priority=-1),
        pb.NewJob(name="first", job_type=DOE, priority=7),
        pb.NewJob(name="second", job_type=DOE),
    )
    w = await worker(capacity=3).hello()
    await w.granted(3)
    assert [grant.job.name for grant in w.grants] == ["first", "second", "later"]


async def test_external_jobs_are_not_granted(rig: Rig, worker: NewWorker) -> None:
    await rig.stub.CreateKit(pb.CreateKitRequest(name="k", jobs=[pb.NewJob(job_type=DOE)]))
    w = await worker().hello()
    await asyncio.sleep(0.3)
    assert w.grants == []


async def test_heartbeats_keep_a_lease_and_tell_progress(start: Start, worker: NewWorker) -> None:
    rig = await start(lease_seconds=3.0)
    w = await worker(at=rig).hello()
    await create(rig, pb.NewJob(job_type=DOE))
    (grant,) = await w.granted()
    began = time.monotonic()
    for completed in range(18):
        await w.beat((grant.job.job_id, 1), completed=completed)
        await asyncio.sleep(0.2)
    took = time.monotonic() - began
    now = await job_of(rig, grant.job.job_id)
    assert (now.status, now.attempt) == (common.STATUS_RUNNING, 1)
    assert now.progress.completed == 17
    assert now.progress.HasField("updated_at")
    rows = (await rig.stub.ListStates(pb.ListStatesRequest())).states
    sampled = [row.metadata["progress"]["completed"] for row in rows if row.task_name == "progress"]
    assert 2 <= len(sampled) <= took + 2, "about one a second"
    assert sampled == sorted(set(sampled))


async def test_an_attempt_nobody_hears_of_is_lost_and_run_again(
    rig: Rig, worker: NewWorker
) -> None:
    lost = await worker("lost").hello()
    kit = await create(rig, pb.NewJob(job_type=DOE))
    (first,) = await lost.granted()
    await lost.leave()
    other = await worker("other").hello()
    (again,) = await other.granted(seconds=60)
    assert (again.job.job_id, again.job.attempt) == (first.job.job_id, 2)
    of_kit = pb.ListStatesRequest(filter=pb.StateFilter(kit_ids=[kit.kit_id]))
    rows = (await rig.stub.ListStates(of_kit)).states
    told = [row for row in rows if row.metadata.fields.get("event")]
    assert [row.metadata["event"] for row in told] == ["GRANTED", "LOST", "LOST", "GRANTED"]
    held = told[1].created_at.ToNanoseconds() - told[0].created_at.ToNanoseconds()
    assert held >= 2e9, "not before its lease was over"


async def test_a_call_that_is_canceled_while_its_session_ends_leaves_none(
    rig: Rig, worker: NewWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    canceled = asyncio.Event()
    ended = service.ended

    async def interrupted(tasks: Any) -> None:
        monkeypatch.undo()
        asyncio.current_task().cancel()  # as gRPC does for a connection that broke just now
        canceled.set()
        await ended(tasks)

    w = await worker("gone").hello()
    await until(lambda: rig.leases._sessions["gone"].room() > 0)
    monkeypatch.setattr(service, "ended", interrupted)
    await w.leave()
    await asyncio.wait_for(canceled.wait(), 60)
    await until(lambda: not rig.leases._sessions)


async def test_what_a_zombie_still_says_is_stale_and_changes_nothing(
    rig: Rig, worker: NewWorker
) -> None:
    zombie = await worker("zombie").hello()
    await create(rig, pb.NewJob(job_type=DOE))
    (old,) = await zombie.granted()
    other = await worker("other").hello()
    (new,) = await other.granted()
    result = await zombie.finish(old, who="zombie")
    assert result.verdict == pb.VERDICT_STALE_ATTEMPT
    await zombie.beat((old.job.job_id, 1), completed=99)
    await zombie.say(release=pb.Release(job_id=old.job.job_id, attempt=1, counts=True))
    await until(lambda: bool(zombie.directives))
    assert {d.action for d in zombie.directives} == {pb.ACTION_ABANDON}
    assert zombie.directives[0].attempt == 1
    assert (await other.finish(new, who="other")).verdict == pb.VERDICT_ACCEPTED
    now = await job_of(rig, new.job.job_id)
    assert (now.attempt, dict(now.result)) == (2, {"who": "other"})


async def test_a_job_that_loses_every_worker_fails_and_others_go_on(
    rig: Rig, worker: NewWorker
) -> None:
    w = await worker(capacity=2).hello()
    kit = await create(
        rig,
        pb.NewJob(name="poison", job_type=DOE, max_attempts=2),
        pb.NewJob(name="after", job_type=TRAIN, depends_on=["poison"]),
    )
    await w.granted(2)
    assert [grant.job.attempt for grant in w.grants] == [1, 2]
    poison, after = kit.jobs
    for _ in range(1200):
        if (await job_of(rig, poison.job_id)).status == common.STATUS_FAILED:
            break
        await asyncio.sleep(0.05)
    failed = await job_of(rig, poison.job_id)
    assert failed.status == common.STATUS_FAILED
    assert "attempts are used up" in failed.reason
    waiting = await job_of(rig, after.job_id)
    assert waiting.status == common.STATUS_INIT
    assert "poison" in waiting.reason


async def test_a_worker_that_reconnects_in_time_goes_on_with_its_attempt(
    start: Start, worker: NewWorker
) -> None:
    rig = await start(lease_seconds=3.0)
    w = await worker(at=rig).hello()
    await create(rig, pb.NewJob(job_type=DOE))
    (grant,) = await w.granted()
    held = (grant.job.job_id, grant.job.attempt)
    await w.beat(held)
    await w.leave()
    await asyncio.sleep(0.3)
    await w.hello(held)
    for _ in range(18):
        await w.beat(held)
        await asyncio.sleep(0.2)
    assert w.directives == []
    assert (await w.finish(grant)).verdict == pb.VERDICT_ACCEPTED
    assert (await job_of(rig, held[0])).attempt == 1


async def test_an_attempt_that_ends_while_its_worker_reconnects_takes_no_place(
    rig: Rig, worker: NewWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await worker().hello()
    kit = await create(rig, pb.NewJob(job_type=DOE), pb.NewJob(name="next", job_type=DOE))
    (grant,) = await one.granted()
    await one.leave()
    renew = rig.leases._store.renew

    async def slow(*asked: Any) -> Any:
        renewed = await renew(*asked)
        monkeypatch.undo()
        await one.finish(grant)
        return renewed

    monkeypatch.setattr(rig.leases._store, "renew", slow)
    await one.hello((grant.job.job_id, grant.job.attempt))
    _, following = await one.granted(2)
    assert following.job.job_id == kit.jobs[1].job_id


async def test_a_late_heartbeat_of_a_job_that_is_over_leaves_nothing_behind(
    rig: Rig, worker: NewWorker
) -> None:
    one = await worker().hello()
    await create(rig, pb.NewJob(job_type=DOE))
    (grant,) = await one.granted()
    held = grant.job.job_id, grant.job.attempt
    await one.beat(held)
    await until(lambda: rig.leases._confirmed)
    await one.finish(grant)
    await one.beat(held)
    # One that is answered, so that the last has been read.
    await one.beat((str(uuid.uuid4()), 1))
    await until(lambda: one.directives)
    assert rig.leases._confirmed == {}


async def test_a_worker_goes_on_with_its_attempt_at_a_restarted_registry(
    worker: NewWorker, start: Start
) -> None:
    rig = await start(lease_seconds=1.0)
    w = await worker(at=rig).hello()
    await create(rig, pb.NewJob(job_type=DOE))
    (grant,) = await w.granted()
    held = (grant.job.job_id, grant.job.attempt)
    await w.beat(held)
    await rig.stop()
    await asyncio.sleep(1.5)  # longer than the lease
    again = await start(lease_seconds=3.0)
    w2 = await worker(at=again).hello(held)
    for _ in range(18):
        await w2.beat(held)
        await asyncio.sleep(0.2)
    assert w2.directives == []
    assert (await w2.finish(grant)).verdict == pb.VERDICT_ACCEPTED


async def test_a_worker_keeps_its_attempt_when_the_registry_was_frozen_for_longer_than_the_lease(
    database: str, tmp_path: Path
) -> None:
    registry = RegistryProcess(database, tmp_path, settings={"LEASE_SECONDS": "3"})
    await registry.start()
    try:
        w = await Worker(registry).hello()
        kit = await create(w, pb.NewJob(job_type=DOE))
        held = (kit.jobs[0].job_id, 1)
        (grant,) = await w.granted()
        await w.beat(held)
        await asyncio.sleep(0.2)
        registry.freeze()
        await asyncio.sleep(3.5)  # longer than the lease
        registry.thaw()
        for _ in range(5):
            await w.beat(held)
            await asyncio.sleep(0.2)
        assert w.directives == []
        assert (await w.finish(grant)).verdict == pb.VERDICT_ACCEPTED
        w.call.cancel()
        await w.channel.close()
    finally:
        await registry.stop()


async def test_a_worker_keeps_its_attempt_when_the_database_connections_are_cut(
    start: Start, worker: NewWorker
) -> None:
    rig = await start(lease_seconds=3.0)
    w = await worker(at=rig).hello()
    await create(rig, pb.NewJob(job_type=DOE))
    (grant,) = await w.granted()
    held = (grant.job.job_id, 1)
    async with await psycopg.AsyncConnection.connect(rig.dsn, autocommit=True) as connection:
        for round_ in range(20):
            await w.beat(held, completed=round_)
            if round_ in (2, 5):
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            await asyncio.sleep(0.2)
    assert (w.directives, w.ended) == ([], None)
    assert (await w.finish(grant)).verdict == pb.VERDICT_ACCEPTED


async def test_a_worker_that_comes_back_without_its_attempt_gives_it_up_at_once(
    start: Start, worker: NewWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RECLAIM_SECONDS", 0.1)
    rig = await start(lease_seconds=3600.0)
    w = await worker(at=rig).hello()
    await create(rig, pb.NewJob(job_type=DOE))
    (grant,) = await w.granted()
    await w.beat((grant.job.job_id, 1))
    await asyncio.sleep(0.1)
    await w.leave()
    await w.hello()
    await w.granted(2)
    assert w.grants[1].job.attempt == 2


async def test_a_worker_that_dies_of_every_grant_before_a_word_uses_the_attempts_up(
    start: Start, worker: NewWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RECLAIM_SECONDS", 0.1)
    rig = await start(lease_seconds=3600.0)
    kit = await create(rig, pb.NewJob(job_type=DOE, max_attempts=2))
    w = worker(at=rig)

    async def failed() -> bool:
        return (await job_of(rig, kit.jobs[0].job_id)).status == common.STATUS_FAILED

    async with asyncio.timeout(120):
        for deaths in range(1, 8):
            await w.hello()
            while len(w.grants) < deaths and not await failed():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await w.leave()
            if await failed():
                break

    assert await failed()
    # The first may have been lost on its way; from the second on it is the job that does it.
    assert [grant.job.attempt for grant in w.grants] == [1, 2, 3]


async def test_a_grant_that_a_dying_registry_did_not_deliver_costs_its_job_nothing(
    worker: NewWorker, start: Start
) -> None:
    rig = await start(lease_seconds=1.0)
    kit = await create(rig, pb.NewJob(job_type=DOE, max_attempts=1))
    granted = await rig.ledger.submit(
        Grant(job_id=uuid.UUID(kit.jobs[0].job_id), worker="w1", lease_seconds=60.0)
    )
    assert granted.job.attempt == 1
    await rig.stop()
    again = await start(lease_seconds=60.0)
    w = await worker(at=again).hello()
    (grant,) = await w.granted()
    assert grant.job.attempt == 2
    assert (await w.finish(grant)).verdict == pb.VERDICT_ACCEPTED


async def test_of_a_hundred_zombies_no_late_word_counts(start: Start, worker: NewWorker) -> None:
    rig = await start(lease_seconds=120.0)
    zombie = await worker("zombie", at=rig, capacity=100).hello()
    for _ in range(10):
        jobs = [pb.NewJob(name=f"j{n}", job_type=DOE) for n in range(10)]
        await create(rig, *jobs)
    old = await zombie.granted(100, seconds=60)
    other = await worker("other", at=rig, capacity=100).hello()
    # As if its leases were over.
    lost = [Lose(job_id=uuid.UUID(each.job.job_id), attempt=1, worker="zombie") for each in old]
    assert all(await asyncio.gather(*map(rig.ledger.submit, lost)))
    new = await other.granted(100, seconds=60)
    late = await asyncio.gather(*(zombie.finish(grant, who="zombie") for grant in old))
    assert {result.verdict for result in late} == {pb.VERDICT_STALE_ATTEMPT}
    on_time = await asyncio.gather(*(other.finish(grant, who="other") for grant in new))
    assert {result.verdict for result in on_time} == {pb.VERDICT_ACCEPTED}
    for now in await asyncio.gather(*(job_of(rig, grant.job.job_id) for grant in new)):
        assert (now.attempt, dict(now.result)) == (2, {"who": "other"})


async def test_a_draining_worker_is_granted_nothing_not_even_what_it_gives_back(
    rig: Rig, worker: NewWorker
) -> None:
    leaving = await worker("leaving").hello()
    kit = await create(rig, pb.NewJob(job_type=DOE, max_attempts=1))
    (grant,) = await leaving.granted()
    held = (grant.job.job_id, 1)
    told = [pb.AttemptProgress(job_id=held[0], attempt=held[1])]
    await leaving.say(heartbeat=pb.Heartbeat(attempts=told, draining=True))
    await leaving.say(release=pb.Release(job_id=held[0], attempt=1, reason="shuts down"))
    await until_given_back(rig, kit)
    await create(rig, pb.NewJob(job_type=DOE))
    for _ in range(5):
        await leaving.beat()
        await asyncio.sleep(0.1)
    assert len(leaving.grants) == 1
    given_back = await job_of(rig, held[0])
    assert (given_back.status, given_back.reason) == (common.STATUS_QUEUED, "shuts down")
    other = await worker("other").hello()
    assert (await other.granted())[0].job.attempt == 2


async def test_what_a_draining_worker_holds_at_its_end_is_queued_again_uncounted(
    rig: Rig, worker: NewWorker
) -> None:
    leaving = await worker("leaving").hello()
    kit = await create(rig, pb.NewJob(job_type=DOE, max_attempts=1))
    await leaving.granted()
    await leaving.say(heartbeat=pb.Heartbeat(draining=True))
    await leaving.call.done_writing()
    await until_given_back(rig, kit)
    await until(lambda: leaving.ended is not None)
    assert leaving.ended == grpc.StatusCode.OK
    assert (await job_of(rig, kit.jobs[0].job_id)).reason == "the worker shut down"


async def test_a_worker_that_has_closed_its_side_is_granted_nothing_more(
    rig: Rig, worker: NewWorker
) -> None:
    silent = await worker("silent", capacity=5).hello()
    await silent.call.done_writing()
    await until(lambda: silent.ended is not None)
    kit = await create(rig, pb.NewJob(job_type=DOE))
    await worker("other").hello()
    for _ in range(1200):
        if (await job_of(rig, kit.jobs[0].job_id)).status == common.STATUS_RUNNING:
            break
        await asyncio.sleep(0.05)
    now = await job_of(rig, kit.jobs[0].job_id)
    assert (now.worker, now.attempt, silent.grants) == ("other", 1, [])


async def until_given_back(rig: Rig, kit: pb.Kit, *, seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while (job := await job_of(rig, kit.jobs[0].job_id)).status != common.STATUS_QUEUED:
        assert time.monotonic() < give_up, f"not given back: {job}"
        await asyncio.sleep(0.02)


async def test_a_canceled_attempt_is_told_to_its_worker_before_it_asks(
    told: Rig, worker: NewWorker
) -> None:
    w = await worker(at=told).hello()
    kit = await create(told, pb.NewJob(job_type=DOE))
    (grant,) = await w.granted()
    await told.stub.CancelKit(pb.CancelKitRequest(kit_id=kit.kit_id, reason="wrong deck"))
    await until(lambda: bool(w.directives))
    assert w.directives == [
        pb.Directive(
            job_id=grant.job.job_id, attempt=1, action=pb.ACTION_CANCEL, reason="wrong deck"
        )
    ]


async def test_a_cancel_by_another_replica_reaches_the_worker(
    rig: Rig, worker: NewWorker, beside: Rig
) -> None:
    w = await worker().hello()
    await create(rig, pb.NewJob(job_type=DOE))
    (grant,) = await w.granted()
    await beside.stub.CancelJob(pb.CancelJobRequest(job_id=grant.job.job_id, reason="no"))
    await until(lambda: bool(w.directives))
    assert w.directives[0].action == pb.ACTION_CANCEL


async def test_a_cancel_while_the_worker_was_away_is_told_when_it_is_back(
    rig: Rig, worker: NewWorker
) -> None:
    w = await worker().hello()
    await create(rig, pb.NewJob(job_type=DOE))
    (grant,) = await w.granted()
    await w.leave()
    await rig.stub.CancelJob(pb.CancelJobRequest(job_id=grant.job.job_id, reason="no"))
    await w.hello((grant.job.job_id, 1))
    await until(lambda: bool(w.directives))
    assert [(d.attempt, d.action) for d in w.directives] == [(1, pb.ACTION_CANCEL)]


async def test_a_released_attempt_is_queued_again_and_counts_only_if_said(
    rig: Rig, worker: NewWorker
) -> None:
    w = await worker().hello()
    await create(rig, pb.NewJob(job_type=DOE, max_attempts=1))
    for attempt in (1, 2, 3):
        grant = (await w.granted(attempt))[-1]
        assert grant.job.attempt == attempt
        release = pb.Release(job_id=grant.job.job_id, attempt=attempt, reason="leaving")
        release.counts = attempt == 3
        await w.say(release=release)
    for _ in range(1200):
        job = await job_of(rig, w.grants[0].job.job_id)
        if job.status == common.STATUS_FAILED:
            break
        await asyncio.sleep(0.05)
    assert job.status == common.STATUS_FAILED
    assert "leaving" in job.reason
    assert len(w.grants) == 3


async def test_a_worker_cannot_give_back_what_another_holds(rig: Rig, worker: NewWorker) -> None:
    holder = await worker("holder").hello()
    await create(rig, pb.NewJob(job_type=DOE))
    (grant,) = await holder.granted()
    job_id = grant.job.job_id
    other = await worker("other", TRAIN).hello()
    await other.say(release=pb.Release(job_id=job_id, attempt=1, counts=True))
    # Its own word after the release is served after it, so the release is over by then.
    await create(rig, pb.NewJob(job_type=TRAIN))
    (own,) = await other.granted()
    await other.say(release=pb.Release(job_id=own.job.job_id, attempt=1))
    await other.granted(2)
    job = await job_of(rig, job_id)
    assert (job.status, job.attempt, job.worker) == (common.STATUS_RUNNING, 1, "holder")
    assert (await holder.finish(grant)).verdict == pb.VERDICT_ACCEPTED


async def test_of_two_sessions_of_one_name_the_newer_wins(rig: Rig, worker: NewWorker) -> None:
    old = await worker("same").hello()
    new = await worker("same").hello()
    await until(lambda: old.ended is not None)
    assert old.ended == grpc.StatusCode.FAILED_PRECONDITION
    await create(rig, pb.NewJob(job_type=DOE))
    await new.granted()
    assert old.grants == []


async def test_two_replicas_grant_every_job_once(start: Start, worker: NewWorker) -> None:
    rig, other = await start(lease_seconds=60.0), await start(lease_seconds=60.0)
    workers = [
        await worker(f"w{n}", DOE, capacity=20, at=at).hello() for n, at in enumerate((rig, other))
    ]
    for _ in range(5):
        await create(rig, *(pb.NewJob(name=f"j{n}", job_type=DOE) for n in range(4)))
    await until(lambda: sum(len(w.grants) for w in workers) >= 20)
    await asyncio.sleep(0.3)
    granted = [grant.job.job_id for w in workers for grant in w.grants]
    assert len(granted) == len(set(granted)) == 20


async def test_an_attempt_that_runs_on_long_after_its_timeout_is_taken_away(
    rig: Rig, worker: NewWorker
) -> None:
    w = await worker().hello()
    timeout = duration_pb2.Duration(nanos=500_000_000)
    await create(rig, pb.NewJob(job_type=DOE, timeout=timeout, max_attempts=1))
    (grant,) = await w.granted()
    began = time.monotonic()
    while not w.directives and time.monotonic() - began < 60:
        await w.beat((grant.job.job_id, 1))
        await asyncio.sleep(0.2)
    job = await job_of(rig, grant.job.job_id)
    assert job.status == common.STATUS_FAILED
    assert "timeout" in job.reason


async def test_a_draining_registry_ends_the_stream_and_keeps_the_lease(
    start: Start, worker: NewWorker
) -> None:
    rig = await start(lease_seconds=60.0)
    w = await worker(at=rig).hello()
    await create(rig, pb.NewJob(job_type=DOE))
    await w.granted()
    rig.drain()
    await until(lambda: w.ended is not None)
    assert w.ended == grpc.StatusCode.OK
    async with await psycopg.AsyncConnection.connect(rig.dsn) as connection:
        cursor = await connection.execute("SELECT worker, attempt FROM vistadb_test.leases")
        assert await cursor.fetchall() == [("w1", 1)]


@pytest.mark.parametrize(
    ("hello", "field"),
    [
        (pb.WorkerHello(worker="-x", job_types=[DOE], capacity=1), "hello.worker"),
        (pb.WorkerHello(worker="w", capacity=1), "hello.job_types"),
        (pb.WorkerHello(worker="w", job_types=[0], capacity=1), "hello.job_types[0]"),
        (pb.WorkerHello(worker="w", job_types=[DOE], capacity=1001), "hello.capacity"),
        (
            pb.WorkerHello(
                worker="w", job_types=[DOE], capacity=1, running=[pb.AttemptRef(job_id="x")]
            ),
            "hello.running[0].job_id",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_malformed_hello_is_refused_with_its_field(
    rig: Rig, hello: pb.WorkerHello, field: str
) -> None:
    call = rig.stub.LeaseJobs()
    await call.write(pb.LeaseJobsRequest(hello=hello))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in (refused.value.details() or "")


async def test_a_worker_that_does_not_introduce_itself_is_refused(rig: Rig) -> None:
    call = rig.stub.LeaseJobs()
    await call.write(pb.LeaseJobsRequest(heartbeat=pb.Heartbeat()))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
