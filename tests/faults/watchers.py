"""Clients that watch: one stream each, many watches on one stream, and from here and there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from tests.faults.client import BROKEN, SILENCE_SECONDS, Client, shown_key, word
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb

INTERVAL_SECONDS = 0.5
HOP_SECONDS = (0.01, 0.4)
HOP_ROWS = 100


class Watcher(Client):
    """Watches, and resumes wherever the stream broke or fell silent."""

    at = 0
    row_count = 0
    resume_count = 0
    epoch = ""

    def begin(self, *, latest: bool = False, include_left: bool = False, **wanted: Any) -> None:
        """Says what it wants.

        Args:
            latest: Whether of rows that wait only the latest of each task is sent.
            include_left: Whether it is told of rows by which something leaves the filter.
            wanted: kit_ids, job_types, statuses and labels, all as the proto has them.
        """
        self._request = pb.WatchStatesRequest(
            filter=pb.StateFilter(**wanted),
            include_left=include_left,
            mode=pb.WATCH_MODE_LATEST_PER_TASK if latest else pb.WATCH_MODE_EVERY_ROW,
        )
        self._request.progress_interval.FromNanoseconds(int(INTERVAL_SECONDS * 1e9))
        words: dict[str, Any] = {
            "kit_ids": wanted.get("kit_ids", []),
            "job_types": [
                common.JobType.Name(each).removeprefix("JOB_TYPE_")
                for each in wanted.get("job_types", [])
            ],
            "statuses": [word(each) for each in wanted.get("statuses", [])],
            "labels": wanted.get("labels", {}),
        }
        self.recorder.note("watch", after=0, filter=words, latest=latest, include_left=include_left)

    def request(self) -> pb.WatchStatesRequest:
        """What it asks for now."""
        self._request.after_revision = self.at
        self._request.epoch = self.epoch
        return self._request

    async def run(self, over: Callable[[], bool]) -> None:
        while not over():
            try:
                await self._watch(over)
            except BROKEN as error:
                self.broken(error)
            if over():
                return
            self.resumed()
            await asyncio.sleep(self.chance.uniform(0.02, 0.1))
            await self.elsewhere()

    def broken(self, error: BaseException) -> None:
        """Records why a stream broke; of another log than it knew, it goes on without a word."""
        self.recorder.note("failure", detail=str(error)[:200])
        if isinstance(error, grpc.aio.AioRpcError) and (
            error.code() is grpc.StatusCode.FAILED_PRECONDITION
        ):
            self.epoch = ""

    def resumed(self) -> None:
        self.resume_count += 1
        self.recorder.note("message", kind="resume", revision=self.at, rows=[])

    async def _watch(self, over: Callable[[], bool]) -> None:
        call = self.stub.WatchStates(self.request())
        try:
            while not over():
                async with asyncio.timeout(SILENCE_SECONDS):
                    response = await call.read()
                if response is grpc.aio.EOF:
                    return
                self.note(response)
        finally:
            call.cancel()

    def note(self, response: pb.WatchStatesResponse) -> None:
        """Records a message."""
        kind = response.WhichOneof("event")
        told: dict[str, Any] = {"rows": []}
        if kind == "delta":
            told["rows"] = shown_rows(response.delta.states)
            if response.delta.left:
                told["left"] = shown_rows(response.delta.left)
            if response.delta.folded_count:
                told["folded"] = response.delta.folded_count
            self.row_count += len(response.delta.states) + len(response.delta.left)
        elif kind == "synced":
            self.epoch = response.synced.epoch
        self.recorder.note("message", kind=kind, revision=response.revision, **told)
        self.at = max(self.at, response.revision)

    async def catch_up(self, head: int, seconds: float) -> None:
        """Goes on until everything is delivered, and says so if that does not happen."""
        end = time.monotonic() + seconds
        await self.run(lambda: self.at >= head or time.monotonic() > end)
        self.caught_up(head)

    def caught_up(self, head: int) -> None:
        """Records whether everything up to the head was delivered."""
        self.recorder.note("caught_up" if self.at >= head else "left_behind", revision=self.at)


def shown_rows(states: Sequence[common.State]) -> list[list[Any]]:
    return [[state.revision, shown_key(state)] for state in states]


class ManyWatcher(Client):
    """Several watchers on one stream of WatchMany; now and then one closes and opens again."""

    watchers: Sequence[Watcher] = ()

    async def run(self, over: Callable[[], bool]) -> None:
        while not over():
            call = self.stub.WatchMany()
            try:
                await self._watch(call, over)
            except BROKEN as error:
                for watcher in self.watchers:
                    watcher.broken(error)
            finally:
                call.cancel()
            if over():
                return
            for watcher in self.watchers:
                watcher.resumed()
            await asyncio.sleep(self.chance.uniform(0.02, 0.1))
            await self.elsewhere()

    async def _watch(self, call: Any, over: Callable[[], bool]) -> None:
        named = {watcher.recorder.client: watcher for watcher in self.watchers}
        for name, watcher in named.items():
            await call.write(open_watch(name, watcher))
        closing: str = ""
        while not over():
            async with asyncio.timeout(SILENCE_SECONDS):
                message = await call.read()
            if message is grpc.aio.EOF:
                return
            watcher = named[message.name]
            if not message.event.HasField("end"):
                watcher.note(message.event)
            elif message.event.end.code != pb.END_REASON_CLOSED:
                watcher.recorder.note("failure", detail=message.event.end.reason)
                if message.event.end.code == pb.END_REASON_EPOCH_CHANGED:
                    watcher.epoch = ""
                return
            else:
                closing = ""
                watcher.resumed()
                await call.write(open_watch(message.name, watcher))
            if not closing and self.chance.random() < 0.01:
                closing = self.chance.choice(list(named))
                await call.write(pb.WatchManyRequest(close=pb.CloseWatch(name=closing)))

    async def catch_up(self, head: int, seconds: float) -> None:
        """Goes on until everything is delivered to all."""
        end = time.monotonic() + seconds
        await self.run(
            lambda: all(each.at >= head for each in self.watchers) or time.monotonic() > end
        )
        for watcher in self.watchers:
            watcher.caught_up(head)


def open_watch(name: str, watcher: Watcher) -> pb.WatchManyRequest:
    return pb.WatchManyRequest(open=pb.OpenWatch(name=name, watch=watcher.request()))


class Hopper(Client):
    """Watches for a moment from somewhere near the head, over and over.

    Args:
        near: Some revision that was acknowledged lately.
    """

    near: Callable[[], int]
    row_count = 0
    hop_count = 0

    async def run(self, over: Callable[[], bool]) -> None:
        while not over():
            after = max(0, self.near() + self.chance.randint(-HOP_ROWS, HOP_ROWS))
            start = time.monotonic()
            try:
                await self._hop(after, start)
            except BROKEN as error:
                code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "SILENCE"
                self.recorder.note("unhopped", after=after, start=start, code=code)
                if code != "OUT_OF_RANGE":
                    await asyncio.sleep(self.chance.uniform(0.02, 0.1))
                    await self.elsewhere()

    async def _hop(self, after: int, start: float) -> None:
        self.hop_count += 1
        self.recorder.note("hop", after=after)
        call = self.stub.WatchStates(pb.WatchStatesRequest(after_revision=after))
        end = start + self.chance.uniform(*HOP_SECONDS)
        try:
            while time.monotonic() < end:
                try:
                    async with asyncio.timeout(end - time.monotonic()):
                        response = await call.read()
                except TimeoutError:
                    return
                if response is grpc.aio.EOF:
                    return
                states = response.delta.states if response.HasField("delta") else ()
                self.row_count += len(states)
                self.recorder.note("hopped", revision=response.revision, rows=shown_rows(states))
        finally:
            call.cancel()
