"""Writers and watchers for the tests: each keeps a history that `watch_checker.judge` judges."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from google.protobuf import struct_pb2
from watch_checker import Message, Seen

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub

if TYPE_CHECKING:
    from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceAsyncStub

AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


def key_of(state: common.State) -> tuple[object, ...]:
    """What a row is, whatever its place."""
    return (state.job_id, state.attempt, state.seq, state.task_name, state.status)


def seen(state: common.State) -> Seen:
    """A row for the checker."""
    return Seen(state.revision, key_of(state), (state.job_id, state.task_name))


async def external_job(
    stub: RegistryServiceAsyncStub, *, labels: dict[str, str] | None = None, job_type: int = 2
) -> tuple[int, str]:
    """A kit with one external job that is RUNNING; its id and the job's."""
    request = pb.CreateKitRequest(
        request_id=str(uuid.uuid4()),
        name="traffic",
        labels=labels or {},
        jobs=[pb.NewJob(name="work", job_type=job_type)],
    )
    kit = (await stub.CreateKit(request)).kit
    job_id = kit.jobs[0].job_id
    started = await stub.AppendStates(
        pb.AppendStatesRequest(states=[common.State(job_id=job_id, status=common.STATUS_RUNNING)])
    )
    assert started.results[0].verdict == pb.VERDICT_ACCEPTED, started
    return kit.kit_id, job_id


@dataclass
class Writer:
    """Appends rows of tasks to one job and remembers what was acknowledged."""

    stub: RegistryServiceAsyncStub
    job_id: str
    seed: int = 0
    sizes: Sequence[int] = (1, 1, 1, 1, 5, 20)
    metadata: str = ""
    appends: list[list[Seen]] = field(default_factory=list)
    seq: int = 0
    retry_count: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    @property
    def row_count(self) -> int:
        return sum(map(len, self.appends))

    def next_rows(self, size: int) -> list[common.State]:
        states = []
        for _ in range(size):
            self.seq += 1
            state = common.State(
                job_id=self.job_id,
                task_name=f"task-{self._chance.randrange(20)}",
                status=common.STATUS_RUNNING,
                attempt=1,
                seq=self.seq,
            )
            if self.metadata:
                state.metadata.CopyFrom(
                    struct_pb2.Struct(fields={"note": struct_pb2.Value(string_value=self.metadata)})
                )
            states.append(state)
        return states

    async def append(self, size: int, *, patience: float = 0.0) -> None:
        """Appends rows; a repeat after a lost connection is the same append."""
        states = self.next_rows(size)
        end = time.monotonic() + patience
        while True:
            try:
                answer = await self.stub.AppendStates(
                    pb.AppendStatesRequest(states=states), timeout=60
                )
                break
            except grpc.aio.AioRpcError as error:
                if error.code() not in AWAY or time.monotonic() > end:
                    raise
                self.retry_count += 1
                await asyncio.sleep(0.05)
        for result in answer.results:
            assert result.verdict in (pb.VERDICT_ACCEPTED, pb.VERDICT_DUPLICATE), result
        self.appends.append(
            [
                Seen(result.revision, key_of(state), (state.job_id, state.task_name))
                for state, result in zip(states, answer.results, strict=True)
            ]
        )

    async def write_until(self, over: Callable[[], bool], *, patience: float = 0.0) -> None:
        while not over():
            await self.append(self._chance.choice(self.sizes), patience=patience)


@dataclass
class Watcher:
    """Watches and remembers every message."""

    stub: RegistryServiceAsyncStub
    after: int = 0
    filter: pb.StateFilter | None = None
    interval: float = 1.0
    snapshot: bool = False
    messages: list[Message] = field(default_factory=list)
    responses: list[pb.WatchStatesResponse] = field(default_factory=list)
    keep_responses: bool = False
    at: int = -1
    resume_count: int = 0
    row_count: int = 0
    folded_count: int = 0
    mode: pb.WatchMode.ValueType = pb.WATCH_MODE_UNSPECIFIED
    include_left: bool = False
    snapshot_if_expired: bool = False

    def __post_init__(self) -> None:
        if self.at < 0:
            self.at = self.after

    async def events(self) -> AsyncIterator[pb.WatchStatesResponse]:
        call = self.stub.WatchStates(self.request())
        try:
            async for response in call:
                self.note(response)
                yield response
        finally:
            call.cancel()

    def request(self) -> pb.WatchStatesRequest:
        """What it asks for now."""
        request = pb.WatchStatesRequest(
            after_revision=self.at,
            include_snapshot=self.snapshot,
            mode=self.mode,
            include_left=self.include_left,
            snapshot_if_expired=self.snapshot_if_expired,
        )
        if self.filter is not None:
            request.filter.CopyFrom(self.filter)
        request.progress_interval.FromNanoseconds(int(self.interval * 1e9))
        return request

    def note(self, response: pb.WatchStatesResponse) -> None:
        kind = response.WhichOneof("event")
        assert kind is not None
        rows = response.delta.states if kind == "delta" else ()
        left = response.delta.left if kind == "delta" else ()
        if self.keep_responses:
            self.responses.append(response)
        self.row_count += len(rows)
        self.folded_count += response.delta.folded_count
        self.messages.append(
            Message(
                kind=kind,
                revision=response.revision,
                rows=tuple(map(seen, rows)),
                left=tuple(map(seen, left)),
                folded=response.delta.folded_count,
                at=time.monotonic(),
            )
        )
        self.at = max(self.at, response.revision)

    async def watch_until(self, over: Callable[[], bool], *, patience: float | None = None) -> None:
        """Watches until `over` and, with patience, connects again when the stream breaks."""
        while not over():
            try:
                async for _ in self.events():
                    if over():
                        return
            except grpc.aio.AioRpcError as error:
                if patience is None or error.code() not in AWAY:
                    raise
                await asyncio.sleep(0.05)
            self.resumed()

    def resumed(self) -> None:
        self.resume_count += 1
        self.messages.append(Message(kind="resume", revision=self.at, at=time.monotonic()))

    def got(self, kind: str) -> bool:
        """Whether a message of this kind came."""
        return any(message.kind == kind for message in self.messages)

    async def catch_up(self, revision: int, *, seconds: float = 120.0) -> None:
        """Watches until everything up to a revision was delivered."""
        async with asyncio.timeout(seconds):
            if self.at < revision:
                await self.watch_until(lambda: self.at >= revision)


async def until(happened: Callable[[], bool], *, seconds: float = 120.0) -> None:
    """Waits until something has happened; a machine that others use, too, may take its time."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"it did not happen within {seconds} s"
        await asyncio.sleep(0.01)


def appends_of(writers: Iterable[Writer]) -> list[list[Seen]]:
    return [append for writer in writers for append in writer.appends]


def head_of(writers: Iterable[Writer]) -> int:
    return max(row.revision for append in appends_of(writers) for row in append)


def connect(address: str) -> tuple[grpc.aio.Channel, RegistryServiceAsyncStub]:
    """A channel of its own: equal channels would share one connection."""
    channel = grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", 64 * 1024 * 1024),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ],
    )
    return channel, RegistryServiceStub(channel)  # type: ignore[return-value]
