"""Clients that write, ask, read and watch for as long as a run lasts, and record all of it."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from tests.faults.history import Recorder
from tests.faults.reuse import connect, key_of
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb

OP_SECONDS = 2.0
READ_SECONDS = 6.0
INTERVAL_SECONDS = 0.5
SILENCE_SECONDS = 3.0
Answer = TypeVar("Answer")


def word(status: int) -> str:
    """A status as the log has it."""
    return common.Status.Name(status).removeprefix("STATUS_")


def shown_key(state: common.State) -> list[Any]:
    """`key_of` with words."""
    job_id, attempt, seq, task, status = key_of(state)
    return [job_id, attempt, seq, task, word(int(str(status)))]


class Client:
    """Calls one replica after another until one answers, and now and then another at will.

    Args:
        recorder: Where everything goes.
        addresses: The replicas; the first is tried first.
        seed: Of everything random.
    """

    def __init__(self, recorder: Recorder, addresses: Sequence[str], seed: str) -> None:
        self.recorder = recorder
        self.chance = random.Random(f"{seed} {recorder.client}")
        self.failure_count = 0
        self._addresses = list(addresses)
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def stub(self) -> Any:
        if self._stub is None:
            self._channel, self._stub = connect(self._addresses[0])
        return self._stub

    async def elsewhere(self) -> None:
        """Goes to the next replica, on a connection of its own."""
        self._addresses.append(self._addresses.pop(0))
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            # Other calls of this client may still be under way on it.
            closing = asyncio.create_task(channel.close(OP_SECONDS + 1))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()
        await asyncio.gather(*self._closing)

    async def insist(self, call: Callable[[], Awaitable[Answer]], until: float) -> Answer | None:
        """Repeats a call until it is answered; None when the time was over first."""
        while True:
            try:
                answer = await call()
                if len(self._addresses) > 1 and self.chance.random() < 0.02:
                    await self.elsewhere()
                return answer
            except grpc.aio.AioRpcError as error:
                self.failure_count += 1
                self.recorder.note("failure", code=error.code().name, detail=error.details())
                if error.code() not in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    grpc.StatusCode.CANCELLED,
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    grpc.StatusCode.UNKNOWN,
                    grpc.StatusCode.INTERNAL,
                ):
                    raise
            except (asyncio.CancelledError, grpc.aio.UsageError):
                raise
            if time.monotonic() > until:
                return None
            await asyncio.sleep(self.chance.uniform(0.02, 0.1))
            await self.elsewhere()


class Writer(Client):
    """Appends rows of tasks to a job; a repeat is the same append."""

    job_id = ""
    kit_id = 0
    seq = 0
    acked_count = 0
    last_revision = 0
    patience = 30.0

    async def begin(self, job_type: int, labels: dict[str, str]) -> None:
        request = pb.CreateKitRequest(
            request_id=str(uuid.UUID(int=self.chance.getrandbits(128), version=4)),
            name=f"of {self.recorder.client}",
            labels=labels,
            jobs=[pb.NewJob(name="work", job_type=job_type)],
        )
        end = time.monotonic() + self.patience
        made = await self.insist(lambda: self.stub.CreateKit(request, timeout=5), end)
        assert made is not None, "no kit could be made"
        self.kit_id, self.job_id = made.kit.kit_id, made.kit.jobs[0].job_id
        self.seq = 1
        await self.append(
            [
                common.State(
                    job_id=self.job_id, status=common.STATUS_RUNNING, attempt=1, seq=self.seq
                )
            ]
        )

    def next_rows(self) -> list[common.State]:
        states = []
        for _ in range(self.chance.choice((1, 1, 1, 1, 5, 20))):
            self.seq += 1
            states.append(
                common.State(
                    job_id=self.job_id,
                    task_name=f"task-{self.chance.randrange(20)}",
                    status=common.STATUS_RUNNING,
                    attempt=1,
                    seq=self.seq,
                )
            )
        return states

    async def append(self, states: list[common.State]) -> None:
        start = time.monotonic()
        request = pb.AppendStatesRequest(states=states)
        answer = await self.insist(
            lambda: self.stub.AppendStates(request, timeout=OP_SECONDS), start + self.patience
        )
        rows = [shown_key(state) for state in states]
        if answer is None:
            self.recorder.note("append", start=start, rows=rows, outcome="unknown")
            return
        results = [
            [pb.Verdict.Name(r.verdict).removeprefix("VERDICT_"), r.revision]
            for r in answer.results
        ]
        self.recorder.note("append", start=start, rows=rows, outcome="answered", results=results)
        self.acked_count += 1
        self.last_revision = max([self.last_revision, *(r[1] for r in results)])

    async def run(self, over: Callable[[], bool]) -> None:
        while not over():
            await self.append(self.next_rows())
            await asyncio.sleep(0.001)


class Requester(Client):
    """Makes kits, each request several times at once."""

    made_count = 0

    async def run(self, over: Callable[[], bool]) -> None:
        number = 0
        while not over():
            number += 1
            request = pb.CreateKitRequest(
                request_id=str(uuid.UUID(int=self.chance.getrandbits(128), version=4)),
                name=f"{self.recorder.client} {number}",
                jobs=[pb.NewJob(name="work", job_type=common.JOB_TYPE_DOE)],
            )
            copies = self.chance.choice((1, 2, 3))
            await asyncio.gather(*(self._make(request) for _ in range(copies)))
            await asyncio.sleep(self.chance.uniform(0.0, 0.05))

    async def _make(self, request: pb.CreateKitRequest) -> None:
        start = time.monotonic()
        made = await self.insist(
            lambda: self.stub.CreateKit(request, timeout=OP_SECONDS), start + 30
        )
        if made is None:
            self.recorder.note("create", start=start, name=request.name, outcome="unknown")
            return
        self.made_count += 1
        self.recorder.note(
            "create",
            start=start,
            name=request.name,
            outcome="answered",
            kit_id=made.kit.kit_id,
            revision=made.revision,
            replayed=made.replayed,
        )


class Reader(Client):
    """Reads the kits of writers, no older than what these were told."""

    writers: Sequence[Writer] = ()
    read_count = 0

    async def run(self, over: Callable[[], bool]) -> None:
        while not over():
            writer = self.chance.choice(self.writers)
            least = writer.last_revision if self.chance.random() < 0.5 else 0
            request = pb.GetKitRequest(kit_id=writer.kit_id, min_revision=least)
            start = time.monotonic()
            got = await self.insist(
                lambda request=request: self.stub.GetKit(request, timeout=READ_SECONDS), start + 30
            )
            told: dict[str, Any] = {"start": start, "min_revision": least, "outcome": "unknown"}
            if got is not None:
                self.read_count += 1
                jobs = {job.job_id: [word(job.status), job.attempt] for job in got.kit.jobs}
                told |= {"outcome": "answered", "revision": got.revision, "jobs": jobs}
            self.recorder.note("get", **told)
            await asyncio.sleep(0.02)


class Watcher(Client):
    """Watches, and resumes wherever the stream broke or fell silent."""

    at = 0
    row_count = 0
    resume_count = 0

    def begin(self, after: int = 0, **wanted: Any) -> None:
        """Says what it wants: kit_ids, job_types and statuses, all as the proto has them."""
        self.at = after
        self._filter = pb.StateFilter(**wanted)
        words: dict[str, Any] = {
            "kit_ids": wanted.get("kit_ids", []),
            "job_types": [
                common.JobType.Name(each).removeprefix("JOB_TYPE_")
                for each in wanted.get("job_types", [])
            ],
            "statuses": [word(each) for each in wanted.get("statuses", [])],
        }
        self.recorder.note("watch", after=after, filter=words)

    async def run(self, over: Callable[[], bool]) -> None:
        while not over():
            try:
                await self._watch(over)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                self.recorder.note("failure", detail=str(error)[:200])
            if over():
                return
            self.resume_count += 1
            self.recorder.note("message", kind="resume", revision=self.at, rows=[])
            await asyncio.sleep(self.chance.uniform(0.02, 0.1))
            await self.elsewhere()

    async def _watch(self, over: Callable[[], bool]) -> None:
        request = pb.WatchStatesRequest(after_revision=self.at, filter=self._filter)
        request.progress_interval.FromNanoseconds(int(INTERVAL_SECONDS * 1e9))
        call = self.stub.WatchStates(request)
        try:
            while not over():
                async with asyncio.timeout(SILENCE_SECONDS):
                    response = await call.read()
                if response is grpc.aio.EOF:
                    return
                self._note(response)
        finally:
            call.cancel()

    def _note(self, response: pb.WatchStatesResponse) -> None:
        kind = response.WhichOneof("event")
        states = response.delta.states if kind == "delta" else ()
        rows = [[state.revision, shown_key(state)] for state in states]
        self.row_count += len(rows)
        self.recorder.note("message", kind=kind, revision=response.revision, rows=rows)
        self.at = max(self.at, response.revision)

    async def catch_up(self, head: int, seconds: float) -> None:
        """Goes on until everything is delivered, and says so if that does not happen."""
        end = time.monotonic() + seconds
        await self.run(lambda: self.at >= head or time.monotonic() > end)
        self.recorder.note("caught_up" if self.at >= head else "left_behind", revision=self.at)
