"""Kits in memory, kept up to date with the log, for GetKit and GetJob.

A kit is read from the database once, in one snapshot, and from then on follows the rows that the
hub publishes, so an answer is exactly as new as the hub. A kit leaves the cache when a row does not
say all that changed; the next call reads it again. The cache weighs the rows and metadata of its
kits and drops those read longest ago when it holds too much.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from vistaflow_services.core import off_loop
from vistaflow_services.core.lru import Lru
from vistaflow_services.registry.domain import Kit, Progress, StateRow
from vistaflow_services.registry.log.hub import Hub
from vistaflow_services.registry.reads.trees import Tree

CACHE_BYTES = 32 * 1024 * 1024
PROGRESS_SECONDS = 0.5
"""How old the progress of running jobs may be; workers tell theirs once a second at most."""

INLINE_BYTES = 32 * 1024
"""Longest spec of which the wire form is made in the event loop."""

INLINE_TASKS = 1_000
"""Most tasks of which a tree is built in the event loop."""

PART_OF_CACHE = 2
"""A kit that takes more than this part of the cache is not held: one half."""

MAX_LARGE = 1_000
"""How many kits are remembered as too large for the cache."""


class KitSource(Protocol):
    """Where kits are read from."""

    async def kit(self, kit_id: int) -> tuple[Kit | None, int]:
        """A kit with jobs and tasks, and the revision up to which that is complete."""

    async def kit_of(self, job_id: uuid.UUID) -> int | None:
        """The kit of a job."""

    async def progress(
        self, job_ids: Sequence[uuid.UUID]
    ) -> Mapping[tuple[uuid.UUID, int], Progress]:
        """The latest progress of running jobs, by job and attempt."""


class KitCache:
    """The kits read lately.

    Args:
        hub: Whose rows it follows.
        source: Where a kit that is not held is read.
        max_bytes: About how much memory it may take.
        progress_seconds: How old the progress of a running job may be.
        fresh: Whether the hub is known to be near the end of the log. While it is not, as when
            the database does not answer, nothing is answered from memory.
    """

    def __init__(
        self,
        hub: Hub,
        source: KitSource,
        *,
        max_bytes: int = CACHE_BYTES,
        progress_seconds: float = PROGRESS_SECONDS,
        fresh: Callable[[], bool] = lambda: True,
    ) -> None:
        self._hub = hub
        self._source = source
        self._progress_seconds = progress_seconds
        self._fresh = fresh
        self._trees: Lru[int, Tree] = Lru(max_bytes, on_evict=self._evicted)
        """Weighed in bytes."""
        self._kit_of: dict[uuid.UUID, int] = {}
        self._large: Lru[int, bool] = Lru(MAX_LARGE)
        self._reading: dict[int, asyncio.Task[Tree | None]] = {}
        self.hit_count = 0
        """Reads answered from memory."""
        self.miss_count = 0
        """Reads that had to ask the database for the kit."""
        self.eviction_count = 0
        """Kits that were dropped to make room."""
        self.drop_count = 0
        """Kits that were dropped because a row did not say all that changed."""
        hub.listen(self.advance, self.clear)

    def __len__(self) -> int:
        return len(self._trees)

    @property
    def bytes(self) -> int:
        """About how much memory is taken."""
        return self._trees.weight

    @property
    def max_bytes(self) -> int:
        """About how much memory may be taken."""
        return self._trees.most

    @property
    def fresh(self) -> bool:
        """Whether the hub is known to be near the end of the log."""
        return self._fresh()

    async def kit(self, kit_id: int) -> tuple[Tree, int] | None:
        """The kit and the revision up to which it is complete; None: ask the database.

        The tree is to be used before anything else is awaited.
        """
        if not self.fresh or kit_id in self._large:
            return None
        tree = self._trees.get(kit_id)
        if tree is None:
            self.miss_count += 1
            tree = await self._read(kit_id)
            if tree is None:
                return None
        else:
            self.hit_count += 1
        if not await self._encode(tree) or not await self._tell_progress(tree):
            return None
        return tree, max(tree.read_at, self._hub.head)

    async def job(self, job_id: uuid.UUID) -> tuple[Tree, int] | None:
        """The kit of a job, as `kit` has it."""
        kit_id = self._kit_of.get(job_id)
        if kit_id is None:
            if not self.fresh:
                return None
            kit_id = await self._source.kit_of(job_id)
            if kit_id is None:
                return None
        answer = await self.kit(kit_id)
        # A job that came later than the kit was read has dropped the kit.
        return answer if answer is not None and job_id in answer[0] else None

    def advance(self, rows: Sequence[StateRow]) -> None:
        """Follows rows of the log, which come in order and without gaps."""
        if not self._trees:
            return
        grew = False
        for row in rows:
            tree = self._trees.peek(row.kit_id)
            if tree is None:
                continue
            if tree.apply(row):
                self._trees.reweigh(row.kit_id, tree.size)
                grew = True
            else:
                self.drop(row.kit_id)
        if grew:
            self._trees.trim()

    def clear(self) -> None:
        """Drops every kit: rows were missed."""
        for kit_id in list(self._trees):
            self.drop(kit_id)

    def drop(self, kit_id: int) -> None:
        """Drops a kit that changed in a way that no row says."""
        tree = self._trees.pop(kit_id)
        if tree is not None:
            self._forget_jobs(tree)
            self.drop_count += 1

    async def _read(self, kit_id: int) -> Tree | None:
        """Reads a kit, once for all calls that need it at the same time."""
        reading = self._reading.get(kit_id)
        if reading is None:
            reading = self._reading[kit_id] = asyncio.create_task(self._fill(kit_id))
            reading.add_done_callback(lambda _: self._reading.pop(kit_id, None))
        return await asyncio.shield(reading)

    async def _fill(self, kit_id: int) -> Tree | None:
        kit, revision = await self._source.kit(kit_id)
        if kit is None:
            return None
        if sum(len(job.tasks) for job in kit.jobs.values()) > INLINE_TASKS:
            tree = await off_loop.reading.do(Tree, kit, revision)
        else:
            tree = Tree(kit, revision)
        # Before it is asked for as a whole, and with everyone else's work in between.
        for _ in tree.encode():
            await asyncio.sleep(0)
        if len(kit.spec_json) > INLINE_BYTES:
            await off_loop.reading.do(tree.spec_bytes)
        if tree.size > self.max_bytes // PART_OF_CACHE:
            self._large.put(kit_id, True)
            return None
        tree.progress_at = time.monotonic()
        # What was published while it was read.
        missed = self._hub.rows_after(revision)
        if missed is None or not all(tree.apply(row) for row in missed if row.kit_id == kit_id):
            return None
        self._kit_of.update(dict.fromkeys(tree.job_ids, kit_id))
        self._trees.put(kit_id, tree, tree.size)
        return tree

    async def _encode(self, tree: Tree) -> bool:
        """Makes the wire form of the rows that came since; False if the tree has left meanwhile."""
        before = tree.size
        for _ in tree.encode():
            await asyncio.sleep(0)
        if self._trees.peek(tree.kit_id) is not tree:
            return False
        if tree.size != before:
            self._trees.reweigh(tree.kit_id, tree.size)
        return True

    async def _tell_progress(self, tree: Tree) -> bool:
        """Brings progress up to date; False if the tree has left meanwhile."""
        leased = tree.leased()
        now = time.monotonic()
        if leased and now - tree.progress_at >= self._progress_seconds:
            progress_by_attempt = await self._source.progress(leased)
            tree.put_progress(progress_by_attempt)
            tree.progress_at = now
        return self._trees.peek(tree.kit_id) is tree

    def _evicted(self, _kit_id: int, tree: Tree) -> None:
        self._forget_jobs(tree)
        self.eviction_count += 1

    def _forget_jobs(self, tree: Tree) -> None:
        for job_id in tree.job_ids:
            self._kit_of.pop(job_id, None)
