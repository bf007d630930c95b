"""Any history of kits, jobs and attempts, held against a model of the contract."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import threading
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow_services.core.errors import ConflictError, ExistsError
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.domain import Head, StateRow
from vistaflow_services.registry.log.board import Board
from vistaflow_services.registry.log.draft import Draft

sys.path.insert(0, str(Path(__file__).parent))

from model import Job, Model, Refused

STATUSES = ("INIT", "QUEUED", "RUNNING", "FINISHED", "FAILED", "CANCELED")
MANY = int(os.environ.get("VISTAFLOW_MODEL_EXAMPLES", "300"))
"""How many histories the long form plays."""

# Names, what they wait for, whether they are external, attempts.
SHAPES = (
    (("a", (), True, 3), ("b", ("a",), False, 2), ("c", ("a", "b"), True, 3)),
    (("a", (), False, 1), ("b", (), False, 3), ("c", ("a", "b"), False, 1)),
    (("a", (), True, 3), ("b", ("a",), True, 3), ("c", ("b",), True, 3), ("d", (), False, 2)),
)


def to_row(row: StateRow) -> tuple[Any, ...]:
    return (row.revision, row.kit_id, row.job_id, row.task_name, str(row.status), row.attempt)


def of_state(state: common.State) -> tuple[Any, ...]:
    status = common.Status.Name(state.status).removeprefix("STATUS_")
    job_id = uuid.UUID(state.job_id)
    return (state.revision, state.kit_id, job_id, state.task_name, status, state.attempt)


class InMemory:
    """The rules alone: each command is committed by itself, nothing is stored."""

    def __init__(self) -> None:
        self.board = Board()
        self.head = Head(
            last_id=0, last_kit_id=0, epoch=uuid.uuid4(), commit_id=uuid.uuid4(), oldest_id=1
        )
        self.seqs: dict[tuple[uuid.UUID, int, int], int] = {}
        self.rows: list[StateRow] = []
        self.answers: dict[uuid.UUID, tuple[str, Any]] = {}

    def submit(self, command: c.Command) -> Any:
        draft = Draft(self.board, self.head, self.seqs)
        answer = draft.apply(command)
        draft.settle(datetime(2026, 1, 1, tzinfo=UTC))
        self.board.adopt(draft)
        for row in draft.rows:
            if row.seq:
                self.seqs[row.job_id, row.attempt, row.seq] = row.revision
        self.rows += draft.rows
        self.head = Head(
            last_id=draft.last_id,
            last_kit_id=draft.last_kit_id,
            epoch=self.head.epoch,
            commit_id=uuid.uuid4(),
            oldest_id=1,
        )
        return answer

    @property
    def last_revision(self) -> int:
        return self.head.last_id

    def rows_after(self, revision: int) -> list[tuple[Any, ...]]:
        return [to_row(row) for row in self.rows if row.revision > revision]

    def close(self) -> None:
        """Holds nothing."""


class Served:
    """A registry on PostgreSQL, in a loop of its own; what is read comes over gRPC."""

    def __init__(self, serve: Callable[[str], Any], database: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._serving = serve(database)
        self._registry = self.run(self._serving.__aenter__())
        self._channel, self.stub = self.run(self._connected())

    async def _connected(self) -> tuple[grpc.aio.Channel, Any]:
        channel = grpc.aio.insecure_channel(self._registry.address)
        stub: Any = RegistryServiceStub(channel)
        return channel, stub

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def submit(self, command: c.Command) -> Any:
        return self.run(self._registry.ledger.submit(command))

    def call(self, method: str, request: Any) -> Any:
        async def ask() -> Any:
            return await getattr(self.stub, method)(request, timeout=120)

        return self.run(ask())

    @property
    def last_revision(self) -> int:
        return int(self._registry.ledger.head)

    def rows_after(self, revision: int) -> list[tuple[Any, ...]]:
        head = self.last_revision
        if revision == head:
            return []
        asked = pb.ListStatesRequest(after_revision=revision, min_revision=head)
        return [of_state(state) for state in self.call("ListStates", asked).states]

    def watched(self, after: int) -> list[tuple[Any, ...]]:
        """The past as a watch tells it."""

        async def watch() -> list[tuple[Any, ...]]:
            found: list[tuple[Any, ...]] = []
            call = self.stub.WatchStates(pb.WatchStatesRequest(after_revision=after), timeout=120)
            async for message in call:
                found += map(of_state, message.delta.states)
                if message.HasField("synced"):
                    break
            call.cancel()
            return found

        return self.run(watch())

    def close(self) -> None:
        async def end() -> None:
            await self._channel.close()
            await self._serving.__aexit__(None, None, None)

        self.run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Histories(RuleBasedStateMachine):
    """Does the same to a registry and to the model, and looks whether they agree."""

    made: InMemory | Served

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.asked: dict[uuid.UUID, c.Append] = {}

    @initialize()
    def begin(self) -> None:
        self.first = self.made.submit(c.CreateKit(name="first", jobs=())).kit.kit_id
        self.start = self.model.head = self.made.last_revision

    # What is done.

    @rule(shape=st.sampled_from(SHAPES))
    def create(self, shape: Any) -> None:
        assume(len(self.model.kits) < 4)
        jobs = [(uuid.uuid4(), *rest) for rest in shape]
        command = c.CreateKit(
            name="kit",
            jobs=tuple(
                c.NewJob(
                    job_id=job_id,
                    name=name,
                    job_type="DOE",
                    current_order=0,
                    depends_on=needs,
                    external=external,
                    spec=b"" if external else b"x",
                    spec_type="" if external else "a/b",
                    max_attempts=most,
                )
                for job_id, name, needs, external, most in jobs
            ),
        )
        kit = self.made.submit(command).kit
        self.model.create(kit.kit_id, jobs)

    @rule(
        which=st.integers(0, 99),
        items=st.lists(
            st.tuples(
                st.sampled_from(["", "", "t", "u"]),
                st.sampled_from(STATUSES),
                st.sampled_from([0, 0, 0, -1, 1]),
                st.integers(0, 3),
                st.booleans(),
            ),
            min_size=1,
            max_size=3,
        ),
        known=st.booleans(),
    )
    def append(self, which: int, items: Any, known: bool) -> None:
        job = self.job(which)
        said = tuple(
            c.Item(
                job_id=job.job_id,
                status=status,
                task_name=task,
                attempt=0 if left_out else max(0, job.attempt + shift),
                seq=seq,
            )
            for task, status, shift, seq, left_out in items
        )
        request_id = uuid.uuid4() if known else None
        command = c.Append(items=said, request=self.request(request_id, said))
        answer = self.made.submit(command)
        expected = [
            self.model.append(job, item.task_name, item.status, item.attempt, item.seq)
            for item in said
        ]
        assert [(str(each.verdict), each.revision) for each in answer.results] == expected
        if request_id is not None:
            self.model.answers[request_id] = expected
            self.asked[request_id] = command

    @rule(which=st.integers(0, 99))
    def go_on(self, which: int) -> None:
        """So that some jobs come far: a queued one runs, a running one ends."""
        job = self.job(which)
        if job.status == "QUEUED" and not job.external:
            self.grant(which)
        elif job.status in ("QUEUED", "RUNNING"):
            status = "RUNNING" if job.status == "QUEUED" else "FINISHED"
            attempt = 0 if job.external else job.attempt
            item = c.Item(job_id=job.job_id, status=status, attempt=attempt)
            (told,) = self.made.submit(c.Append(items=(item,))).results
            assert (str(told.verdict), told.revision) == self.model.append(
                job, "", status, attempt, 0
            )

    @rule(which=st.integers(0, 99), other=st.booleans())
    def repeat(self, which: int, other: bool) -> None:
        assume(self.asked and isinstance(self.made, Served))
        request_id = list(self.asked)[which % len(self.asked)]
        command = self.asked[request_id]
        if other:
            request = self.request(request_id, ("another body",))
            with pytest.raises(ExistsError):
                self.made.submit(c.Append(items=command.items, request=request))
            return
        answer = self.made.submit(command)
        assert isinstance(answer, c.Replayed)
        assert answer.response == encoded(self.model.answers[request_id])

    @rule(which=st.integers(0, 99))
    def grant(self, which: int) -> None:
        job = self.job(which)
        granted = self.made.submit(c.Grant(job_id=job.job_id, worker="w", lease_seconds=3600))
        assert (granted is not None) == self.model.grant(job)
        if granted is not None:
            assert granted.job.attempt == job.attempt

    @rule(which=st.integers(0, 99), back=st.integers(0, 1))
    def lose(self, which: int, back: int) -> None:
        job = self.job(which)
        attempt = job.attempt - back
        told = self.made.submit(c.Lose(job_id=job.job_id, attempt=attempt, worker="w"))
        assert told == self.model.lose(job, attempt)

    @rule(which=st.integers(0, 99), back=st.integers(0, 1), counts=st.booleans())
    def release(self, which: int, back: int, counts: bool) -> None:
        job = self.job(which)
        attempt = job.attempt - back
        command = c.Release(job_id=job.job_id, attempt=attempt, worker="w", counts=counts)
        assert self.made.submit(command) == self.model.release(job, attempt, counts=counts)

    @rule(
        which=st.integers(0, 99),
        what=st.sampled_from(
            ["cancel", "retry", "cancel kit", "retry kit", "retry kit", "pause", "resume"]
        ),
    )
    def change(self, which: int, what: str) -> None:
        job = self.job(which)
        kit_id, job_id = job.kit_id, job.job_id
        commands: dict[str, tuple[c.Command, Callable[[], None]]] = {
            "cancel": (c.CancelJob(job_id=job_id), lambda: self.model.cancel([job])),
            "retry": (c.RetryJob(job_id=job_id), lambda: self.model.retry([job])),
            "cancel kit": (
                c.CancelKit(kit_id=kit_id),
                lambda: self.model.cancel(self.model.of_kit(kit_id)),
            ),
            "retry kit": (
                c.RetryKit(kit_id=kit_id),
                lambda: self.model.retry(self.model.of_kit(kit_id)),
            ),
            "pause": (c.PauseKit(kit_id=kit_id), lambda: self.model.pause(kit_id)),
            "resume": (c.ResumeKit(kit_id=kit_id), lambda: self.model.resume(kit_id)),
        }
        command, change = commands[what]
        try:
            change()
        except Refused:
            with pytest.raises(ConflictError):
                self.made.submit(command)
        else:
            self.made.submit(command)

    # What must hold.

    @rule(which=st.integers(0, 99))
    def get(self, which: int) -> None:
        assume(isinstance(self.made, Served))
        kit_id = self.job(which).kit_id
        asked = pb.GetKitRequest(kit_id=kit_id, min_revision=self.model.head)
        kit = self.made.call("GetKit", asked).kit
        told = {uuid.UUID(job.job_id): word(job.status) for job in kit.jobs}
        assert told == {job.job_id: job.status for job in self.model.of_kit(kit_id)}
        for job in kit.jobs:
            held = self.model.jobs[uuid.UUID(job.job_id)]
            assert job.attempt == held.attempt
            assert {task.task_name: word(task.status) for task in job.tasks} == held.tasks
        assert kit.paused == (self.model.paused[kit_id] > 0)

    @rule(which=st.integers(0, 99), back=st.integers(0, 30))
    def get_as_it_was(self, which: int, back: int) -> None:
        assume(isinstance(self.made, Served))
        kit_id = self.job(which).kit_id
        first = next(row[0] for row in self.model.rows if row[1] == kit_id)
        at = max(first + len(self.model.kits[kit_id]) - 1, self.model.head - back)
        kit = self.made.call("GetKit", pb.GetKitRequest(kit_id=kit_id, as_of_revision=at)).kit
        told = {uuid.UUID(job.job_id): (word(job.status), job.attempt) for job in kit.jobs}
        assert told == self.model.statuses(kit_id, at)

    @rule(statuses=st.sets(st.sampled_from(STATUSES), min_size=1))
    def list_jobs(self, statuses: set[str]) -> None:
        assume(self.model.kits and isinstance(self.made, Served))
        asked = pb.ListJobsRequest(
            kit_ids=list(self.model.kits),
            statuses=[common.Status.Value(f"STATUS_{each}") for each in statuses],
            min_revision=self.model.head,
        )
        told = {uuid.UUID(job.job_id) for job in self.made.call("ListJobs", asked).jobs}
        assert told == {key for key, job in self.model.jobs.items() if job.status in statuses}

    @rule(back=st.integers(0, 50))
    def watch(self, back: int) -> None:
        assume(isinstance(self.made, Served))
        after = max(self.start, self.model.head - back)
        assert self.made.watched(after) == [row for row in self.model.rows if row[0] > after]

    @invariant()
    def the_rows_are_the_same(self) -> None:
        seen = getattr(self, "seen", None)
        if seen is None:
            self.seen = self.model.head if hasattr(self, "start") else None
            return
        expected = [row for row in self.model.rows if row[0] > seen]
        assert self.made.rows_after(seen) == expected
        self.seen = self.model.head

    def job(self, which: int) -> Job:
        assume(self.model.jobs)
        return list(self.model.jobs.values())[which % len(self.model.jobs)]

    def request(self, request_id: uuid.UUID | None, body: Any) -> c.Request | None:
        if request_id is None:
            return None
        return c.Request(
            request_id=request_id,
            method="AppendStates",
            body_sha256=hashlib.sha256(repr(body).encode()).hexdigest(),
            data_json="{}",
            encode=lambda answer: encoded(
                [(str(each.verdict), each.revision) for each in answer.results]
            ),
        )


def encoded(results: list[tuple[str, int]]) -> bytes:
    return repr(results).encode()


def word(status: common.Status.ValueType) -> str:
    return common.Status.Name(status).removeprefix("STATUS_")


def play(make: Callable[[], InMemory | Served], *, examples: int, steps: int) -> None:
    shared = make()

    class Made(Histories):
        def __init__(self) -> None:
            super().__init__()
            self.made = InMemory() if isinstance(shared, InMemory) else shared

    try:
        run(
            Made,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        shared.close()


def test_the_rules_do_what_the_model_does() -> None:
    play(InMemory, examples=60, steps=50)


def test_a_registry_does_what_the_model_does(serve: Any, database: str) -> None:
    play(lambda: Served(serve, database), examples=6, steps=50)


@pytest.mark.slow
def test_a_registry_does_what_the_model_does_in_many_histories(serve: Any, database: str) -> None:
    play(lambda: Served(serve, database), examples=MANY, steps=50)


@pytest.mark.slow
def test_the_rules_do_what_the_model_does_in_many_histories() -> None:
    play(InMemory, examples=2_000, steps=50)
