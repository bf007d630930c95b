"""Clients that read: kits as they are and as they were, and pages of the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from tests.faults.client import Client, shown_key, word
from tests.faults.history import digest
from tests.faults.writers import Writer
from vistaflow.api.registry.v1 import registry_pb2 as pb

READ_SECONDS = 6.0
PAUSE_SECONDS = 0.02
MOST_PAGES = 4


class Reader(Client):
    """Reads what writers wrote, no older than what these were told."""

    writers: Sequence[Writer] = ()
    read_count = 0

    async def run(self, over: Callable[[], bool]) -> None:
        while not over():
            writer = self.chance.choice(self.writers)
            way = self.chance.random()
            if way < 0.1:
                await self._list(writer)
            elif way < 0.3:
                last = max(writer.first_revision, writer.last_revision)
                await self._get(writer, as_of=self.chance.randint(writer.first_revision, last))
            else:
                await self._get(writer)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _get(self, writer: Writer, *, as_of: int = 0) -> None:
        least = writer.last_revision if self.chance.random() < 0.5 else 0
        request = pb.GetKitRequest(kit_id=writer.kit_id, min_revision=least, as_of_revision=as_of)
        told: dict[str, Any] = {"kit": request.kit_id, "as_of": as_of, "min_revision": least}
        got = await self._read(told, lambda: self.stub.GetKit(request, timeout=READ_SECONDS))
        if got is not None:
            told["revision"] = got.revision
            told["jobs"] = {
                job.job_id: [
                    word(job.status),
                    job.attempt,
                    digest((task.task_name, task.revision) for task in job.tasks),
                ]
                for job in got.kit.jobs
            }
        self.recorder.note("get", **told)

    async def _list(self, writer: Writer) -> None:
        """A few pages of the log, of one kit or of all."""
        after = max(0, writer.last_revision - self.chance.randrange(1000))
        kits = self.chance.choice(([], [writer.kit_id]))
        request = pb.ListStatesRequest(
            page_size=self.chance.choice((1, 7, 50, 300)),
            after_revision=after,
            filter=pb.StateFilter(kit_ids=kits),
            min_revision=writer.last_revision,
        )
        told: dict[str, Any] = {
            "filter": {"kit_ids": kits}, "after": after, "min_revision": request.min_revision
        }  # fmt: skip
        rows: list[Any] = []
        for _ in range(MOST_PAGES):
            page = await self._read(
                told, lambda: self.stub.ListStates(request, timeout=READ_SECONDS)
            )
            if page is None:
                break
            rows += [[state.revision, shown_key(state)] for state in page.states]
            told |= {"revision": page.revision, "all": not page.next_page_token}
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        self.recorder.note("list", **told, rows=rows)

    async def _read(self, told: dict[str, Any], call: Callable[[], Any]) -> Any:
        """One read; what became of it goes into `told`."""
        start = time.monotonic()
        told.setdefault("start", start)
        told["outcome"] = "unknown"
        try:
            got = await self.insist(call, start + 30)
        except grpc.aio.AioRpcError as error:
            told |= {"outcome": "refused", "code": error.code().name}
            return None
        if got is not None:
            self.read_count += 1
            told["outcome"] = "answered"
        return got
