"""Clients that append: one call at a time, repeated as whole requests, or over a stream."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from tests.faults.client import BROKEN, OP_SECONDS, SILENCE_SECONDS, Client, shown_key
from tests.faults.work import Work
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb

TAKEN = ("ACCEPTED", "DUPLICATE")
PATIENCE_SECONDS = 30.0
STREAM_PAUSE_SECONDS = 0.05
MOST_UNACKED = 6


class Writer(Client):
    """Appends rows of tasks to a job, and begins another attempt of it now and then.

    A call without an answer is made again; the `seq` of its rows tells that it is the same.
    """

    numbered = True
    sizes: tuple[int, ...] = (1, 1, 1, 1, 5, 20)
    kit_id = 0
    first_revision = 0
    last_revision = 0
    acked_count = 0
    work: Work
    _kit_count = 0
    _stuck = False
    """Whether it no longer knows what its job is in."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.acked_rows: set[int] = set()

    async def begin(self, job_type: common.JobType.ValueType, labels: dict[str, str]) -> None:
        """Makes a kit with the job it appends to; tries another later if nobody answers."""
        self._begun_with = (job_type, labels)
        self._kit_count += 1
        self._stuck = True
        request = pb.CreateKitRequest(
            request_id=self.request_id(),
            name=f"of {self.recorder.client}, {self._kit_count}",
            labels=labels,
            jobs=[pb.NewJob(name="work", job_type=job_type)],
        )
        end = time.monotonic() + PATIENCE_SECONDS
        made = await self.insist(lambda: self.stub.CreateKit(request, timeout=5), end)
        if made is None:
            return
        self._stuck = False
        job_id = made.kit.jobs[0].job_id
        self.kit_id, self.first_revision = made.kit.kit_id, made.revision
        self.work = Work(job_id, self.chance, numbered=self.numbered)
        running = common.State(job_id=job_id, status=common.STATUS_RUNNING, attempt=1)
        await self.append([running], request_id=self.request_id())

    async def run(self, over: Callable[[], bool]) -> None:
        while not over():
            if await self._renewed():
                await self._write(over)

    async def _renewed(self) -> bool:
        """Begins another kit or attempt if that is due; whether it may write."""
        if self._stuck:
            await self.begin(*self._begun_with)
        elif self.work.is_large:
            await self.append(self.work.next_attempt(), request_id=self.request_id())
        return not self._stuck

    async def _write(self, over: Callable[[], bool]) -> None:
        await self.append(self.work.rows(self.chance.choice(self.sizes)))
        await asyncio.sleep(0.001)

    async def append(self, states: list[common.State], *, request_id: str = "") -> None:
        """Appends, and records what became of it."""
        start = time.monotonic()
        request = pb.AppendStatesRequest(states=states, request_id=request_id)
        answer = await self.insist(
            lambda: self.stub.AppendStates(request, timeout=OP_SECONDS), start + PATIENCE_SECONDS
        )
        self.told(states, start, answer.results if answer is not None else None, request_id)

    def told(
        self, states: list[common.State], start: float, results: Any, request_id: str = ""
    ) -> None:
        """Records an append; results of None: nobody knows."""
        told: dict[str, Any] = {"start": start, "rows": [shown_key(state) for state in states]}
        if request_id:
            told["request"] = request_id
        if results is None:
            self._stuck = True
            self.recorder.note("append", **told, outcome="unknown")
            return
        shown = [
            [pb.Verdict.Name(each.verdict).removeprefix("VERDICT_"), each.revision]
            for each in results
        ]
        self.recorder.note("append", **told, outcome="answered", results=shown)
        self._stuck = self._stuck or any(verdict not in TAKEN for verdict, _ in shown)
        self.acked_count += 1
        self.acked_rows.update(revision for verdict, revision in shown if verdict in TAKEN)
        self.last_revision = max([self.last_revision, *(revision for _, revision in shown)])


class RequestWriter(Writer):
    """Appends rows that have no `seq`, each request several times at once."""

    numbered = False

    async def _write(self, over: Callable[[], bool]) -> None:
        states = self.work.rows(self.chance.choice(self.sizes))
        request_id = self.request_id()
        copies = self.chance.choice((1, 2, 3))
        await asyncio.gather(*(self.append(states, request_id=request_id) for _ in range(copies)))


class StreamWriter(Writer):
    """Appends over StreamStates, several messages in flight.

    What a stream that broke did not acknowledge is sent again on another.
    """

    sizes = (1, 5, 20, 50)
    _begun_with: tuple[common.JobType.ValueType, dict[str, str]]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._unacked: deque[tuple[list[common.State], float]] = deque()

    async def run(self, over: Callable[[], bool]) -> None:
        await super().run(over)
        # What was sent shall be acknowledged.
        end = time.monotonic() + PATIENCE_SECONDS
        while self._unacked and not self._stuck and time.monotonic() < end:
            await self._write(lambda: True)
        self._give_up()

    async def _renewed(self) -> bool:
        if self._stuck:
            self._give_up()
        elif self._unacked:
            return True
        return await super()._renewed()

    def _give_up(self) -> None:
        while self._unacked:
            self.told(*self._unacked.popleft(), None)

    async def _write(self, over: Callable[[], bool]) -> None:
        call = self.stub.StreamStates()
        try:
            await self._stream(call, over)
        except BROKEN as error:
            self.recorder.note("failure", detail=str(error)[:200])
            await asyncio.sleep(self.chance.uniform(0.02, 0.1))
            await self.elsewhere()
        finally:
            call.cancel()

    async def _stream(self, call: Any, over: Callable[[], bool]) -> None:
        """One stream, until there is a reason to end it."""
        unsent = deque(states for states, _ in self._unacked)
        number = credit = 0
        while not self._stuck:
            ending = over() or self.work.is_large
            if not unsent and len(self._unacked) < MOST_UNACKED and not ending:
                states = self.work.rows(self.chance.choice(self.sizes))
                self._unacked.append((states, time.monotonic()))
                unsent.append(states)
                await asyncio.sleep(STREAM_PAUSE_SECONDS)
            if ending and not self._unacked:
                return
            async with asyncio.timeout(SILENCE_SECONDS):
                if unsent and credit >= len(unsent[0]):
                    number += 1
                    credit -= len(unsent[0])
                    states = unsent.popleft()
                    await call.write(pb.StreamStatesRequest(number=number, states=states))
                    continue
                message = await call.read()
            if message is grpc.aio.EOF:
                await self.elsewhere()
                return
            if message.HasField("credit"):
                credit += message.credit.row_count
            else:
                self.told(*self._unacked.popleft(), message.ack.results)


class Requester(Client):
    """Makes kits, each request several times at once."""

    made_count = 0

    async def run(self, over: Callable[[], bool]) -> None:
        number = 0
        while not over():
            number += 1
            request = pb.CreateKitRequest(
                request_id=self.request_id(),
                name=f"{self.recorder.client} {number}",
                jobs=[pb.NewJob(name="work", job_type=common.JOB_TYPE_DOE)],
            )
            copies = self.chance.choice((1, 2, 3))
            await asyncio.gather(*(self._make(request) for _ in range(copies)))
            await asyncio.sleep(self.chance.uniform(0.0, 0.1))

    async def _make(self, request: pb.CreateKitRequest) -> None:
        start = time.monotonic()
        made = await self.insist(
            lambda: self.stub.CreateKit(request, timeout=OP_SECONDS), start + PATIENCE_SECONDS
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
        )
