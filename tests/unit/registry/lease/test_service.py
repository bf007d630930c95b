"""Who is granted what, and who loses it: the decisions of leasing, without database or clock."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.unit.registry.log.test_draft import Log, new  # type: ignore[import-not-found]
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import ConflictError, ExhaustedError, UnavailableError
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.domain import Status
from vistaflow_services.registry.lease import service as leases
from vistaflow_services.registry.lease import session as lease_session
from vistaflow_services.registry.lease.service import LeaseService
from vistaflow_services.registry.lease.store import CurrentAttempt, HeldLease, Sign
from vistaflow_services.registry.log.hub import Hub

DOE = 2
ANSWERED = 5.0


@dataclass
class Leased:
    """A log in memory with the leases beside it, whose time passes by hand."""

    hub: Hub
    log: Log = field(default_factory=Log)
    now: float = 0.0
    ends: dict[uuid.UUID, tuple[int, str, float]] = field(default_factory=dict)
    """The attempt, the worker and the end of each lease."""
    extended: int = 0
    done: list[c.Command] = field(default_factory=list)

    async def submit(self, command: Any) -> Any:
        await asyncio.sleep(0)
        told = len(self.log.rows)
        answer = self.log.do(command)
        self.done.append(command)
        if isinstance(command, c.Grant) and answer is not None:
            end = self.now + command.lease_seconds
            self.ends[command.job_id] = (answer.job.attempt, command.worker, end)
        for row in self.log.rows[told:]:
            if not row.task_name and row.status != Status.RUNNING:
                self.ends.pop(row.job_id, None)
        self.hub.publish(self.log.rows[told:])
        return answer

    def _jobs(self) -> Iterable[Any]:
        for kit_id in range(1, self.log.head.last_kit_id + 1):
            yield from self.log.board.kit(kit_id).jobs.values()

    async def queued_jobs(self, job_types: Collection[str], limit: int) -> list[Any]:
        queued = [
            (job.job_id, job.job_type)
            for job in self._jobs()
            if job.status == Status.QUEUED and not job.external and job.job_type in job_types
        ]
        return queued[:limit]

    async def renew(self, worker: str, signs: Iterable[Sign], seconds: float) -> set[Any]:
        renewed = set()
        for sign in signs:
            held = self.ends.get(sign.job_id)
            if held is not None and held[:2] == (sign.attempt, worker):
                self.ends[sign.job_id] = (*held[:2], self.now + seconds)
                renewed.add((sign.job_id, sign.attempt))
        return renewed

    async def extend_leases(self, seconds: float) -> None:
        self.extended += 1
        for job_id, (attempt, worker, _) in self.ends.items():
            self.ends[job_id] = (attempt, worker, self.now + seconds)

    async def expired_leases(self, grace: float) -> list[HeldLease]:
        return [
            HeldLease(job_id=job_id, attempt=attempt, worker=worker)
            for job_id, (attempt, worker, end) in self.ends.items()
            if end <= self.now
        ]

    async def leases_of(self, worker: str) -> list[HeldLease]:
        return [
            HeldLease(job_id=job_id, attempt=attempt, worker=worker)
            for job_id, (attempt, holder, _) in self.ends.items()
            if holder == worker
        ]

    async def current_attempts(
        self, job_ids: Collection[uuid.UUID]
    ) -> dict[uuid.UUID, CurrentAttempt]:
        return {
            job.job_id: CurrentAttempt(
                job_id=job.job_id, status=job.status, attempt=job.attempt, reason=job.reason
            )
            for job in self._jobs()
            if job.job_id in job_ids
        }


class Worker:
    """A worker's end of a session."""

    def __init__(self, service: LeaseService, name: str, capacity: int) -> None:
        self.name = name
        self.grants: list[pb.Grant] = []
        self.directives: list[pb.Directive] = []
        self.error: Exception | None = None
        self._service = service
        self._capacity = capacity
        self._said: asyncio.Queue[pb.LeaseJobsRequest | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def hello(self, *running: tuple[uuid.UUID, int]) -> Worker:
        refs = [pb.AttemptRef(job_id=str(job), attempt=attempt) for job, attempt in running]
        hello = pb.WorkerHello(
            worker=self.name, job_types=[DOE], capacity=self._capacity, running=refs
        )
        self.say(hello=hello)
        self._task = asyncio.create_task(self._listen())
        await until(lambda: self.error or self.name in self._service._sessions)
        return self

    def say(self, **message: Any) -> None:
        self._said.put_nowait(pb.LeaseJobsRequest(**message))

    def beat(self, *running: tuple[uuid.UUID, int], **told: Any) -> None:
        attempts = [pb.AttemptProgress(job_id=str(job), attempt=number) for job, number in running]
        self.say(heartbeat=pb.Heartbeat(attempts=attempts, **told))

    def end(self) -> None:
        self._said.put_nowait(None)

    async def leave(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _requests(self) -> AsyncIterator[pb.LeaseJobsRequest]:
        while (message := await self._said.get()) is not None:
            yield message

    async def _listen(self) -> None:
        try:
            async with contextlib.aclosing(self._service.session(self._requests())) as messages:
                async for message in messages:
                    if message.HasField("grant"):
                        self.grants.append(message.grant)
                    elif message.HasField("directive"):
                        self.directives.append(message.directive)
        except Exception as error:
            self.error = error


class House:
    """Leasing with all that it needs."""

    def __init__(self, *, lease_seconds: float = 10.0) -> None:
        hub = Hub(0)
        self.log = Leased(hub)
        self.service = LeaseService(
            ledger=self.log,
            hub=hub,
            store=self.log,
            lease_seconds=lease_seconds,  # type: ignore[arg-type]
        )
        self.workers: list[Worker] = []

    def worker(self, name: str, capacity: int = 1) -> Worker:
        self.workers.append(Worker(self.service, name, capacity))
        return self.workers[-1]

    async def kit(self, *names: str, **fields: Any) -> list[uuid.UUID]:
        """The ids of new jobs, in one kit."""
        jobs = tuple(new(name, **fields) for name in names)
        await self.log.submit(c.CreateKit(name="kit", jobs=jobs))
        return [job.job_id for job in jobs]

    def job(self, job_id: uuid.UUID) -> Any:
        return self.log.log.job(job_id)


async def until(holds: Any) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """Leasing that looks for expired leases at every turn of the loop."""
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.0005)
    monkeypatch.setattr(leases, "RECLAIM_SECONDS", 0.0)
    made = House()
    running = asyncio.create_task(made.service.run())
    yield made
    for worker in made.workers:
        if worker._task is not None:
            await worker.leave()
    running.cancel()
    await asyncio.wait([running])


async def test_a_job_goes_to_the_worker_with_the_largest_share_free(house: House) -> None:
    large = await house.worker("large", 4).hello()
    small = await house.worker("small", 1).hello()
    await house.kit("a", "b", "c", "d")
    await until(lambda: len(large.grants) + len(small.grants) == 4)
    assert (len(large.grants), len(small.grants)) == (3, 1)


async def test_a_busy_worker_gets_nothing_while_another_is_idle(house: House) -> None:
    busy = await house.worker("busy", 4).hello()
    await house.kit("a", "b", "c")
    await until(lambda: len(busy.grants) == 3)
    idle = await house.worker("idle", 4).hello()
    for number in range(2):
        await house.kit("more")
        await until(lambda number=number: len(idle.grants) == number + 1)
    assert len(busy.grants) == 3


async def test_no_worker_gets_more_than_it_takes(house: House) -> None:
    worker = await house.worker("w", 2).hello()
    first, *_ = await house.kit("a", "b", "c")
    await until(lambda: len(worker.grants) == 2)
    worker.beat()
    await house.kit("d")
    assert len(worker.grants) == 2
    done = c.Item(job_id=first, status=Status.FINISHED, attempt=1)
    await house.log.submit(c.Append(items=(done,)))
    await until(lambda: len(worker.grants) == 3)


async def test_a_lease_that_nobody_renews_ends_and_one_that_is_renewed_does_not(
    house: House,
) -> None:
    silent, alive = await house.worker("silent").hello(), await house.worker("alive").hello()
    await house.kit("a", "b")
    await until(lambda: silent.grants and alive.grants)
    kept = uuid.UUID(alive.grants[0].job.job_id)
    lost = uuid.UUID(silent.grants[0].job.job_id)
    await silent.leave()
    house.log.now = 9.0
    alive.beat((kept, 1))
    await until(lambda: house.log.ends[kept][2] == 19.0)
    house.log.now = 10.0
    await until(lambda: house.job(lost).attempt == 1 and house.job(lost).status == Status.QUEUED)
    assert [type(each) for each in house.log.done[-1:]] == [c.Lose]
    assert (house.job(kept).status, house.job(kept).worker) == (Status.RUNNING, "alive")
    assert house.job(lost).failures == 1


async def test_leases_have_their_full_time_again_after_the_registry_could_not_look(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await house.worker("w").hello()
    (job_id,) = await house.kit("a")
    await until(lambda: worker.grants)
    expired, extended = house.log.expired_leases, house.log.extended

    async def away(grace: float) -> list[HeldLease]:
        house.log.now += 100.0  # time goes on meanwhile
        monkeypatch.setattr(house.log, "expired_leases", expired)
        raise UnavailableError("the database restarts")

    monkeypatch.setattr(house.log, "expired_leases", away)
    await until(lambda: house.log.extended > extended)
    assert house.log.ends[job_id][2] == 110.0
    assert house.job(job_id).status == Status.RUNNING


async def test_a_canceled_attempt_is_told_once_and_a_finished_one_not_at_all(house: House) -> None:
    worker = await house.worker("w", 2).hello()
    canceled, finished = await house.kit("a", "b")
    await until(lambda: len(worker.grants) == 2)
    done = c.Item(job_id=finished, status=Status.FINISHED, attempt=1)
    await house.log.submit(c.Append(items=(done,)))
    await house.log.submit(c.CancelJob(job_id=canceled, reason="no"))
    worker.beat((canceled, 1), (finished, 1))
    # A heartbeat of what it does not hold is answered too, after those.
    worker.beat((uuid.UUID(int=7), 1))
    await until(lambda: any(each.job_id == str(uuid.UUID(int=7)) for each in worker.directives))
    told = [(each.job_id, each.action) for each in worker.directives]
    assert set(told) == {
        (str(canceled), pb.ACTION_CANCEL),
        (str(uuid.UUID(int=7)), pb.ACTION_ABANDON),
    }


async def test_what_comes_back_without_its_attempt_loses_it_and_only_then_counts(
    house: House,
) -> None:
    worker = await house.worker("w").hello()
    (job_id,) = await house.kit("a", max_attempts=2)
    await until(lambda: worker.grants)
    await worker.leave()
    await worker.hello()  # it never heard of the first
    await until(lambda: len(worker.grants) == 2)
    assert (house.job(job_id).attempt, house.job(job_id).failures) == (2, 0)
    worker.beat((job_id, 2))
    await until(lambda: house.service._confirmed.get(job_id) == 2)
    await worker.leave()
    await worker.hello()
    await until(lambda: house.job(job_id).failures == 1)


async def test_an_attempt_that_a_worker_still_runs_stays_its_own(house: House) -> None:
    worker = await house.worker("w").hello()
    (job_id,) = await house.kit("a")
    await until(lambda: worker.grants)
    await worker.leave()
    await worker.hello((job_id, 1))
    await house.worker("other").hello()
    await until(lambda: house.service._holders.get(job_id) is house.service._sessions["w"])
    house.log.now = 9.0
    worker.beat((job_id, 1))
    await until(lambda: house.log.ends[job_id][2] == 19.0)
    assert (house.job(job_id).attempt, worker.directives) == (1, [])


async def test_a_grant_that_was_not_sent_is_given_back_uncounted(house: House) -> None:
    worker = house.worker("w", 2)
    hello = pb.WorkerHello(worker="w", job_types=[DOE], capacity=2)
    worker.say(hello=hello)
    messages = house.service.session(worker._requests())
    assert (await anext(messages)).HasField("welcome")
    sent = asyncio.ensure_future(anext(messages))
    first, second = await house.kit("a", "b", max_attempts=1)
    assert (await sent).grant.job.job_id == str(first)
    await until(lambda: house.job(second).status == Status.RUNNING)
    await messages.aclose()
    await until(lambda: house.job(second).status == Status.QUEUED)
    told = "the worker left before it received the job"
    assert (house.job(second).reason, house.job(second).failures) == (told, 0)
    assert house.job(first).status == Status.RUNNING


async def test_a_draining_worker_gets_nothing_and_what_it_holds_is_given_back(
    house: House,
) -> None:
    worker = await house.worker("w", 3).hello()
    (held,) = await house.kit("a", max_attempts=1)
    await until(lambda: worker.grants)
    worker.beat((held, 1), draining=True)
    await until(lambda: house.service._sessions["w"].draining)
    (queued,) = await house.kit("b")
    worker.end()
    await until(lambda: house.job(held).status == Status.QUEUED)
    assert (house.job(held).reason, house.job(held).failures) == ("the worker shut down", 0)
    assert (house.job(queued).status, len(worker.grants)) == (Status.QUEUED, 1)


async def test_a_second_session_of_a_name_takes_the_place_of_the_first(house: House) -> None:
    first = await house.worker("same").hello()
    session = house.service._sessions["same"]
    second = await house.worker("same").hello()
    await until(lambda: first.error is not None)
    assert isinstance(first.error, ConflictError)
    assert first.error.reason == "WORKER_REPLACED"
    assert house.service._sessions["same"] is not session
    await house.kit("a")
    await until(lambda: second.grants)
    assert first.grants == []


async def test_a_worker_that_does_not_read_is_sent_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_session, "MAX_UNREAD", 3)
    worker = await house.worker("w").hello()
    session = house.service._sessions["w"]
    for number in range(5):
        session.direct(uuid.UUID(int=number), 1, pb.ACTION_ABANDON, "gone")
    await until(lambda: worker.error is not None)
    assert isinstance(worker.error, ExhaustedError)
