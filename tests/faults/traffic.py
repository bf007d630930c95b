"""The load of a run: clients that write in each way, read, and watch in each way, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.faults.cluster import Cluster
from tests.faults.readers import Reader
from tests.faults.watchers import Hopper, ManyWatcher, Watcher
from tests.faults.writers import Requester, RequestWriter, StreamWriter, Writer
from vistaflow.api.common.v1 import common_pb2 as common

CATCH_UP_SECONDS = 30.0
TYPES = (common.JOB_TYPE_DOE, common.JOB_TYPE_ML_TRAIN)
EVEN = {"side": "even"}
LEAVING = {"statuses": [common.STATUS_RUNNING], "include_left": True}


class Traffic:
    """All the clients of a run.

    Args:
        cluster: What they call.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._count = 0
        self._writing_over = asyncio.Event()
        self._watching_over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._hopping: list[asyncio.Task[None]] = []
        self._watching: list[asyncio.Task[None]] = []
        kinds = (Writer, Writer, RequestWriter, StreamWriter, StreamWriter)
        self.writers = [self._made(kind, f"writer-{n}") for n, kind in enumerate(kinds)]
        self.requester = self._made(Requester, "requester")
        self.readers = [self._made(Reader, f"reader-{n}") for n in range(2)]
        self.hoppers = [self._made(Hopper, f"hopper-{n}") for n in range(2)]
        self.watchers: list[Watcher] = []
        self.many = self._made(ManyWatcher, "many")

    def _made(self, kind: type[Any], name: str) -> Any:
        """A client; each begins at another replica."""
        addresses = self._cluster.addresses
        at = self._count % len(addresses)
        self._count += 1
        turned = addresses[at:] + addresses[:at]
        return kind(self._cluster.record(name), turned, self._cluster.seed)

    def _watchers(self, prefix: str, wanted: Sequence[dict[str, Any]]) -> list[Watcher]:
        made = []
        for number, each in enumerate(wanted):
            watcher = self._made(Watcher, f"{prefix}-{number}")
            watcher.begin(**each)
            made.append(watcher)
        return made

    async def begin(self) -> None:
        """Everybody goes to work."""
        for number, writer in enumerate(self.writers):
            await writer.begin(TYPES[number % 2], EVEN if number % 2 == 0 else {"side": "odd"})
            assert writer.kit_id, "no kit could be made though nothing is broken yet"
        for reader in self.readers:
            reader.writers = self.writers
        for hopper in self.hoppers:
            hopper.near = lambda: max(writer.last_revision for writer in self.writers)
        one_kit = {"kit_ids": [self.writers[0].kit_id]}
        self.watchers = self._watchers(
            "watcher",
            (
                {},
                {},
                one_kit,
                {"job_types": [TYPES[1]]},
                {"statuses": [common.STATUS_QUEUED]},
                LEAVING,
                {"labels": EVEN},
                {"latest": True},
            ),
        )
        self.many.watchers = self._watchers(
            "many",
            ({}, {"latest": True, **one_kit}, {**LEAVING, "labels": EVEN}, {"labels": EVEN}),
        )
        writing: list[Writer | Requester | Reader] = [*self.writers, self.requester, *self.readers]
        self._tasks = [asyncio.create_task(c.run(self._writing_over.is_set)) for c in writing]
        over = self._watching_over.is_set
        self._hopping = [asyncio.create_task(each.run(over)) for each in self.hoppers]
        self._watching = [
            asyncio.create_task(each.run(over)) for each in (*self.watchers, self.many)
        ]

    async def end_writing(self) -> None:
        """Writers and readers end."""
        self._writing_over.set()
        await asyncio.gather(*self._tasks)

    async def end(self) -> dict[str, float]:
        """Watchers see everything that there is; what it came to."""
        head = int(str(self._cluster.stored()[-1]["revision"]))
        self._watching_over.set()
        await asyncio.gather(*self._watching, *self._hopping)
        await asyncio.gather(
            *(watcher.catch_up(head, CATCH_UP_SECONDS) for watcher in self.watchers),
            self.many.catch_up(head, CATCH_UP_SECONDS),
        )
        watchers = [*self.watchers, *self.many.watchers]
        clients = [
            *(*self.writers, self.requester, *self.readers, *self.hoppers),
            *(*watchers, self.many),
        ]
        for client in clients:
            await client.close()
        return {
            "appends": sum(writer.acked_count for writer in self.writers),
            "acked": len(set().union(*(writer.acked_rows for writer in self.writers))),
            "rows": head,
            "delivered": sum(each.row_count for each in (*watchers, *self.hoppers)),
            "resumes": sum(watcher.resume_count for watcher in watchers),
            "hops": sum(hopper.hop_count for hopper in self.hoppers),
            "kits": self.requester.made_count,
            "reads": sum(reader.read_count for reader in self.readers),
        }
