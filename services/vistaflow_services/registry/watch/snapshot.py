"""The current rows with which a watch may begin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import NamedTuple

import psycopg

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import ExhaustedError
from vistaflow_services.core.message_limits import ENTRY_BYTES, MEBIBYTE
from vistaflow_services.core.tasks import ended
from vistaflow_services.registry.database.refusals import error_for
from vistaflow_services.registry.domain import Kit, StateFilter, StateRow
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.watch.store import WatchStore

# Rows read at a time.
SNAPSHOT_ROWS = 100
# Rows and bytes of a message, at most.
PART_ROWS = 1000
PART_BYTES = MEBIBYTE
# Seconds for which a snapshot stays open for a watcher that does not read.
SNAPSHOT_PATIENCE_SECONDS = 30.0


class SnapshotPage(NamedTuple):
    """A message of a snapshot."""

    message: pb.WatchStatesResponse
    last: bool
    epoch: str
    """The log's name at that moment."""


class SnapshotReader:
    """Reads snapshots for watches.

    Args:
        store: Reads the rows.
        readers: Number of snapshots at once.
    """

    def __init__(self, store: WatchStore, *, readers: int) -> None:
        self._store = store
        self._readers = asyncio.Semaphore(readers)

    async def read(self, matching: StateFilter) -> AsyncGenerator[SnapshotPage, None]:
        """The current rows, as they were at the revision of the last message."""
        pages: asyncio.Queue[SnapshotPage] = asyncio.Queue(maxsize=2)
        # In a task of its own: a watcher that does not read must not keep the transaction open,
        # because PostgreSQL cannot remove dead rows of any table meanwhile.
        pump = asyncio.create_task(self._pump(matching, pages))
        try:
            last = False
            while not last:
                ready = asyncio.create_task(pages.get())
                await asyncio.wait({ready, pump}, return_when=asyncio.FIRST_COMPLETED)
                if pump.done() and pump.exception() is not None:
                    ready.cancel()
                    await pump
                page = await ready
                last = page.last
                yield page
        finally:
            await ended([pump])

    async def _pump(self, matching: StateFilter, pages: asyncio.Queue[SnapshotPage]) -> None:
        """Reads a snapshot into a queue; gives up if the queue stays full for too long."""
        try:
            async with self._readers, self._store.snapshot() as snapshot:
                sent: set[int] = set()
                parts = _Parts()
                async for rows in snapshot.rows(matching, SNAPSHOT_ROWS):
                    fresh = {row.kit_id for row in rows} - sent
                    sent |= fresh
                    for message in parts.add(rows, await snapshot.kits(fresh) if fresh else ()):
                        async with asyncio.timeout(SNAPSHOT_PATIENCE_SECONDS):
                            await pages.put(SnapshotPage(message, False, snapshot.epoch))
                message = parts.last
                # Only in the last message: a watcher without the whole snapshot has nothing yet.
                message.revision = snapshot.revision
        except TimeoutError:
            raise ExhaustedError(
                "the snapshot was not read in time; narrow the filter", reason="SLOW_WATCHER"
            ) from None
        except psycopg.Error as error:
            raise error_for(error) from error
        await pages.put(SnapshotPage(message, True, snapshot.epoch))


class _Parts:
    """The messages of a snapshot. Each is full; a kit is in the message with its first row."""

    def __init__(self) -> None:
        self.last = pb.WatchStatesResponse(snapshot=pb.Snapshot())
        """The message that is not full yet."""
        self._size = 0

    def add(
        self, rows: Iterable[StateRow], kits: Iterable[Kit]
    ) -> Iterator[pb.WatchStatesResponse]:
        """Adds rows, and the kits of which they are the first; returns the full messages."""
        fresh = {kit.kit_id: kit for kit in kits}
        for row in rows:
            state = translate.state_to_proto(row)
            new_kit = fresh.pop(row.kit_id, None)
            kit = None if new_kit is None else translate.kit_to_proto(new_kit)
            size = state.ByteSize() + (0 if kit is None else kit.ByteSize()) + 2 * ENTRY_BYTES
            full = len(self.last.snapshot.states) == PART_ROWS or self._size + size > PART_BYTES
            if full and self._size:
                yield self.last
                self.last, self._size = pb.WatchStatesResponse(snapshot=pb.Snapshot()), 0
            self._size += size
            self.last.snapshot.states.append(state)
            if kit is not None:
                self.last.snapshot.kits.append(kit)
